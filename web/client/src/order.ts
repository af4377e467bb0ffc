/** How rows are ordered. */

import type { Message } from './types.js';

/** A time in microseconds since 1970. `Date` knows milliseconds only, and two messages may well share one. */
function microseconds(time: string): number {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? '';
  return Math.floor(Date.parse(time) / 1000) * 1e6 + Number(fraction.padEnd(6, '0').slice(0, 6));
}

/** Which of two times is the later one: positive if it is the first. */
export function compareTimes(one: string, other: string): number {
  return one === other ? 0 : microseconds(one) - microseconds(other);
}

/** What decides a message's place in a conversation. */
export type Place = Pick<Message, 'created_at' | 'id'>;

/** Which of two messages is the newer one, as the gateway's pages have it: positive if it is the first. */
export function comparePlaces(one: Place, other: Place): number {
  return compareTimes(one.created_at, other.created_at) || (one.id < other.id ? -1 : +(one.id > other.id));
}
