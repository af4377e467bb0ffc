/**
 * Conversations and the open one of them, live: the one place where what a page shows is kept.
 *
 * What keeps pages and events together is one rule: **a page is asked for only while the stream has a position** (or its cursor becomes that
 * position), so that the page is never older than the stream, and nothing falls between them. What comes while it is on its way is
 * recorded, and applied after it. `history.ts` and `list.ts` say what follows from that.
 */

import type { HeraldClient } from './client.js';
import { aboutConversation, conversationName } from './conversation.js';
import { History } from './history.js';
import { ConversationList, isUnread } from './list.js';
import { Writable } from './readable.js';
import { Backoff, pause, retryDelay, type Poke } from './recovery.js';
import { share } from './share.js';
import { GROWTH_MAX, PAGE, PAGE_MAX, RECENT_MAX, REFRESH_DELAY } from './limits.js';
import type {
  ConversationPage,
  ConversationStore,
  ConversationStoreState,
  Message,
  MessageEvent,
  MessagePage,
  PageOptions,
  ProblemError,
  Ready,
  Thread,
  ThreadMessage,
} from './types.js';

/** What is loaded: the list anew, the list because of a doubt, the open conversation, or another page of either. */
type Slot = 'list' | 'again' | 'more' | 'thread' | 'older';

/** Makes a store of the client's conversations. Nothing happens before its `start()`. */
export function createConversationStore(client: HeraldClient): ConversationStore {
  const list = new ConversationList(client);
  /** By conversation, the one that was opened last at the end. */
  const histories = new Map<string, History>();
  /** Messages that the gateway does not have yet, or does not want: by id, in the order in which they are to be sent. */
  const outbox = new Map<string, ThreadMessage>();
  /** Conversations in which something is being sent: one message at a time keeps their order. And `''`, while some are marked as read. */
  const lanes = new Set<string>();
  /** Conversations to mark as read. */
  const seen = new Set<string>();
  /** What has come since, for each page that is on its way. */
  const recordings = new Set<MessageEvent[]>();
  /** Between attempts to mark as read. */
  const markDelays = new Backoff();
  /** Calls on their way, one of a kind. */
  const calls: { [S in Slot]?: AbortController } = {};
  /** Cuts pauses short. */
  const pauses = new Set<Poke>();

  /** Ends what `start()` began; there is none before that. */
  let life: AbortController | undefined;
  let isListed = false;
  let conversationsError: ProblemError | null = null;
  let opened: string | null = null;
  let error: ProblemError | null = null;

  // What is shown.

  /** The open conversation, as far as it is loaded. */
  const find = (): History | undefined => histories.get(opened!);

  /** What waits in a conversation. */
  const waiting = (conversation: string): ThreadMessage[] => [...outbox.values()].filter((one) => nameOf(one) === conversation);

  const threadNow = (conversation: string): Thread => {
    const shown = find();
    const rows = shown?.rows ?? [];
    const row = rows.at(-1);
    // A conversation is loaded only once the position is known that comes with the list.
    const problem = error ?? (shown || calls.thread ? null : conversationsError);
    return {
      conversation,
      status: statusOf(shown, problem),
      error: problem,
      messages: [...rows, ...waiting(conversation)],
      hasOlder: !!shown?.next,
      isLoadingOlder: !!calls.older,
      counterpart: {
        ...aboutConversation(conversation, row),
        ...(!row && list.find(conversation)),
        product_price: row?.product_price ?? null,
      },
    };
  };

  const stateNow = (): ConversationStoreState => ({
    user: client.user,
    connection: client.connection.value,
    conversations: list.shown,
    conversationsStatus: statusOf(isListed, conversationsError),
    conversationsError,
    hasMoreConversations: !!list.next,
    thread: opened === null ? null : threadNow(opened),
    unreadTotal: list.shown.reduce((total, shown) => total + shown.unread_count, 0),
  });
  const state = new Writable(stateNow(), client.onError);

  const emit = (): void => {
    const next = share(state.value, stateNow());
    if (next !== state.value) state.set(next);
  };

  // Loading.

  const cancel = (slots = Object.keys(calls) as Slot[]): void => {
    for (const slot of slots) {
      calls[slot]?.abort();
      delete calls[slot];
    }
  };

  /** Asks for a page of a conversation or of the list, again and again as long as it may be had later. `apply` gets what has come since. */
  const load = async <C extends string | null>(
    slot: Slot,
    conversation: C,
    options: PageOptions,
    apply: (page: C extends null ? ConversationPage : MessagePage, since: readonly MessageEvent[]) => void,
  ): Promise<void> => {
    cancel([slot]);
    const { signal } = (calls[slot] = new AbortController());
    const delays = new Backoff();
    emit();
    if (slot === 'again') await pause(REFRESH_DELAY * (1 + Math.random()), true, pauses);
    while (!signal.aborted) {
      const since: MessageEvent[] = [];
      recordings.add(since);
      let problem = null as ProblemError | null;
      const given = { ...options, signal };
      const asked = conversation === null ? client.conversations(given) : client.messages(conversation, given);
      const page = await asked.catch((thrown) => void (problem = thrown));
      recordings.delete(since);
      if (signal.aborted) return;
      if (conversation === null) conversationsError = problem;
      else error = problem;
      if (!problem?.isTemporary) cancel([slot]);
      if (page) {
        apply(page as Parameters<typeof apply>[0], since);
        for (const { id } of find()?.rows ?? []) outbox.delete(id);
        // Whatever a doubt leads to, it is nothing that somebody has just seen.
        if (slot !== 'again') markSeen();
        refresh();
      }
      emit();
      if (problem?.isTemporary) await pause(...retryDelay(problem, delays), pauses);
    }
  };

  const loadList = (slot: 'list' | 'again'): Promise<void> => {
    const limit = pageSize(list.shown);
    // Whoever was sent away meanwhile stays away, and what is loaded does not reach to a new position.
    const connects = slot === 'list' && client.cursor === undefined;
    return load(slot, null, { limit }, (page, since) => {
      list.addPage(page, since, true);
      isListed = true;
      if (connects) client.connect(page.cursor);
    });
  };

  const loadThread = async (): Promise<void> => {
    const conversation = opened;
    if (conversation === null || !life || client.cursor === undefined) return;
    cancel(['older']);
    const limit = pageSize(find()?.rows);
    await load('thread', conversation, { limit }, (page, since) => {
      histories.set(conversation, new History(conversation, page, since));
    });
  };

  /** Loads everything anew. What is shown stays until it is replaced. */
  const loadAll = async (): Promise<void> => {
    cancel();
    for (const conversation of histories.keys()) if (conversation !== opened) histories.delete(conversation);
    const listed = loadList('list');
    if (client.cursor === undefined) await listed;
    await Promise.all([listed, loadThread()]);
  };

  /** Loads the list again a little later if it is in doubt. */
  const refresh = (): void => {
    if (life && list.isDoubtful && !calls.list && !calls.again) void loadList('again');
  };

  // What the gateway tells.

  const hear = (events: readonly MessageEvent[]): void => {
    for (const since of recordings) since.push(...events);
    list.applyAll(events);
    for (const event of events) {
      outbox.delete(event.message.id);
      for (const history of histories.values()) history.apply(event);
    }
    for (const [conversation, { rows, loaded }] of histories) {
      if (rows.length <= loaded + GROWTH_MAX) continue;
      if (conversation !== opened) histories.delete(conversation);
      else if (!calls.thread) void loadThread();
    }
    markSeen();
    emit();
    refresh();
  };

  const ready = ({ resumed }: Partial<Ready>): void => {
    // Without the old position, what has been loaded may lie before the new one.
    if (!resumed) void loadAll();
    for (const poke of pauses) poke('ready');
    for (const message of outbox.values()) void deliver(nameOf(message));
    markSeen();
    refresh();
  };

  // Reading and sending.

  /** Marks the open conversation as read if somebody sees it. */
  const markSeen = (): void => {
    const shown = find();
    if (!shown || !life || globalThis.document?.hidden) return;
    if (!list.find(opened!)?.unread_count && !shown.rows.some((row) => isUnread(row, client.user))) return;
    list.markRead(opened!);
    seen.add(opened!);
    if (!lanes.has('')) void markRead(life.signal);
    emit();
  };

  const markRead = async (signal: AbortSignal): Promise<void> => {
    lanes.add('');
    for (const conversation of seen) {
      seen.delete(conversation);
      try {
        await client.markRead(conversation, { signal });
        markDelays.reset();
      } catch (thrown) {
        if (signal.aborted) return;
        list.isDoubtful = true;
        await pause(...retryDelay(thrown as ProblemError, markDelays), pauses);
        // Meanwhile something else may have come, or nobody look any more.
        seen.clear();
        if ((thrown as ProblemError).isTemporary) markSeen();
      }
    }
    lanes.delete('');
    refresh();
  };

  /** Sends what waits in a conversation, one message after the other. */
  const deliver = async (conversation: string): Promise<void> => {
    if (!life || lanes.has(conversation)) return;
    const { signal } = life;
    const delays = new Backoff();
    lanes.add(conversation);
    while (!signal.aborted) {
      const next = waiting(conversation).find((one) => one.state === 'sending');
      if (!next) return void lanes.delete(conversation);
      try {
        const message = await client.send(conversation, next, { signal });
        delays.reset();
        // If the event was quicker, it has told everything, and perhaps that the message has been deleted since.
        if (outbox.has(message.id)) hear([{ op: 'insert', seq: 0, conversation, message }]);
      } catch (thrown) {
        if (signal.aborted || !outbox.has(next.id)) continue;
        const problem = thrown as ProblemError;
        if (problem.isTemporary) await pause(...retryDelay(problem, delays), pauses);
        else outbox.set(next.id, { ...next, state: 'failed', error: problem });
      }
      emit();
    }
  };

  /** Forgets a message that has failed; answers it. */
  const forget = (id: string): ThreadMessage | undefined => {
    const message = outbox.get(id);
    if (message?.state !== 'failed') return undefined;
    outbox.delete(id);
    emit();
    return message;
  };

  /** Has a message sent after all others. */
  const post = (message: ThreadMessage): void => {
    outbox.set(message.id, message);
    emit();
    void deliver(nameOf(message));
  };

  return {
    subscribe: (run) => state.subscribe(run),
    snapshot: () => state.value,

    start() {
      if (life) return;
      life = new AbortController();
      const { signal } = life;
      for (const end of [client.on('batch', hear), client.on('ready', ready), client.connection.subscribe(emit)]) {
        signal.addEventListener('abort', end);
      }
      globalThis.addEventListener?.('visibilitychange', markSeen, { signal });
      ready({});
    },

    close() {
      life?.abort();
      life = undefined;
      lanes.clear();
      cancel();
      for (const poke of pauses) poke();
    },

    open(conversation) {
      if (conversation === opened) return;
      // It may not be what it should be again before it has been loaded anew.
      if (calls.thread || calls.list || error) histories.delete(opened!);
      cancel(['thread', 'older']);
      error = null;
      opened = conversation;
      const shown = find();
      if (shown) {
        // It is the one that was opened last.
        histories.delete(shown.conversation);
        histories.set(shown.conversation, shown);
      }
      for (const [recent, { rows }] of histories) {
        if (histories.size > RECENT_MAX || (recent !== conversation && rows.length > PAGE_MAX)) histories.delete(recent);
      }
      markSeen();
      emit();
      if (!shown) void loadThread();
    },

    async loadOlder() {
      const shown = find();
      const before = shown?.next;
      if (!before || calls.older) return;
      await load('older', shown.conversation, { before }, (page, since) => shown.addPage(page, since));
    },

    async loadMoreConversations() {
      const before = list.next;
      if (!before || calls.more) return;
      await load('more', null, { before }, (page, since) => list.addPage(page, since));
    },

    reload: loadAll,

    send(content) {
      if (opened === null) throw new Error('Open a conversation.');
      const { other_user_id, product_id } = aboutConversation(opened);
      const id = randomId();
      post({
        id,
        sender_id: client.user ?? '',
        receiver_id: other_user_id,
        product_id,
        content,
        created_at: new Date().toISOString(),
        is_read: false,
        delivered_at: null,
        sender_username: null,
        sender_avatar: null,
        receiver_username: null,
        receiver_avatar: null,
        product_title: null,
        product_price: null,
        state: 'sending',
      });
      return id;
    },

    retry(id) {
      const message = forget(id);
      // It goes to the end, because what was written after it may have been sent.
      if (message) post({ ...message, state: 'sending', error: undefined });
    },

    discard: (id) => void forget(id),
  };
}

function statusOf(isLoaded: unknown, problem: unknown): 'ready' | 'failed' | 'loading' {
  return isLoaded ? 'ready' : problem ? 'failed' : 'loading';
}

/** As much as is shown already, as far as a page goes. */
function pageSize(shown: readonly unknown[] = []): number {
  return shown.length > PAGE ? PAGE_MAX : PAGE;
}

/** The conversation that a message that is being sent belongs to. */
function nameOf({ receiver_id, product_id }: Message): string {
  return conversationName(receiver_id, product_id);
}

/** A random UUID. Pages that are not served by https have no `crypto.randomUUID()`. */
function randomId(): string {
  const draw = (): string => (crypto.getRandomValues(new Uint8Array(1))[0]! % 16).toString(16);
  return 'xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx'.replace(/x/g, draw);
}
