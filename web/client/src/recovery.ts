/** When a client comes back after its connection has ended, or did not come about. Pure; the random source is an argument. */

import type { ProblemError } from './types.js';

/** Clients of a gateway that shuts down come back spread over this time, in milliseconds. */
const GOING_AWAY_SPREAD = 5_000;

/** How long to stay away after too many frames, in milliseconds. */
const COOL_DOWN = 60_000;

/** The longest `Retry-After` that is obeyed, in seconds. */
const RETRY_AFTER_MAX = 60;

/** The first ceiling of the backoff, in milliseconds. */
const BACKOFF_BASE = 500;

/** The last ceiling of the backoff, in milliseconds: somebody who looks at the page waits for the gateway to be back. */
const BACKOFF_CAP = 30_000;

/** HTTP statuses and close codes after which the same client would fail the same way (PROTOCOL.md). */
const FINAL = [400, 403, 404, 405, 426, 1002, 1003, 1007, 1009, 4003, 4009, 4010];

/** How long to wait, in milliseconds, and whether it is firm: then it must not be cut short because somebody looks at the page. */
export type Delay = [delay: number, isFirm: boolean];

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
 * Decides when to come back; answers nothing if it would only fail again.
 *
 * @param hasProved - whether the connection that ended had brought events or lasted. One that had not backs off even where the
 * protocol says "at once", so that a client never spins.
 */
export function comeBack(loss: ProblemError, hasProved: boolean, backoff: Backoff): Delay | undefined {
  const { status } = loss;
  if (FINAL.includes(status)) return undefined;
  if (status === 1001) return [backoff.random() * GOING_AWAY_SPREAD, true];
  if (status === 4029) return [COOL_DOWN, true];
  if (hasProved && (status === 4001 || status === 4008)) return [0, false];
  return retryDelay(loss, backoff);
}

/** When to repeat what has failed for now. */
export function retryDelay({ retryAfter = 0 }: ProblemError, backoff: Backoff): Delay {
  return [Math.min(retryAfter, RETRY_AFTER_MAX) * 1000 + backoff.next(), retryAfter > 0];
}

/** Tells news to something that waits for them, by the name of the browser's event; without a name it is over for good. */
export type Poke = (news?: string) => void;

/** Waits so many milliseconds, or until it is poked, which it can be by what it adds to `pokes`; if the delay is firm, news do not count. */
export function pause(delay: number, isFirm: boolean, pokes: Set<Poke>): Promise<void> {
  return new Promise((resolve) => {
    const poke: Poke = (news) => {
      if (isFirm && news) return;
      clearTimeout(timer);
      pokes.delete(poke);
      resolve();
    };
    const timer = setTimeout(poke, delay);
    pokes.add(poke);
  });
}
