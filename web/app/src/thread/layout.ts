/** Groups a thread by day, and within a day by sender and minute. Pure. */

import type { ThreadMessage } from '@herald/client';
import { startOfDay } from '../text/time.js';

/** What one person wrote within one minute. */
export interface Group {
  /** Stays while one of its messages does: older ones of its minute may come before them. */
  readonly key: number;
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

/** A group that has no key yet. */
type Keyless = Omit<Group, 'key'>;

/** Divides messages by day, and each day by sender and minute. */
function divide(messages: readonly ThreadMessage[]): { start: number; groups: Keyless[] }[] {
  const days: { start: number; groups: (Keyless & { messages: ThreadMessage[]; time: number })[] }[] = [];
  let latest = -Infinity;
  for (const message of messages) {
    latest = Math.max(latest, Date.parse(message.created_at));
    const start = startOfDay(latest);
    let day = days.at(-1);
    if (!day || day.start !== start) days.push((day = { start, groups: [] }));
    let group = day.groups.at(-1);
    if (group?.sender !== message.sender_id || minuteOf(group.time) !== minuteOf(latest)) {
      day.groups.push((group = { sender: message.sender_id, time: latest, messages: [] }));
    }
    group.messages.push(message);
    group.time = latest;
  }
  return days;
}

/** Puts the groups of a day into blocks: each into the block where it was, a new one into the block before it while there is room. */
function gather(groups: readonly Keyless[], before: readonly Block[]): Block[] {
  const found = recognize(groups, before);
  /** Which group is the last one of each block of before. What comes between two groups of one block has to go there. */
  const ends = new Map(found.map(({ block }, index) => [block?.key, index]));
  const blocks: (Block & { groups: Group[] })[] = [];
  let nextBlock = following(before);
  let nextGroup = following(before.flatMap(({ groups }) => groups));
  const used = new Set<number>();
  let size = 0;
  for (const [index, { group, old, block: home }] of found.entries()) {
    let block = blocks.at(-1);
    // Messages may change places with others of another block. A block that is left is not entered again.
    const isElsewhere = home && home.key !== block?.key && !used.has(home.key);
    const isFull = size >= BLOCK_FULL && index > (ends.get(block?.key) ?? -1);
    if (!block || isElsewhere || (isFull && home?.key !== block.key)) {
      blocks.push((block = { key: isElsewhere ? home.key : nextBlock++, groups: [] }));
      used.add(block.key);
      size = 0;
    }
    const isKept = old && old.time === group.time && isSame(old.messages, group.messages);
    block.groups.push(isKept ? old : { key: old?.key ?? nextGroup++, ...group });
    size += group.messages.length;
  }
  const old = new Map(before.map((block) => [block.key, block]));
  return blocks.map((block) => {
    const same = old.get(block.key);
    return same && isSame(same.groups, block.groups) ? same : block;
  });
}

/** Finds out which groups were there before, and where: those that have a message in common. If two have, it is the first one. */
function recognize(groups: readonly Keyless[], before: readonly Block[]): { group: Keyless; old?: Group; block?: Block }[] {
  const known = new Map<string, { old: Group; block: Block }>();
  for (const block of before) for (const old of block.groups) for (const { id } of old.messages) known.set(id, { old, block });
  const taken = new Set<Group>();
  return groups.map((group) => {
    const first = group.messages.find(({ id }) => known.has(id));
    const place = first && known.get(first.id);
    if (!place || taken.has(place.old)) return { group };
    taken.add(place.old);
    return { group, ...place };
  });
}

/** A key that none of these has. */
function following(keyed: readonly { readonly key: number }[]): number {
  return keyed.reduce((next, { key }) => Math.max(next, key + 1), 0);
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
