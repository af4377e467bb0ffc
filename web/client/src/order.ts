/** How rows are ordered. */

import type { Message } from './types.js';

/**
 * Which of two texts is the greater one: positive if it is the first. The gateway writes all times in UTC, as many digits of a second
 * as it takes; such texts are ordered as the times are, to the microsecond, which a `Date` does not know.
 */
export function compare(one: string, other: string): number {
  return one < other ? -1 : +(one > other);
}

/** What decides a message's place in a conversation. */
export type Place = Pick<Message, 'created_at' | 'id'>;

/** Which of two messages is the newer one, as the gateway's pages have it: positive if it is the first. */
export function comparePlaces(one: Place, other: Place): number {
  return compare(one.created_at, other.created_at) || compare(one.id, other.id);
}
