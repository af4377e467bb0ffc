// How the page is built, and served while somebody works on it.

import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

/** The gateway that `npm run dev` passes calls on to; it is the address of `script/server`. */
const GATEWAY = process.env['HERALD_URL'] ?? 'http://127.0.0.1:4000';

export default defineConfig({
  // Whatever path the page is served under, its files lie beside it.
  base: './',
  plugins: [svelte()],
  resolve: {
    alias: { '@herald/client': fileURLToPath(new URL('../client/src/index.ts', import.meta.url)) },
  },
  build: {
    // The Content-Security-Policy allows nothing inside the page: every script, style and picture is a file.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: ['chrome123', 'firefox121', 'safari17.5'],
  },
  server: {
    // The gateway compares a page's origin with the host that is asked, so the host stays as it is.
    proxy: Object.fromEntries(['/v1', '/demo'].map((path) => [path, { target: GATEWAY, changeOrigin: false, ws: true }])),
  },
});
