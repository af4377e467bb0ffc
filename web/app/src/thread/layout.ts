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

/**
 * Groups that a browser lays out together, or not at all while nobody sees them. A group never goes from one block to another, so
 * where a block begins says only what was loaded when.
 */
export interface Block {
  readonly key: number;
  readonly groups: readonly Group[];
}

/** What was written on one day. */
export interface Day {
  /** Its midnight, in milliseconds since 1970. */
  readonly start: number;
  readonly blocks: readonly Block[];
}

/** A minute in milliseconds. */
const MINUTE = 60_000;

/** From so many messages on, a block takes no more groups: some screens full, and few enough to be laid out within a frame. */
const BLOCK_FULL = 50;

/**
 * Lays messages out, which are in their order. A message that is not sent yet has the time of this machine's clock, which may be
 * behind; it then counts as written when the one before it was, so that no day comes twice.
 *
 * What is still the same as in the layout before is taken over as it is, so that whoever shows it has nothing to do for it, however long
 * the thread is.
 */
export function layOut(messages: readonly ThreadMessage[], before: readonly Day[] = []): Day[] {
  const known = new Map(before.map((day) => [day.start, day]));
  return divide(messages).map(({ start, groups }) => {
    const old = known.get(start);
    const blocks = gather(groups, old?.blocks ?? []);
    return old && isSame(old.blocks, blocks) ? old : { start, blocks };
  });
}

/** Divides messages by day, and each day by sender and minute. */
function divide(messages: readonly ThreadMessage[]): { start: number; groups: Group[] }[] {
  const days: { start: number; groups: (Group & { messages: ThreadMessage[]; time: number })[] }[] = [];
  let latest = -Infinity;
  for (const message of messages) {
    latest = Math.max(latest, Date.parse(message.created_at));
    const start = startOfDay(latest);
    let day = days.at(-1);
    if (!day || day.start !== start) days.push((day = { start, groups: [] }));
    let group = day.groups.at(-1);
    if (group?.sender !== message.sender_id || minuteOf(group.time) !== minuteOf(latest)) {
      day.groups.push((group = { key: message.id, sender: message.sender_id, time: latest, messages: [] }));
    }
    group.messages.push(message);
    group.time = latest;
  }
  return days;
}

/** Puts the groups of a day into blocks: each into the block where it was, a new one into the block before it while there is room. */
function gather(groups: readonly Group[], before: readonly Block[]): Block[] {
  const known = new Map<string, { group: Group; block: Block }>();
  for (const block of before) for (const group of block.groups) known.set(group.key, { group, block });
  const blocks: (Block & { groups: Group[] })[] = [];
  let nextKey = Math.max(0, ...before.map(({ key }) => key + 1));
  let size = 0;
  for (const group of groups) {
    const old = known.get(group.key);
    let block = blocks.at(-1);
    if (!block || (old ? old.block.key !== block.key : size >= BLOCK_FULL)) {
      blocks.push((block = { key: old?.block.key ?? nextKey++, groups: [] }));
      size = 0;
    }
    const isKept = old && old.group.time === group.time && isSame(old.group.messages, group.messages);
    block.groups.push(isKept ? old.group : group);
    size += group.messages.length;
  }
  const old = new Map(before.map((block) => [block.key, block]));
  return blocks.map((block) => {
    const same = old.get(block.key);
    return same && isSame(same.groups, block.groups) ? same : block;
  });
}

function isSame(old: readonly unknown[], values: readonly unknown[]): boolean {
  return old.length === values.length && old.every((value, index) => value === values[index]);
}

function minuteOf(time: number): number {
  return Math.floor(time / MINUTE);
}

/** How many messages a block has. */
export function countMessages({ groups }: Block): number {
  return groups.reduce((count, { messages }) => count + messages.length, 0);
}

/** How many messages of others stand after this one. If it is gone, nobody knows. */
export function countAfter(messages: readonly ThreadMessage[], id: string | null, user: string | null): number {
  const index = messages.findLastIndex((message) => message.id === id);
  return index < 0 ? 0 : messages.slice(index + 1).filter(({ sender_id }) => sender_id !== user).length;
}
