/** What goes over the wire, and what users of this package see. */

/** A value that changes: Svelte's store contract, which needs no Svelte. */
export interface Readable<T> {
  /**
   * Calls `run` at once with the value, and again whenever it changes.
   *
   * @returns a function that ends the subscription.
   */
  subscribe(run: (value: T) => void): () => void;
}

/** A message, as a row of `messages_realtime_view`. The application's view may have more columns than these. */
export interface Message {
  readonly id: string;
  readonly sender_id: string;
  readonly receiver_id: string;
  /** `null` if the message is about no product. */
  readonly product_id: string | null;
  readonly content: string;
  /** RFC 3339, with microseconds. */
  readonly created_at: string;
  readonly is_read: boolean;
  readonly delivered_at: string | null;
  readonly sender_username: string | null;
  readonly sender_avatar: string | null;
  readonly receiver_username: string | null;
  readonly receiver_avatar: string | null;
  readonly product_title: string | null;
  readonly product_price: number | null;
}

/** A conversation with its newest message, as a row of `get_user_conversation_previews`. */
export interface Conversation {
  /** `<other person's id>__<product id>`, or `<other person's id>__general`. */
  readonly conversation_id: string;
  readonly other_user_id: string;
  readonly other_username: string | null;
  readonly other_avatar: string | null;
  readonly product_id: string | null;
  readonly product_title: string | null;
  readonly last_message: string | null;
  readonly last_message_time: string;
  readonly unread_count: number;
}

/** A page of conversations, newest first. */
export interface ConversationPage {
  readonly conversations: readonly Conversation[];
  /** The position of the snapshot in which the rows were read. */
  readonly cursor: string;
  /** Leads to the next page as `before`; `null` on the last one. */
  readonly next: string | null;
}

/** A page of messages, oldest first. */
export interface MessagePage {
  readonly messages: readonly Message[];
  /** The position of the snapshot in which the rows were read. */
  readonly cursor: string;
  /** Leads to the page of older messages as `before`; `null` on the last one. */
  readonly next: string | null;
}

/** What a call of the HTTP API may be given. */
export interface CallOptions {
  /** Ends the call, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Which page is asked for. */
export interface PageOptions extends CallOptions {
  /** 1 to 200; 50 if it is not given. */
  readonly limit?: number;
  /** `next` of the page before. */
  readonly before?: string;
}

/** A message was written. */
export interface InsertEvent {
  readonly op: 'insert';
  /** Orders the changes of one message, and says nothing about others. */
  readonly seq: number;
  readonly conversation: string;
  readonly message: Message;
}

/** A message was changed. */
export interface UpdateEvent {
  readonly op: 'update';
  readonly seq: number;
  readonly conversation: string;
  readonly message: Message;
}

/** A message was deleted. */
export interface DeleteEvent {
  readonly op: 'delete';
  readonly seq: number;
  readonly conversation: string;
  readonly message: { readonly id: string };
}

/** A committed change of one message. */
export type MessageEvent = InsertEvent | UpdateEvent | DeleteEvent;

/** A session has begun. */
export interface Ready {
  readonly type: 'ready';
  readonly user: string;
  readonly session: string;
  readonly cursor: string;
  /** Present only if a cursor was brought: whether the session continues from it. */
  readonly resumed?: boolean;
  /** Present only if `resumed` is `false`. */
  readonly reason?: string;
  readonly expires_at: string;
  readonly heartbeat_s: number;
}

/** Events may have been missed: what is shown has to be loaded again. */
export interface Discontinuity {
  /** `unknown_epoch`, `expired`, `ahead`, `too_far` or `malformed`. */
  readonly reason: string;
}

/** What a client tells its listeners. */
export interface HeraldEvents {
  ready: Ready;
  insert: InsertEvent;
  update: UpdateEvent;
  delete: DeleteEvent;
  /** All events of one frame, for those who want to handle what was committed together at once. */
  batch: readonly MessageEvent[];
  discontinuity: Discontinuity;
}

/** Where a connection stands. */
export type ConnectionState =
  /** `connect()` has not been called. */
  | { readonly status: 'idle' }
  | { readonly status: 'connecting'; readonly attempt: number }
  | { readonly status: 'live'; readonly transport: 'websocket' | 'events' }
  /** It comes back at `retryAt`, in milliseconds as `Date.now()` counts them. */
  | { readonly status: 'waiting'; readonly retryAt: number; readonly reason: string }
  /** The browser says that there is no network. It comes back by itself. */
  | { readonly status: 'offline' }
  /** `close()` was called. */
  | { readonly status: 'closed' }
  /** It does not come back by itself. `code` is a close code of the protocol, or an HTTP status. */
  | { readonly status: 'refused'; readonly code: number; readonly reason: string };

/** Why a token is asked for. */
export interface TokenRequest {
  /**
   * `start`: there is none yet. `expiring`: the one at hand ends soon. `rejected`: the gateway does not accept the one at hand, so
   * that it must not be given again.
   */
  readonly reason: 'start' | 'expiring' | 'rejected';
}

/** What a client needs to know. */
export interface HeraldClientOptions {
  /** The gateway, for instance `location.origin`. A path in it is kept as a prefix. */
  readonly url: string | URL;
  /**
   * Answers a token of the signed-in person. It is called again whenever a new one is needed. To throw a `ProblemError` that is not
   * temporary, such as one of status 401, says that nobody is signed in any more: the client then does not come back.
   */
  readonly token: (why: TokenRequest) => string | Promise<string>;
  /** Told what a subscriber or the token's source threw. Without it, that is written to the console. */
  readonly onError?: (error: unknown) => void;
}

/** A message as a thread shows it. */
export type ThreadMessage = Message & {
  /** `sending` until the gateway has it, `failed` if it never will by itself. */
  readonly state: 'sending' | 'sent' | 'failed';
  /** Why it failed. */
  readonly error?: ProblemError | undefined;
};

/** With whom a conversation is, and about what. What is not known yet is `null`. */
export type Counterpart = Pick<
  Conversation,
  'other_user_id' | 'other_username' | 'other_avatar' | 'product_id' | 'product_title'
> &
  Pick<Message, 'product_price'>;

/** The open conversation. */
export interface Thread {
  readonly conversation: string;
  readonly status: 'loading' | 'ready' | 'failed';
  readonly error: ProblemError | null;
  /** Oldest first. Those that are not sent yet stand at the end, in the order in which they will be. */
  readonly messages: readonly ThreadMessage[];
  readonly hasOlder: boolean;
  readonly isLoadingOlder: boolean;
  readonly counterpart: Counterpart;
}

/** What a store of conversations shows. It never changes in place: whatever has changed is a new object, and nothing else is. */
export interface ConversationStoreState {
  /** Whose conversations these are; `null` before the first token. */
  readonly user: string | null;
  readonly connection: ConnectionState;
  /** Newest first. */
  readonly conversations: readonly Conversation[];
  readonly conversationsStatus: 'loading' | 'ready' | 'failed';
  readonly conversationsError: ProblemError | null;
  readonly hasMoreConversations: boolean;
  readonly thread: Thread | null;
  /** All unread messages of the conversations that are loaded. */
  readonly unreadTotal: number;
}

/** Conversations and the open one of them, live. */
export interface ConversationStore extends Readable<ConversationStoreState> {
  /** The state; the same object until something changes, as React's `useSyncExternalStore` wants it. */
  snapshot(): ConversationStoreState;
  /** Loads the conversations and connects the client from there. Calling it again does nothing. */
  start(): void;
  /** Ends everything that the store began. The client stays connected; it has a `close()` of its own. */
  close(): void;
  /** Shows another conversation, or none. */
  open(conversation: string | null): void;
  /** Loads the page before the oldest message of the open conversation. */
  loadOlder(): Promise<void>;
  /** Loads the next page of conversations. */
  loadMoreConversations(): Promise<void>;
  /** Loads again what is shown; what is shown stays until it is replaced. */
  reload(): Promise<void>;
  /**
   * Shows a message in the open conversation at once, and sends it until the gateway has it.
   *
   * @returns its final id.
   * @throws if no conversation is open.
   */
  send(content: string): string;
  /** Sends a failed message again, under the same id. */
  retry(id: string): void;
  /** Forgets a failed message. */
  discard(id: string): void;
}

/** An answer of the gateway that is an error (RFC 9457), or no answer, or the end of a connection. */
export class ProblemError extends Error {
  constructor(
    /** The HTTP status, or a connection's close code; 0 if there was neither. */
    readonly status: number,
    /** What to do about it. */
    readonly detail: string,
    /** After how many seconds the gateway wants to be asked again; 0 if it did not say. */
    readonly retryAfter = 0,
  ) {
    super(detail);
  }

  /** Whether the same call may succeed later. */
  get isTemporary(): boolean {
    return [0, 408, 429, 502, 503, 504].includes(this.status);
  }
}
