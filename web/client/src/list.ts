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
import { share } from './share.js';
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

  /** Begins anew with a first page, or adds one that follows; and applies the events that came while it was on its way. */
  addPage({ conversations, next }: ConversationPage, since: readonly MessageEvent[], isFirst = false): void {
    if (isFirst) this.#entries.clear();
    this.next = next;
    for (const shown of conversations) {
      // Who writes to himself has read it.
      const others = shown.other_user_id === this.owner.user ? 0 : shown.unread_count;
      this.#entries.set(shown.conversation_id, { shown, others, unread: new Set(), asOf: shown.last_message_time });
    }
    this.isDoubtful = false;
    this.applyAll(since);
  }

  /** Applies events, the answer to a send among them as an insert. */
  applyAll(events: readonly MessageEvent[]): void {
    for (const event of events) this.#apply(event);
    this.#show();
  }

  /** Everything in this conversation has been read. */
  markRead(conversation: string): void {
    const entry = this.#entries.get(conversation);
    if (!entry) return;
    entry.others = 0;
    entry.unread.clear();
    this.#show();
  }

  #apply({ op, conversation, message }: MessageEvent): void {
    const { user } = this.owner;
    const known = this.#entries.get(conversation);
    const doubtIf = (isDoubtful: boolean): void => void (this.isDoubtful ||= isDoubtful);
    // A message that is gone may have been unread, or the newest. One in a conversation that is not known has moved there, because
    // its product is gone; but where not all are loaded, it may just be one that is not.
    if (op === 'delete' || (op === 'update' && !known)) return doubtIf(!!known || !this.next);
    const { id, created_at } = message;
    const unread = isUnread(message, user);
    if (op === 'insert' && known && known.asOf >= created_at) return doubtIf(unread);
    // A conversation that is not loaded may have unread messages already.
    doubtIf(!known && !!this.next);
    const shown: Conversation = {
      conversation_id: conversation,
      ...aboutConversation(conversation, message),
      last_message: message.content,
      last_message_time: created_at,
      unread_count: 0,
    };
    const entry: Entry = known ?? { shown, others: 0, unread: new Set(), asOf: '' };
    if (created_at >= entry.shown.last_message_time) entry.shown = shown;
    if (op === 'insert') {
      if (unread) entry.unread.add(id);
    } else if (message.receiver_id === user && message.is_read && !entry.unread.delete(id) && entry.others) {
      entry.others--;
      doubtIf(true);
    }
    this.#entries.set(conversation, entry);
  }

  #show(): void {
    const shownNow = (entry: Entry): Conversation =>
      (entry.shown = share(entry.shown, { ...entry.shown, unread_count: entry.others + entry.unread.size }));
    this.shown = [...this.#entries.values()]
      .map(shownNow)
      .sort((one, other) => compare(other.last_message_time, one.last_message_time));
  }
}
