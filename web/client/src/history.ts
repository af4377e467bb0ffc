/**
 * The messages of one conversation that the gateway has, from pages and events that come in any order. Pure.
 *
 * What is known, and when, is this:
 *
 * - Events come in the order of commits. An event's row may be newer than the event (the gateway reads it afterwards), never older.
 *   Some are told again after a lost connection, with their rows as they are then.
 * - A page is asked for only while the stream of events has a position, and is a later snapshot than that position. So it may lie
 *   behind events that come before its answer does, and ahead of events that come after it.
 *
 * From that follow the rules, and the invariant that they keep: **once the stream has passed the snapshots of all pages, the
 * history is what the database has, for the range from `floor` on; and nothing older ever replaces what the stream has said.**
 *
 * 1. A page adds what is not known, and overwrites nothing: a known row is as new as the stream, and every change that the page is
 *    ahead by has an event of its own, which will come. The events that came while the page was on its way are applied after it,
 *    because it may not know of them.
 * 2. An insert and the answer to a send only add, for the same reason. (An answer that comes after the event is
 *    not given to the history, because the message may have been deleted since.)
 * 3. An update takes the row's place. If the page that the row came from was ahead of it, another update is on its way that
 *    ends at what the page had.
 * 4. What is older than `floor` is left to the page that will bring it.
 */

import { comparePlaces, type Place } from './order.js';
import type { Message, MessageEvent, MessagePage, ThreadMessage } from './types.js';

/** What the gateway has of one conversation. */
export class History {
  /** Oldest first. */
  rows: readonly ThreadMessage[] = [];
  /** Leads to older messages; `null` if there are none. */
  next: string | null = null;
  /** How many of the rows came with pages. */
  loaded = 0;
  /** Where the loaded pages begin; what is older is not known. */
  #floor: Place | null = null;

  /** Begins with the newest page, and the events that came since it was asked for. */
  constructor(
    readonly conversation: string,
    page: MessagePage,
    since: readonly MessageEvent[],
  ) {
    this.addPage(page, since);
  }

  /** Adds a page of older messages, and the events that came since it was asked for. */
  addPage({ messages, next }: MessagePage, since: readonly MessageEvent[]): void {
    this.next = next;
    this.#floor = next ? (messages[0] ?? this.#floor) : null;
    this.loaded += messages.length;
    for (const message of messages) this.add(message);
    for (const event of since) this.apply(event);
  }

  /** Applies an event, of this conversation or of another. */
  apply({ op, conversation, message }: MessageEvent): void {
    // A message whose product is gone is in another conversation from then on.
    if (op === 'delete' || conversation !== this.conversation) this.#remove(message);
    else if (op === 'insert') this.add(message);
    else this.#put(message);
  }

  /** Adds what a page, an insert or the answer to a send has, unless it is known. */
  add(message: Message): void {
    if (!this.rows.some(({ id }) => id === message.id)) this.#put(message);
  }

  #remove({ id }: { readonly id: string }): void {
    this.rows = this.rows.filter((row) => row.id !== id);
  }

  #put(message: Message): void {
    this.#remove(message);
    if (this.#floor && comparePlaces(message, this.#floor) < 0) return;
    this.rows = [...this.rows, { ...message, state: 'sent' as const }].sort(comparePlaces);
  }
}
