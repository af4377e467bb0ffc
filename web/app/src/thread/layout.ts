/** Groups a thread by day, and within a day by sender and minute. Pure. */

import type { ThreadMessage } from '@herald/client';
import { startOfDay } from '../text/time.js';

/** What one person wrote within one minute. */
export interface Group {
  /** The id of its first message. */
  readonly key: string;
  readonly sender: string;
  /** When its last message was written, in milliseconds since 1970. */
  readonly time: number;
  readonly messages: readonly ThreadMessage[];
}

/** The groups of one day. */
export interface Day {
  /** Its midnight, in milliseconds since 1970. */
  readonly start: number;
  readonly groups: readonly Group[];
}

/** A minute in milliseconds. */
const MINUTE = 60_000;

/**
 * Lays messages out, which are in their order. A message that is not sent yet has the time of this machine's clock, which may be
 * behind; it then counts as written when the one before it was, so that no day comes twice.
 *
 * Days and groups of the layout before that are still the same are taken over as they are, so that whoever shows them has
 * nothing to do for them, however long the thread is.
 */
export function layOut(messages: readonly ThreadMessage[], before: readonly Day[] = []): Day[] {
  const known = new Map(before.map((day) => [day.start, day]));
  return divide(messages).map((day) => {
    const old = known.get(day.start);
    if (!old) return day;
    const groups = new Map(old.groups.map((group) => [group.key, group]));
    return keep(old, { start: day.start, groups: day.groups.map((group) => keepGroup(groups.get(group.key), group)) });
  });
}

function keep(old: Day, day: Day): Day {
  return isSame(old.groups, day.groups) ? old : day;
}

function keepGroup(old: Group | undefined, group: Group): Group {
  return old && old.time === group.time && isSame(old.messages, group.messages) ? old : group;
}

function isSame(old: readonly unknown[], values: readonly unknown[]): boolean {
  return old.length === values.length && old.every((value, index) => value === values[index]);
}

function divide(messages: readonly ThreadMessage[]): Day[] {
  const days: { start: number; groups: { key: string; sender: string; time: number; messages: ThreadMessage[] }[] }[] = [];
  let latest = -Infinity;
  for (const message of messages) {
    latest = Math.max(latest, Date.parse(message.created_at));
    const start = startOfDay(latest);
    let day = days.at(-1);
    if (!day || day.start !== start) days.push((day = { start, groups: [] }));
    let group = day.groups.at(-1);
    const isSameGroup = group?.sender === message.sender_id && minuteOf(group.time) === minuteOf(latest);
    if (!group || !isSameGroup) {
      day.groups.push((group = { key: message.id, sender: message.sender_id, time: latest, messages: [] }));
    }
    group.messages.push(message);
    group.time = latest;
  }
  return days;
}

function minuteOf(time: number): number {
  return Math.floor(time / MINUTE);
}

/** How many messages of others stand after this one. If it is gone, nobody knows. */
export function countAfter(messages: readonly ThreadMessage[], id: string | null, user: string | null): number {
  const index = messages.findLastIndex((message) => message.id === id);
  return index < 0 ? 0 : messages.slice(index + 1).filter(({ sender_id }) => sender_id !== user).length;
}
