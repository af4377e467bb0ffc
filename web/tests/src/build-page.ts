/** Builds the page as an application does for itself: with the address of its own tokens. Once, before all tests. */

import { execFileSync } from 'node:child_process';

import { TOKEN_PATH } from './application.js';
import { PAGE, WEB } from './scene.js';

const command = ['run', 'build', '--workspace', 'app', '--', '--outDir', PAGE, '--emptyOutDir', '--logLevel', 'warn'];
execFileSync('npm', command, { cwd: WEB, env: { ...process.env, VITE_HERALD_TOKEN_URL: TOKEN_PATH }, stdio: 'inherit' });
