/**
 * Conversations and the open one of them, live: the one place where what a page shows is kept.
 *
 * What keeps pages and events together is one rule: **a page is asked for only while the stream has a position** (or its cursor becomes that
 * position), so that the page is never older than the stream, and nothing falls between them. What comes while it is on its way is
 * recorded, and applied after it. `history.ts` and `list.ts` say what follows from that.
 */

import type { HeraldClient } from './client.js';
import { parseConversation } from './conversation.js';
import { History } from './history.js';
import { ConversationList, isUnread } from './list.js';
import { Writable } from './readable.js';
import { Backoff, retryDelay } from './recovery.js';
import { share } from './share.js';
import type {
   ConversationStore,
  ProblemError,
  ConversationStoreState,
  Counterpart,
  Message,
  MessageEvent,
  Ready,
  Thread,
  ThreadMessage,
} from './types.js';

/** What a page holds at least, and at most (PROTOCOL.md, "Paging"). */
const PAGE = 50;
const PAGE_MAX = 200;

/** So many conversations are kept, so that going back to them takes no time. */
const RECENT_MAX = 5;

/** After so many new messages the open conversation is cut back to its newest ones. */
const GROWTH_MAX = 500;

/** How long doubts are gathered before the list is loaded again, in milliseconds; up to twice as long, for the sake of the gateway. */
const REFRESH_DELAY = 1_000;

/** A message that the gateway does not have yet, or does not want. */
interface Outgoing {
  readonly conversation: string;
  readonly message: ThreadMessage;
}

/** Makes a store of the client's conversations. Nothing happens before its `start()`. */
export function createConversationStore(client: HeraldClient): ConversationStore {
  const list = new ConversationList();
  /** By conversation, the one that was opened last at the end. */
  const histories = new Map<string, History>();
  /** By id, in the order in which they are to be sent. */
  const outbox = new Map<string, Outgoing>();
  /** Conversations in which something is being sent: one message at a time keeps their order. */
  const lanes = new Set<string>();
  /** Conversations to mark as read. */
  const seen = new Set<string>();
  /** What has come since each call began that is on its way. */
  const recordings = new Set<MessageEvent[]>();
  /** Cuts pauses short. */
  const pauses = new Set<(isOver: boolean) => void>();

  /** Ends everything; there is none before `start()`. */
  let life: AbortController | null = null;
  let listCall: AbortController | null = null;
  let isListNew = false;
  let threadCall: AbortController | null = null;
  let olderCall = new AbortController();
  let moreCall = new AbortController();
  let conversationsStatus: ConversationStoreState['conversationsStatus'] = 'loading';
  let conversationsError: ProblemError | null = null;
  let opened: string | null = null;
  let status: Thread['status'] = 'loading';
  let error: ProblemError | null = null;
  let isLoadingOlder = false;
  /** Whether the open conversation has to be loaded again because events may have been missed. */
  let isStale = false;
  let isLoadingMore = false;
  let isMarking = false;
  let willRefresh = false;
  let connection: ConversationStoreState['connection'] = { status: 'idle' };

  const state = new Writable<ConversationStoreState>(
    {
      user: null,
      connection,
      conversations: [],
      conversationsStatus,
      conversationsError,
      hasMoreConversations: false,
      thread: null,
      unreadTotal: 0,
    },
    (thrown) => client.onError(thrown),
  );

  // What is shown.

  function counterpartOf(conversation: string, history: History | undefined): Counterpart {
    const { userId, productId } = parseConversation(conversation);
    const preview = list.find(conversation);
    const row = history?.rows.at(-1);
    const isFromOther = row?.sender_id === userId;
    return {
      user_id: userId,
      username: (isFromOther ? row.sender_username : row?.receiver_username) ?? preview?.other_username ?? null,
      avatar: (isFromOther ? row.sender_avatar : row?.receiver_avatar) ?? preview?.other_avatar ?? null,
      product_id: productId,
      product_title: row?.product_title ?? preview?.product_title ?? null,
      product_price: row?.product_price ?? null,
    };
  }

  function threadNow(old: Thread | null): Thread | null {
    if (opened === null) return null;
    const history = histories.get(opened);
    const waiting = [...outbox.values()].filter(({ conversation }) => conversation === opened);
    const messages = [...(history?.rows ?? []), ...waiting.map(({ message }) => message)];
    const counterpart = counterpartOf(opened, history);
    const same = old?.conversation === opened ? old : null;
    const next: Thread = {
      conversation: opened,
      status,
      error,
      messages: same ? share(same.messages, messages) : messages,
      hasOlder: !!history?.next,
      isLoadingOlder,
      counterpart: same ? share(same.counterpart, counterpart) : counterpart,
    };
    return same ? share(same, next) : next;
  }

  function emit(): void {
    const old = state.value;
    const next: ConversationStoreState = {
      user: client.user,
      connection,
      conversations: list.shown,
      conversationsStatus,
      conversationsError,
      hasMoreConversations: !!list.next,
      thread: threadNow(old.thread),
      unreadTotal: list.shown.reduce((total, { unread_count }) => total + unread_count, 0),
    };
    if (share(old, next) !== old) state.set(next);
  }

  // Loading.

  /** Waits; answers whether the store is still alive then. Good news cuts it short unless it is firm. */
  function pause(delay: number, isFirm = false): Promise<boolean> {
    return new Promise((resolve) => {
      const done = (isOver: boolean): void => {
        if (isFirm && !isOver) return;
        clearTimeout(timer);
        pauses.delete(done);
        resolve(!!life);
      };
      const timer = setTimeout(done, delay, true);
      pauses.add(done);
    });
  }

  /**
   * Makes a call, again and again as long as it may succeed later; answers whether it has. What comes meanwhile is recorded for it.
   * `failed` is told of each failure, and answers whether to go on.
   */
  async function load(
    { signal }: AbortController,
    call: (since: MessageEvent[]) => Promise<() => void>,
    failed: (problem: ProblemError) => boolean,
  ): Promise<boolean> {
    const delays = new Backoff();
    for (;;) {
      const since: MessageEvent[] = [];
      recordings.add(since);
      try {
        const apply = await call(since);
        if (signal.aborted) return false;
        apply();
        emit();
        return true;
      } catch (thrown) {
        if (signal.aborted) return false;
        const problem = thrown as ProblemError;
        const goesOn = failed(problem) && problem.isTemporary;
        emit();
        if (!goesOn || !(await pause(...retryDelay(problem, delays))) || signal.aborted) return false;
      } finally {
        recordings.delete(since);
      }
    }
  }

  async function loadList(kind: 'new' | 'again'): Promise<boolean> {
    listCall?.abort();
    const call = (listCall = new AbortController());
    isListNew = kind === 'new';
    const limit = Math.min(Math.max(list.shown.length, PAGE), PAGE_MAX);
    const isLoaded = await load(
      call,
      async (since) => {
        const page = await client.conversations({ limit, signal: call.signal });
        return () => {
          list.user = client.user;
          list.addPage(page, since, kind);
          conversationsStatus = 'ready';
          conversationsError = null;
          client.connect(page.cursor);
        };
      },
      (problem) => {
        if (kind === 'new') {
          conversationsError = problem;
          if (conversationsStatus === 'loading') conversationsStatus = 'failed';
          // The open conversation waits for the position that comes with the list.
          if (client.cursor === undefined) [status, error] = ['failed', problem];
        }
        return true;
      },
    );
    if (listCall === call) listCall = null;
    return isLoaded;
  }

  async function loadThread(): Promise<void> {
    const conversation = opened;
    if (conversation === null || !life || client.cursor === undefined) return;
    threadCall?.abort();
    const call = (threadCall = new AbortController());
    const limit = Math.min(Math.max(histories.get(conversation)?.rows.length ?? 0, PAGE), PAGE_MAX);
    await load(
      call,
      async (since) => {
        const page = await client.messages(conversation, { limit, signal: call.signal });
        return () => {
          const history = new History(conversation, page, since);
          histories.set(conversation, history);
          for (const { id } of history.rows) outbox.delete(id);
          [status, error, isLoadingOlder, isStale] = ['ready', null, false, false];
          markSeen();
        };
      },
      (problem) => {
        error = problem;
        if (!histories.has(conversation)) status = 'failed';
        return true;
      },
    );
    if (threadCall === call) threadCall = null;
  }

  /** Loads everything anew. What is shown stays until it is replaced. */
  async function loadAll(): Promise<void> {
    recordings.clear();
    moreCall.abort();
    isLoadingMore = false;
    isStale = true;
    for (const conversation of histories.keys()) if (conversation !== opened) histories.delete(conversation);
    const listed = loadList('new');
    if (client.cursor === undefined) await listed;
    await Promise.all([listed, loadThread()]);
  }

  /** Loads the list again a little later if it is in doubt. */
  async function refresh(): Promise<void> {
    if (willRefresh || !list.isDoubtful || !life) return;
    willRefresh = true;
    await pause(REFRESH_DELAY * (1 + Math.random()), true);
    willRefresh = false;
    // A list that is being loaded anew is in no doubt.
    if (!life || (listCall && isListNew) || !list.isDoubtful) return;
    if (await loadList('again')) void refresh();
  }

  // What the gateway tells.

  function hear(events: readonly MessageEvent[]): void {
    for (const since of recordings) since.push(...events);
    list.user = client.user;
    list.applyAll(events);
    for (const event of events) {
      outbox.delete(event.message.id);
      for (const history of histories.values()) history.apply(event);
    }
    for (const [conversation, { rows, loaded }] of histories) {
      if (rows.length <= loaded + GROWTH_MAX) continue;
      if (conversation !== opened) histories.delete(conversation);
      else if (!threadCall) void loadThread();
    }
    markSeen();
    emit();
    void refresh();
  }

  function ready({ resumed }: Ready): void {
    // Without the old position, what has been loaded may lie before the new one.
    if (!resumed) void loadAll();
    for (const done of [...pauses]) done(false);
    for (const { conversation } of outbox.values()) void deliver(conversation);
    markSeen();
    void refresh();
  }

  // Reading and sending.

  /** Marks the open conversation as read if somebody sees it. */
  function markSeen(): void {
    const history = opened === null ? undefined : histories.get(opened);
    if (!history || !life || globalThis.document?.visibilityState === 'hidden') return;
    const { conversation, rows } = history;
    if (!list.find(conversation)?.unread_count && !rows.some((row) => isUnread(row, client.user))) return;
    list.markRead(conversation);
    seen.add(conversation);
    if (!isMarking) void markRead(life.signal);
  }

  async function markRead(signal: AbortSignal): Promise<void> {
    isMarking = true;
    for (const conversation of seen) {
      seen.delete(conversation);
      await client.markRead(conversation, { signal }).catch(() => {
        list.isDoubtful = true;
      });
    }
    isMarking = false;
    void refresh();
  }

  function setOutgoing(id: string, state: ThreadMessage['state'], failure?: ProblemError): void {
    const outgoing = outbox.get(id);
    if (!outgoing) return;
    const { error: _old, ...message } = outgoing.message;
    outbox.set(id, { ...outgoing, message: { ...message, state, ...(failure && { error: failure }) } });
    emit();
  }

  /** Sends what waits in a conversation, one message after the other. */
  async function deliver(conversation: string): Promise<void> {
    if (!life || lanes.has(conversation)) return;
    const { signal } = life;
    const delays = new Backoff();
    lanes.add(conversation);
    for (;;) {
      const next = [...outbox.values()].find((one) => one.conversation === conversation && one.message.state === 'sending');
      if (!next || signal.aborted) break;
      const { id, content } = next.message;
      try {
        accept(conversation, await client.send(conversation, { id, content }, { signal }));
        delays.reset();
      } catch (thrown) {
        // The event may have been quicker than the answer.
        if (signal.aborted || !outbox.has(id)) continue;
        const problem = thrown as ProblemError;
        if (problem.isTemporary) await pause(...retryDelay(problem, delays));
        else setOutgoing(id, 'failed', problem);
      }
    }
    lanes.delete(conversation);
  }

  function accept(conversation: string, message: Message): void {
    // If the event was quicker, it has told everything, and perhaps that the message has been deleted since.
    if (!outbox.delete(message.id)) return;
    histories.get(conversation)?.answer(message);
    list.answer(conversation, message);
    emit();
  }

  return {
    subscribe: (run) => state.subscribe(run),
    snapshot: () => state.value,

    start() {
      if (life) return;
      life = new AbortController();
      const { signal } = life;
      const ends = [
        client.on('batch', hear),
        client.on('ready', ready),
        client.connection.subscribe((value) => {
          connection = value;
          emit();
        }),
      ];
      signal.addEventListener('abort', () => ends.forEach((end) => end()));
      globalThis.document?.addEventListener('visibilitychange', markSeen, { signal });
      void loadAll();
      for (const { conversation } of outbox.values()) void deliver(conversation);
    },

    close() {
      life?.abort();
      life = null;
      listCall?.abort();
      threadCall?.abort();
      moreCall.abort();
      olderCall.abort();
      for (const done of [...pauses]) done(true);
    },

    open(conversation) {
      if (conversation === opened) return;
      threadCall?.abort();
      threadCall = null;
      olderCall.abort();
      if (isStale && opened !== null) histories.delete(opened);
      opened = conversation;
      const history = conversation === null ? undefined : histories.get(conversation);
      [status, error, isLoadingOlder, isStale] = [history ? 'ready' : 'loading', null, false, false];
      if (history) {
        // It is the one that was opened last.
        histories.delete(history.conversation);
        histories.set(history.conversation, history);
      }
      for (const [recent, { rows }] of histories) {
        if (recent !== conversation && (histories.size > RECENT_MAX || rows.length > PAGE_MAX)) histories.delete(recent);
      }
      markSeen();
      emit();
      if (!history) void loadThread();
    },

    async loadOlder() {
      const history = opened === null ? undefined : histories.get(opened);
      const before = history?.next;
      if (!history || !before || isLoadingOlder) return;
      const call = (olderCall = new AbortController());
      isLoadingOlder = true;
      emit();
      await load(
        call,
        async (since) => {
          const page = await client.messages(history.conversation, { limit: PAGE, before, signal: call.signal });
          return () => {
            history.addPage(page, since);
            [error, isLoadingOlder] = [null, false];
          };
        },
        (problem) => {
          [error, isLoadingOlder] = [problem, false];
          return false;
        },
      );
    },

    async loadMoreConversations() {
      const before = list.next;
      if (!before || isLoadingMore) return;
      const call = (moreCall = new AbortController());
      isLoadingMore = true;
      await load(
        call,
        async (since) => {
          const page = await client.conversations({ limit: PAGE, before, signal: call.signal });
          return () => {
            list.addPage(page, since, 'more');
            conversationsError = null;
          };
        },
        (problem) => {
          conversationsError = problem;
          return false;
        },
      );
      if (moreCall === call) isLoadingMore = false;
    },

    reload: loadAll,

    send(content) {
      const conversation = opened;
      if (conversation === null) throw new Error('No conversation is open.');
      const { userId, productId } = parseConversation(conversation);
      const id = crypto.randomUUID();
      const message: ThreadMessage = {
        id,
        sender_id: client.user ?? '',
        receiver_id: userId,
        product_id: productId,
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
      };
      outbox.set(id, { conversation, message });
      emit();
      void deliver(conversation);
      return id;
    },

    retry(id) {
      const outgoing = outbox.get(id);
      if (outgoing?.message.state !== 'failed') return;
      // It goes to the end, because what was written after it may have been sent.
      outbox.delete(id);
      outbox.set(id, outgoing);
      setOutgoing(id, 'sending');
      void deliver(outgoing.conversation);
    },

    discard(id) {
      if (outbox.get(id)?.message.state !== 'failed') return;
      outbox.delete(id);
      emit();
    },
  };
}
