/** Whoever looks at the page: what they read and how they use it. */

import { readersLocale, Sayer } from './text/time';

/** Says times in the reader's way. */
export const sayer = new Sayer(readersLocale(navigator.languages));

/** Whether there is room for one pane only. The style has the same measure in `Messages.svelte`. */
export const narrow = matchMedia('(max-width: 46rem)');

/** Whether to type needs no keyboard that covers half of the page. */
export const precise = matchMedia('(pointer: fine)');

/** Whether what moves should not. */
export const still = matchMedia('(prefers-reduced-motion: reduce)');

/** A name to show for somebody. */
export function nameOf(username: string | null, id: string, user: string | null): string {
  const name = username ?? 'Unknown person';
  return id === user ? `${name} (you)` : name;
}
