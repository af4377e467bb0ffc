/**
 * The messages of one conversation that the gateway has, from pages and events that come in any order. Pure.
 *
 * What is known, and when, is this:
 *
 * - Events come in the order of commits, and of one message they come in the order of `seq`. An event's row may be newer than the
 *   event (the gateway reads it afterwards), never older.
 * - A page is asked for only while the stream of events has a position, and is a later snapshot than that position. So it may lie
 *   behind events that come before its answer does, and ahead of events that come after it.
 *
 * From that follow the rules, and the invariant that they keep: **once the stream has passed the snapshots of all pages, the
 * history is what the database has, for the range from `floor` on.**
 *
 * 1. An event is never overwritten by an event with a lower `seq`, so that what is sent again changes nothing. A delete is
 *    remembered, so that it is not undone either.
 * 2. A page adds what is not known. It overwrites nothing: a known row is as new as the stream, and every change that the page is
 *    ahead by has an event of its own, which will come. The events that came while the page was on its way are applied after it,
 *    because it may not know of them.
 * 3. An insert and the answer to a send only add, for the same reason.
 * 4. An update takes the row's place. If the page that the row came from was ahead of it, another update is on its way that
 *    ends at what the page had; nothing that the stream has said is ever taken back.
 * 5. What is older than `floor` is left to the page that will bring it.
 */

import { comparePlaces, type Place } from './order.js';
import type { Message, MessageEvent, MessagePage, ThreadMessage } from './types.js';

/** So many deletes are remembered: far more than can be sent again after a lost connection. */
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
  /** The newest event of each message that events have told about. */
  readonly #seqs = new Map<string, number>();
  readonly #deleted = new Map<string, number>();

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

  /** Applies an event, of this conversation or of another; answers whether something has changed. */
  apply({ op, seq, conversation, message }: MessageEvent): boolean {
    const { id } = message;
    if (seq <= (this.#deleted.get(id) ?? this.#seqs.get(id) ?? -1)) return false;
    const old = this.rows.find((row) => row.id === id);
    const isHere = conversation === this.conversation;
    if (op === 'delete' || !isHere) {
      if (isHere) {
        this.#seqs.delete(id);
        this.#deleted.set(id, seq);
        for (const [oldest] of this.#deleted) if (this.#deleted.size > DELETED_MAX) this.#deleted.delete(oldest);
      }
      // A message whose product is gone is in another conversation from then on.
      this.rows = old ? this.rows.filter((row) => row !== old) : this.rows;
      return !!old;
    }
    if (op === 'insert' && old) return false;
    if (!this.#put(message as Message, old)) return false;
    this.#deleted.delete(id);
    this.#seqs.set(id, seq);
    return true;
  }

  /** Takes the answer to a send; answers whether something has changed. */
  answer(message: Message): boolean {
    const isKnown = this.#deleted.has(message.id) || this.rows.some(({ id }) => id === message.id);
    return !isKnown && this.#put(message);
  }

  #put(message: Message, old?: ThreadMessage): boolean {
    if (!old && this.#floor && comparePlaces(message, this.#floor) < 0) return false;
    const row = sent(message);
    const rest = this.rows.filter((other) => other !== old);
    const after = rest.findLastIndex((other) => comparePlaces(other, row) < 0) + 1;
    this.rows = [...rest.slice(0, after), row, ...rest.slice(after)];
    return true;
  }
}

function sent(message: Message): ThreadMessage {
  return { ...message, state: 'sent' };
}
