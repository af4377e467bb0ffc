/** When a client comes back after its connection has ended, or did not come about. Pure; the random source is an argument. */

import type { ProblemError } from './types.js';

/** Clients of a gateway that shuts down come back spread over this time, in milliseconds. */
const GOING_AWAY_SPREAD = 5_000;

/** How long to stay away after too many frames, in milliseconds. */
const COOL_DOWN = 60_000;

/** The longest `Retry-After` that is obeyed, in milliseconds. */
const RETRY_AFTER_MAX = 60_000;

/** The first ceiling of the backoff, in milliseconds. */
const BACKOFF_BASE = 500;

/** The last ceiling of the backoff, in milliseconds: somebody who looks at the page waits for the gateway to be back. */
const BACKOFF_CAP = 30_000;

/** Close codes after which the same client would fail the same way. */
const FINAL_CODES = [1003, 1009, 4003, 4009, 4010];

/** How a connection ended, or why there is none. */
export type Loss =
  /** It was closed, with a code of the protocol, or with 1006 if it just broke. */
  | { readonly code: number; readonly reason: string }
  /** The gateway could not be reached, or refused with an HTTP status. */
  | ProblemError;

/** What to do about it. */
export type Return =
  /** It would fail again. */
  | { readonly kind: 'never' }
  /** Come back after this delay in milliseconds. A firm one must not be cut short because somebody looks at the page. */
  | { readonly kind: 'after'; readonly delay: number; readonly firm: boolean; readonly newToken: boolean };

/** Delays between attempts: exponential, capped, with full jitter. */
export class Backoff {
  #attempt = 0;

  constructor(readonly random: () => number = Math.random) {}

  /** Draws the next delay in milliseconds, and counts the attempt. */
  next(): number {
    return this.random() * Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** this.#attempt++);
  }

  /** Forgets past failures, once an attempt has proved itself. */
  reset(): void {
    this.#attempt = 0;
  }
}

/**
 * Decides whether and when to come back.
 *
 * @param hasProved - whether the connection that ended had brought events or lasted. One that had not backs off even where the
 * protocol says "at once", so that a client never spins.
 */
export function decide(loss: Loss, hasProved: boolean, backoff: Backoff): Return {
  const after = (delay: number, firm = false, newToken = false): Return => ({ kind: 'after', delay, firm, newToken });
  if ('code' in loss) {
    if (FINAL_CODES.includes(loss.code)) return { kind: 'never' };
    if (loss.code === 1001) return after(backoff.random() * GOING_AWAY_SPREAD, true);
    if (loss.code === 4029) return after(COOL_DOWN, true);
    const atOnce = (loss.code === 4001 || loss.code === 4008) && hasProved;
    return after(atOnce ? 0 : backoff.next(), false, loss.code === 4001);
  }
  if (loss.status === 401) return after(hasProved ? 0 : backoff.next(), false, true);
  if (!loss.isTemporary && loss.status < 500) return { kind: 'never' };
  return after(...retryDelay(loss, backoff));
}

/** After how many milliseconds to repeat a call that has failed for now, and whether the gateway insists on it. */
export function retryDelay(problem: ProblemError, backoff: Backoff): [delay: number, firm: boolean] {
  const drawn = backoff.next();
  const asked = Math.min((problem.retryAfter ?? 0) * 1000, RETRY_AFTER_MAX);
  return asked > 0 ? [asked + drawn, true] : [drawn, false];
}
