/** What the client costs whoever loads it. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { build } from 'esbuild';

/** The promise of the README, in bytes. */
const LIMIT = 6000;

test('the whole client is under 6 kB, minified and compressed', async () => {
  const { outputFiles } = await build({
    entryPoints: ['dist/index.js'],
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    write: false,
  });
  const size = gzipSync(outputFiles[0]!.contents, { level: 9 }).length;
  console.log(`${size} bytes`);
  assert.ok(size < LIMIT, `${size} bytes`);
});
