/** What SvelteKit 3 makes of `env.ts`. This workspace has SvelteKit 2, because that runs on Node 20. */

declare module '$app/env/private' {
  export const HERALD_URL: string;
  export const HERALD_JWT_SECRET: string;
}
