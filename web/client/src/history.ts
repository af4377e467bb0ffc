/**
 * The messages of one conversation that the gateway has, from pages and events that come in any order. Pure.
 *
 * What is known, and when, is this:
 *
 * - Events come in the order of commits, each of them once; the client sees to that. An event's row may be newer than the event (the
 *   gateway reads it afterwards), never older. The id of a deleted message is never used again.
 * - A page is asked for only while the stream of events has a position, and is a later snapshot than that position. So it may lie
 *   behind events that come before its answer does, and ahead of events that come after it.
 *
 * From that follow the rules, and the invariant that they keep: **once the stream has passed the snapshots of all pages, the
 * history is what the database has, for the range from `floor` on; and nothing older ever replaces what the stream has said.**
 *
 * 1. A page adds what is not known, and overwrites nothing: a known row is as new as the stream, and every change that the page is
 *    ahead by has an event of its own, which will come. The events that came while the page was on its way are applied after it,
 *    because it may not know of them.
 * 2. An insert and the answer to a send only add, for the same reason.
 * 3. An update takes the row's place. If the page that the row came from was ahead of it, another update is on its way that
 *    ends at what the page had.
 * 4. A delete is remembered, so that no page, answer or earlier event brings the message back.
 * 5. What is older than `floor` is left to the page that will bring it.
 */

import { comparePlaces, type Place } from './order.js';
import type { Message, MessageEvent, MessagePage, ThreadMessage } from './types.js';

/** So many deletes are remembered: far more than happen while a page is on its way. */
const DELETED_MAX = 1000;

/** What the gateway has of one conversation. */
export class History {
  /** Oldest first. Another array after each change. */
  rows: readonly ThreadMessage[] = [];
  /** Leads to older messages; `null` if there are none. */
  next: string | null = null;
  /** How many of the rows came with pages. */
  loaded = 0;
  /** Where the loaded pages begin; what is older is not known. */
  #floor: Place | null = null;
  readonly #deleted = new Set<string>();

  /** Begins with the newest page, and the events of this conversation that came since it was asked for. */
  constructor(
    readonly conversation: string,
    page: MessagePage,
    since: readonly MessageEvent[],
  ) {
    this.addPage(page, since);
  }

  /** Adds a page of older messages. */
  addPage({ messages, next }: MessagePage, since: readonly MessageEvent[]): void {
    this.next = next;
    this.#floor = next === null ? null : (messages[0] ?? this.#floor);
    const known = new Set(this.rows.map(({ id }) => id));
    const added = messages.filter(({ id }) => !known.has(id) && !this.#deleted.has(id));
    this.loaded += added.length;
    this.rows = [...added.map(sent), ...this.rows].sort(comparePlaces);
    for (const event of since) this.apply(event);
  }

  /** Applies an event, of this conversation or of another. */
  apply({ op, conversation, message }: MessageEvent): void {
    const { id } = message;
    if (op === 'delete') {
      this.#deleted.add(id);
      for (const oldest of this.#deleted) if (this.#deleted.size > DELETED_MAX) this.#deleted.delete(oldest);
    }
    // A message whose product is gone is in another conversation from then on.
    if (op === 'delete' || conversation !== this.conversation) this.#remove(id);
    else if (op === 'update') this.#put(message);
    else this.answer(message);
  }

  /** Takes the answer to a send. */
  answer(message: Message): void {
    if (!this.rows.some(({ id }) => id === message.id)) this.#put(message);
  }

  #remove(id: string): void {
    if (this.rows.some((row) => row.id === id)) this.rows = this.rows.filter((row) => row.id !== id);
  }

  #put(message: Message): void {
    if (this.#deleted.has(message.id)) return;
    this.#remove(message.id);
    if (this.#floor && comparePlaces(message, this.#floor) < 0) return;
    this.rows = [...this.rows, sent(message)].sort(comparePlaces);
  }
}

function sent(message: Message): ThreadMessage {
  return { ...message, state: 'sent' };
}
