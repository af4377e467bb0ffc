/** A client of which every answer and every event is played by the test, so that they come in exactly the order that it wants. */

import { setImmediate as turn } from 'node:timers/promises';

import { createConversationStore, ProblemError, type HeraldClient } from '../src/index.js';
import type { ConnectionState, Conversation, HeraldEvents, Message, MessageEvent, ThreadMessage } from '../src/types.js';
import { Writable } from '../src/readable.js';

export const ME = '00000000-0000-4000-8000-00000000000a';
export const OTHER = '00000000-0000-4000-8000-00000000000b';
export const NAME = `${OTHER}__general`;

type Method = 'conversations' | 'messages' | 'send' | 'markRead';

/** A call that waits for its answer. */
export interface Call {
  readonly method: Method;
  readonly given: readonly unknown[];
  answer(value: unknown): void;
  fail(status: number): void;
}

/** What the store sees of a client. */
export class ScriptedClient {
  readonly errors: unknown[] = [];
  readonly onError = (error: unknown): void => void this.errors.push(error);
  readonly connection = new Writable<ConnectionState>({ status: 'idle' }, this.onError);
  readonly calls: Call[] = [];
  /** Where the store has connected from. */
  readonly connects: (string | undefined)[] = [];
  user: string | null = ME;
  cursor: string | undefined;
  readonly #listeners = new Set<readonly [string, (value: never) => void]>();

  connect(cursor?: string): void {
    if (this.cursor !== undefined) return;
    this.connects.push(cursor);
    this.cursor = cursor ?? '';
  }

  /** The gateway lets it in. */
  ready(resumed: boolean): void {
    this.cursor ??= '';
    this.connection.set({ status: 'live', transport: 'websocket' });
    this.#emit('ready', { type: 'ready', user: ME, session: '', cursor: '', resumed, expires_at: '', heartbeat_s: 25 });
  }

  /** The gateway sends it away for good. */
  refuse(code: number): void {
    this.cursor = undefined;
    this.connection.set({ status: 'refused', code, reason: '' });
  }

  tell(...events: MessageEvent[]): void {
    this.#emit('batch', events);
  }

  on(event: string, listener: (value: never) => void): () => void {
    const entry = [event, listener] as const;
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  conversations(...given: unknown[]): Promise<unknown> {
    return this.#call('conversations', given);
  }

  messages(...given: unknown[]): Promise<unknown> {
    return this.#call('messages', given);
  }

  send(...given: unknown[]): Promise<unknown> {
    return this.#call('send', given);
  }

  markRead(...given: unknown[]): Promise<unknown> {
    return this.#call('markRead', given);
  }

  /** The calls of one kind that wait for an answer. */
  pending(method: Method): Call[] {
    return this.calls.filter((call) => call.method === method);
  }

  /** Lets everything happen that waits for nothing else. */
  async rest(): Promise<void> {
    for (let round = 0; round < 10; round++) await turn();
  }

  /** Answers the oldest call of a kind, which has to be there, and lets happen what follows. */
  async answer(method: Method, value: unknown): Promise<void> {
    this.#oldest(method).answer(value);
    await this.rest();
  }

  async fail(method: Method, status: number): Promise<void> {
    this.#oldest(method).fail(status);
    await this.rest();
  }

  #oldest(method: Method): Call {
    const call = this.pending(method)[0];
    if (!call) throw new Error(`nobody has called ${method}`);
    return call;
  }

  #emit<E extends keyof HeraldEvents>(event: E, value: HeraldEvents[E]): void {
    for (const [name, listener] of [...this.#listeners]) if (name === event) listener(value as never);
  }

  #call(method: Method, given: readonly unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { signal } = given.at(-1) as { signal: AbortSignal };
      const done = (): void => void this.calls.splice(this.calls.indexOf(call), 1);
      const call: Call = {
        method,
        given,
        answer: (value) => {
          done();
          resolve(value);
        },
        fail: (status) => {
          done();
          reject(new ProblemError(status, `HTTP ${status}`));
        },
      };
      this.calls.push(call);
      const abort = (): void => {
        if (this.calls.includes(call)) done();
        reject(signal.reason as Error);
      };
      if (signal.aborted) abort();
      else signal.addEventListener('abort', abort);
    });
  }
}

/** A store with a client that is played. */
export function script() {
  const client = new ScriptedClient();
  const store = createConversationStore(client as unknown as HeraldClient);
  const contents = (): string[] => store.snapshot().thread?.messages.map((message: ThreadMessage) => message.content) ?? [];
  /** Starts it with this list and these messages of the open conversation, and connects. */
  const begin = async (messages: readonly Message[] = [], conversations: readonly Conversation[] = []): Promise<void> => {
    store.open(NAME);
    store.start();
    await client.answer('conversations', { conversations, cursor: 'start', next: null });
    client.ready(true);
    await client.answer('messages', { messages, cursor: 'start', next: null });
  };
  return { client, store, contents, begin };
}

/** A message of the other person, or one's own; its content is its number. */
export function message(number: number, change: Partial<Message> = {}): Message {
  return {
    id: `00000000-0000-4000-8000-${`${number}`.padStart(12, '0')}`,
    sender_id: OTHER,
    receiver_id: ME,
    product_id: null,
    content: `${number}`,
    created_at: new Date(Date.UTC(2026, 0, 1) + number).toISOString(),
    is_read: true,
    delivered_at: null,
    sender_username: null,
    sender_avatar: null,
    receiver_username: null,
    receiver_avatar: null,
    product_title: null,
    product_price: null,
    ...change,
  };
}

/** The event of such a message, in the open conversation. */
export function insert(row: Message): MessageEvent {
  return { op: 'insert', seq: 0, conversation: NAME, message: row };
}
