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
import type {
  ConversationStore,
  ConversationStoreState,
  Message,
  MessageEvent,
  ProblemError,
  Ready,
  Thread,
  ThreadMessage,
} from './types.js';

/** What a page holds if nothing is said, and at most (PROTOCOL.md, "Paging"). */
const PAGE = 50;
const PAGE_MAX = 200;

/** So many conversations are kept, so that going back to them takes no time. */
const RECENT_MAX = 5;

/** After so many new messages the open conversation is cut back to its newest ones. */
const GROWTH_MAX = 500;

/** How long doubts are gathered before the list is loaded again, in milliseconds; up to twice as long, for the sake of the gateway. */
const REFRESH_DELAY = 1_000;

/** What is loaded: the list anew, the list because of a doubt, the open conversation, or another page of either. */
type Slot = 'list' | 'again' | 'more' | 'thread' | 'older';

/** Makes a store of the client's conversations. Nothing happens before its `start()`. */
export function createConversationStore(client: HeraldClient): ConversationStore {
  const list = new ConversationList(client);
  /** By conversation, the one that was opened last at the end. */
  const histories = new Map<string, History>();
  /** Messages that the gateway does not have yet, or does not want: by id, in the order in which they are to be sent. */
  const outbox = new Map<string, ThreadMessage>();
  /** Conversations in which something is being sent: one message at a time keeps their order. */
  const lanes = new Set<string>();
  /** Conversations to mark as read. */
  const seen = new Set<string>();
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
  /** What is shown of the open conversation until it is loaded again, because events may have been missed. */
  let stale: History | undefined;
  let isMarking = false;

  // What is shown.

  /** A conversation, as far as it is loaded. */
  const find = (conversation: string | null): History | undefined =>
    histories.get(conversation!) ?? (conversation === opened ? stale : undefined);

  /** What waits in a conversation. */
  const waiting = (conversation: string): ThreadMessage[] => [...outbox.values()].filter((one) => nameOf(one) === conversation);

  const threadNow = (conversation: string): Thread => {
    const shown = find(opened);
    const rows = shown?.rows ?? [];
    const row = rows.at(-1);
    // A conversation is loaded only once the position is known that comes with the list.
    const problem = error ?? (shown ? null : conversationsError);
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

  /** Waits. Good news cuts it short unless it is firm, and so does the end. */
  const wait = async (delay: number, isFirm = true): Promise<void> => {
    let own: Poke | undefined;
    await pause(delay, isFirm, (poke) => pauses.add((own = poke)));
    pauses.delete(own!);
  };

  const cancel = (slots = Object.keys(calls) as Slot[]): void => {
    for (const slot of slots) {
      calls[slot]?.abort();
      delete calls[slot];
    }
  };

  /** Makes a call, again and again as long as it may succeed later. `apply` gets what has come since. */
  const load = async <T>(
    slot: Slot,
    call: (signal: AbortSignal) => Promise<T>,
    apply: (page: T, since: readonly MessageEvent[]) => void,
  ): Promise<void> => {
    cancel([slot]);
    const { signal } = (calls[slot] = new AbortController());
    const delays = new Backoff();
    const tell = (problem: ProblemError | null): void => {
      if (slot === 'thread' || slot === 'older') error = problem;
      else conversationsError = problem;
    };
    emit();
    if (slot === 'again') await wait(REFRESH_DELAY * (1 + Math.random()));
    while (!signal.aborted) {
      const since: MessageEvent[] = [];
      const end = client.on('batch', (events) => since.push(...events));
      let problem: ProblemError;
      try {
        const page = await call(signal);
        if (signal.aborted) return;
        cancel([slot]);
        tell(null);
        apply(page, since);
        emit();
        return refresh();
      } catch (thrown) {
        problem = thrown as ProblemError;
      } finally {
        end();
      }
      if (signal.aborted) return;
      tell(problem);
      if (!problem.isTemporary) cancel([slot]);
      emit();
      if (!signal.aborted) await wait(...retryDelay(problem, delays));
    }
  };

  const loadList = (slot: 'list' | 'again'): Promise<void> => {
    const limit = pageSize(list.shown);
    return load(
      slot,
      (signal) => client.conversations({ limit, signal }),
      (page, since) => {
        list.addPage(page, since, true);
        isListed = true;
        client.connect(page.cursor);
      },
    );
  };

  const loadThread = async (): Promise<void> => {
    const conversation = opened;
    if (conversation === null || !life || client.cursor === undefined) return;
    cancel(['older']);
    const limit = pageSize(find(opened)?.rows);
    await load(
      'thread',
      (signal) => client.messages(conversation, { limit, signal }),
      (page, since) => {
        const shown = new History(conversation, page, since);
        histories.set(conversation, shown);
        for (const { id } of shown.rows) outbox.delete(id);
        markSeen();
      },
    );
  };

  /** Loads everything anew. What is shown stays until it is replaced. */
  const loadAll = async (): Promise<void> => {
    cancel();
    stale = find(opened);
    histories.clear();
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
    list.applyAll(events);
    for (const event of events) {
      outbox.delete(event.message.id);
      for (const history of [...histories.values(), stale]) history?.apply(event);
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
    for (const poke of pauses) poke(false);
    for (const message of outbox.values()) void deliver(nameOf(message));
    markSeen();
    refresh();
  };

  // Reading and sending.

  /** Marks the open conversation as read if somebody sees it. */
  const markSeen = (): void => {
    const shown = find(opened);
    if (!shown || !life || globalThis.document?.visibilityState === 'hidden') return;
    const { conversation, rows } = shown;
    if (!list.find(conversation)?.unread_count && !rows.some((row) => isUnread(row, client.user))) return;
    list.markRead(conversation);
    seen.add(conversation);
    if (!isMarking) void markRead(life.signal);
    emit();
  };

  const markRead = async (signal: AbortSignal): Promise<void> => {
    isMarking = true;
    for (const conversation of seen) {
      seen.delete(conversation);
      await client.markRead(conversation, { signal }).catch(() => {
        list.isDoubtful = true;
      });
    }
    isMarking = false;
    refresh();
  };

  /** Sends what waits in a conversation, one message after the other. */
  const deliver = async (conversation: string): Promise<void> => {
    if (!life || lanes.has(conversation)) return;
    const { signal } = life;
    const delays = new Backoff();
    lanes.add(conversation);
    for (;;) {
      const next = waiting(conversation).find((one) => one.state === 'sending');
      if (!next || signal.aborted) break;
      try {
        const message = await client.send(conversation, next, { signal });
        delays.reset();
        // If the event was quicker, it has told everything, and perhaps that the message has been deleted since.
        if (outbox.has(message.id)) hear([{ op: 'insert', seq: 0, conversation, message }]);
      } catch (thrown) {
        if (signal.aborted || !outbox.has(next.id)) continue;
        const problem = thrown as ProblemError;
        if (problem.isTemporary) await wait(...retryDelay(problem, delays));
        else outbox.set(next.id, { ...next, state: 'failed', error: problem });
      }
      emit();
    }
    lanes.delete(conversation);
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
      cancel();
      for (const poke of pauses) poke(true);
    },

    open(conversation) {
      if (conversation === opened) return;
      cancel(['thread', 'older']);
      stale = undefined;
      error = null;
      opened = conversation;
      const shown = find(opened);
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
      const shown = find(opened);
      const before = shown?.next;
      if (!before || calls.older) return;
      await load(
        'older',
        (signal) => client.messages(shown.conversation, { before, signal }),
        (page, since) => shown.addPage(page, since),
      );
    },

    async loadMoreConversations() {
      const before = list.next;
      if (!before || calls.more) return;
      await load(
        'more',
        (signal) => client.conversations({ before, signal }),
        (page, since) => list.addPage(page, since),
      );
    },

    reload: loadAll,

    send(content) {
      if (opened === null) throw new Error('Nothing is open.');
      const { other_user_id, product_id } = aboutConversation(opened);
      const id = crypto.randomUUID();
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
      if (!message) return;
      const { error: _failure, ...rest } = message;
      // It goes to the end, because what was written after it may have been sent.
      post({ ...rest, state: 'sending' });
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
