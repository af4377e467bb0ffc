/** The guides in `docs/` are right: what they tell people to write has no type errors, and can be built. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { access, cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { filesOf } from './blocks.js';

/** This workspace, as this file lies in its `dist-tests`. */
const HERE = fileURLToPath(new URL('..', import.meta.url));

/** Programs that check and build an application of each guide. npm has them on the path. */
const GUIDES = [
  {
    name: 'sveltekit',
    commands: ['svelte-kit sync', 'svelte-check --fail-on-warnings --output machine', 'vite build --logLevel warn'],
  },
  { name: 'react', commands: ['tsc', 'vite build --logLevel warn'] },
];

/** Writes the guide's files beside those that it takes for granted, into a folder of their own. */
async function write(name: string): Promise<string> {
  const folder = join(HERE, 'dist', name);
  const guide = await readFile(join(HERE, '../../docs', `${name}.md`), 'utf8');
  await rm(folder, { recursive: true, force: true });
  await cp(join(HERE, 'assumed', name), folder, { recursive: true });
  for (const [path, content] of filesOf(guide)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    // `wx` fails where the file exists: a guide does not take for granted what it tells people to write.
    await writeFile(join(folder, path), content, { flag: 'wx' });
  }
  return folder;
}

async function run(command: string, folder: string): Promise<void> {
  const [program = '', ...options] = command.split(' ');
  try {
    await promisify(execFile)(program, options, { cwd: folder });
  } catch (error) {
    const { stdout = '', stderr = '', message } = error as Error & { stdout?: string; stderr?: string };
    assert.fail([`${command} in ${folder}: ${message}`, stdout, stderr].join('\n'));
  }
}

describe('the guides', { concurrency: true }, () => {
  for (const { name, commands } of GUIDES) {
    it(`${name}.md can be followed`, async () => {
      await access(join(HERE, '../client/dist/index.js')).catch(() => assert.fail('Run `npm run build --workspace client` first.'));
      const folder = await write(name);
      for (const command of commands) await run(command, folder);
    });
  }
});

describe('a block', () => {
  it('is the file that its first line names', () => {
    const guide = '```ts\n// src/a.ts\nlet a;\n```\n\n```svelte\n<!-- src/+page.svelte -->\n<p>\n```\n\n```sh\nls\n```\n';
    assert.deepEqual([...filesOf(guide)], [
      ['src/a.ts', '// src/a.ts\nlet a;\n'],
      ['src/+page.svelte', '<!-- src/+page.svelte -->\n<p>\n'],
    ]);
  });

  it('lies beside the file that it takes the place of for some', () => {
    const guide = '```ts\n// a.server.ts\n```\n```ts\n// a.server.ts, with Supabase\n```\n';
    assert.deepEqual([...filesOf(guide).keys()], ['a.server.ts', 'a.server.supabase.ts']);
  });

  it('has to name its file, and no other block may', () => {
    assert.throws(() => filesOf('```ts\nlet a;\n```\n'), /does not begin with the name/);
    assert.throws(() => filesOf('```ts\n// a.ts\n```\n```ts\n// a.ts\n```\n'), /Two blocks are a\.ts/);
  });
});
