/** A database of messages as the properties need it: what is committed, what a page shows of it, and how a stream tells it. */

import { conversationName } from '../src/conversation.js';
import { compare, comparePlaces } from '../src/order.js';
import type { Conversation, ConversationPage, Message, MessageEvent, MessagePage } from '../src/types.js';

export const ME = '00000000-0000-4000-8000-00000000000a';

interface Change {
  readonly op: MessageEvent['op'];
  readonly id: string;
  readonly seq: number;
  /** For a delete, whose row is gone. */
  readonly conversation: string;
}

/** Committed messages, and the log of their changes. */
export class Database {
  readonly rows = new Map<string, Message>();
  readonly log: Change[] = [];
  /** How many changes the feed has read. */
  #read = 0;
  /** What it has read, and nobody has been told yet. */
  #frames: MessageEvent[] = [];
  #told: MessageEvent[] = [];

  insert(id: string, other: string, productId: string | null, isFromOther: boolean, time: number): void {
    // The id of a deleted message is never used again.
    if (this.log.some((change) => change.id === id)) return;
    this.#write('insert', {
      id,
      sender_id: isFromOther ? other : ME,
      receiver_id: isFromOther ? ME : other,
      product_id: productId,
      content: `first ${id}`,
      created_at: new Date(time).toISOString(),
      is_read: false,
      delivered_at: null,
      sender_username: null,
      sender_avatar: null,
      receiver_username: null,
      receiver_avatar: null,
      product_title: null,
      product_price: null,
    });
  }

  update(id: string, change: Partial<Message>): void {
    const row = this.rows.get(id);
    if (row) this.#write('update', { ...row, ...change });
  }

  delete(id: string): void {
    const row = this.rows.get(id);
    if (!row) return;
    this.rows.delete(id);
    this.log.push({ op: 'delete', id, seq: this.log.length, conversation: conversationOf(row) });
  }

  /** The feed reads what is new, with the rows as they are now. */
  read(): void {
    for (const { op, id, seq, conversation } of this.log.slice(this.#read)) {
      const message = this.rows.get(id);
      if (op === 'delete') this.#frames.push({ op, seq, conversation, message: { id } });
      else if (message) this.#frames.push({ op, seq, conversation: conversationOf(message), message });
    }
    this.#read = this.log.length;
  }

  /** What the stream tells next. */
  tell(count: number): MessageEvent[] {
    const told = this.#frames.splice(0, count);
    this.#told.push(...told);
    return told;
  }

  /** The connection is lost, and the last events that were told will be told again, with their rows as they are now. */
  repeat(count: number): void {
    const again = this.#told.splice(Math.max(0, this.#told.length - count));
    this.#frames = [...again, ...this.#frames].flatMap((event): MessageEvent[] => {
      if (event.op === 'delete') return [event];
      const message = this.rows.get(event.message.id);
      return message ? [{ ...event, conversation: conversationOf(message), message }] : [];
    });
  }

  /** All messages of a conversation, oldest first. */
  messagesOf(conversation: string): Message[] {
    return [...this.rows.values()].filter((row) => conversationOf(row) === conversation).sort(comparePlaces);
  }

  messages(conversation: string, limit: number, before: string | null): MessagePage {
    const all = this.messagesOf(conversation);
    const older = before === null ? all : all.filter((row) => `${row.created_at} ${row.id}` < before);
    const messages = older.slice(-limit);
    const [first] = messages;
    const next = first && older.length > limit ? `${first.created_at} ${first.id}` : null;
    return { messages, cursor: '', next };
  }

  conversations(): ConversationPage {
    const names = new Set([...this.rows.values()].map(conversationOf));
    const conversations = [...names].map((name) => this.#preview(name));
    conversations.sort((one, other) => compare(other.last_message_time, one.last_message_time));
    return { conversations, cursor: '', next: null };
  }

  #preview(conversation_id: string): Conversation {
    const rows = this.messagesOf(conversation_id);
    const last = rows.at(-1)!;
    return {
      conversation_id,
      other_user_id: last.sender_id === ME ? last.receiver_id : last.sender_id,
      other_username: null,
      other_avatar: null,
      product_id: last.product_id,
      product_title: null,
      last_message: last.content,
      last_message_time: last.created_at,
      unread_count: rows.filter((row) => row.receiver_id === ME && row.sender_id !== ME && !row.is_read).length,
    };
  }

  #write(op: 'insert' | 'update', row: Message): void {
    this.rows.set(row.id, row);
    this.log.push({ op, id: row.id, seq: this.log.length, conversation: conversationOf(row) });
  }
}

/** The name under which this person knows the message's conversation. */
export function conversationOf(row: Message): string {
  return conversationName(row.sender_id === ME ? row.receiver_id : row.sender_id, row.product_id);
}
