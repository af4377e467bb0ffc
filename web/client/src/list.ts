/**
 * The conversations of one person, from pages and events that come in any order. Pure.
 *
 * A preview holds its newest message without an id, and its unread messages as a number, so that events alone cannot always say
 * what it becomes. Then what is most likely is shown, and `isDoubtful` asks for the list to be loaded again. The rules:
 *
 * 1. A page's rows replace what is known. The events that came while it was on its way are applied after it.
 * 2. A page may be ahead of the stream. `asOf` is the newest message that it knew, so a message that is newer than that is not in
 *    it and counts for certain, and of any other nobody knows: doubt.
 * 3. Unread messages that events have told about are known by their ids. So what is counted twice or marked as read twice changes
 *    nothing. The others are a number only. A message that is read now may have been one of them, or not: doubt.
 */

import { aboutConversation } from './conversation.js';
import { compare } from './order.js';
import type { Conversation, ConversationPage, Message, MessageEvent } from './types.js';

interface Entry {
  shown: Conversation;
  /** How many messages are unread besides those in `unread`. */
  others: number;
  unread: Set<string>;
  asOf: string;
}

/** Whether a message is for this person, from somebody else, and not read. */
export function isUnread({ sender_id, receiver_id, is_read }: Message, user: string | null): boolean {
  return receiver_id === user && sender_id !== user && !is_read;
}

/** The conversations that are loaded. */
export class ConversationList {
  /** Newest first. */
  shown: readonly Conversation[] = [];
  /** Leads to the next page; `null` if there is none. */
  next: string | null = null;
  /** Whether the list has to be loaded again to be exact. */
  isDoubtful = false;
  readonly #entries = new Map<string, Entry>();

  /** Whose conversations they are is read from the owner, because it is known only after a while. */
  constructor(readonly owner: { readonly user: string | null }) {}

  /** The preview of a conversation, if it is loaded. */
  find(conversation: string): Conversation | undefined {
    return this.#entries.get(conversation)?.shown;
  }

  /** Begins with a first page, or takes another look at it, or adds one that follows; and applies the events that came meanwhile. */
  addPage({ conversations, next }: ConversationPage, since: readonly MessageEvent[], kind: 'list' | 'again' | 'more'): void {
    // A first page says all about what is as new as its last row. More may be loaded than that.
    const oldest = (next && kind === 'again' && conversations.at(-1)?.last_message_time) || '';
    for (const [id, { shown }] of this.#entries) {
      if (kind !== 'more' && shown.last_message_time >= oldest) this.#entries.delete(id);
    }
    if (kind !== 'again' || this.#entries.size === 0) this.next = next;
    for (const row of conversations) {
      // Who writes to himself has read it.
      const others = row.other_user_id === this.owner.user ? 0 : row.unread_count;
      this.#set({ shown: row, others, unread: new Set(), asOf: row.last_message_time });
    }
    this.isDoubtful = false;
    this.applyAll(since);
  }

  /** Applies events, the answer to a send among them as an insert. */
  applyAll(events: readonly MessageEvent[]): void {
    for (const event of events) this.#apply(event);
    this.#sort();
  }

  /** Everything in this conversation has been read. */
  markRead(conversation: string): void {
    const entry = this.#entries.get(conversation);
    if (!entry) return;
    entry.others = 0;
    entry.unread.clear();
    this.#set(entry);
    this.#sort();
  }

  #apply({ op, conversation, message }: MessageEvent): void {
    const entry = this.#entries.get(conversation);
    if (op === 'insert') return this.#insert(conversation, message, entry);
    // A message that is gone may have been unread, or the newest. One in a conversation that is not known has moved there, because
    // its product is gone; but where not all are loaded, it may just be one that is not.
    if (!entry || op === 'delete') {
      this.isDoubtful ||= !!entry || !this.next;
      return;
    }
    if (message.receiver_id === this.owner.user && message.is_read && !entry.unread.delete(message.id) && entry.others > 0) {
      entry.others--;
      this.isDoubtful = true;
    }
    const isNewest = message.created_at === entry.shown.last_message_time;
    this.#set(entry, isNewest ? { last_message: message.content } : {});
  }

  #insert(conversation: string, message: Message, known: Entry | undefined): void {
    const time = message.created_at;
    const unread = isUnread(message, this.owner.user);
    if (known && known.asOf >= time) {
      this.isDoubtful ||= unread;
      return;
    }
    const shown: Conversation = {
      conversation_id: conversation,
      ...aboutConversation(conversation, message),
      last_message: message.content,
      last_message_time: time,
      unread_count: 0,
    };
    // A conversation that is not loaded may have unread messages already.
    if (!known) this.isDoubtful ||= !!this.next;
    const entry = known ?? { shown, others: 0, unread: new Set(), asOf: '' };
    if (unread) entry.unread.add(message.id);
    this.#set(entry, time >= entry.shown.last_message_time ? shown : {});
  }

  #set(entry: Entry, changes: Partial<Conversation> = {}): void {
    const unread_count = entry.others + entry.unread.size;
    entry.shown = { ...entry.shown, ...changes, unread_count };
    this.#entries.set(entry.shown.conversation_id, entry);
  }

  #sort(): void {
    this.shown = [...this.#entries.values()]
      .map(({ shown }) => shown)
      .sort((one, other) => compare(other.last_message_time, one.last_message_time));
  }
}
