/**
 * Conversations and the open one of them, live: the one place where what a page shows is kept.
 *
 * What keeps pages and events together is one rule: **a page is asked for only while the stream has a position** (or its cursor becomes that
 * position), so that the page is never older than the stream, and nothing falls between them. What comes while it is on its way is
 * recorded, and applied after it. `history.ts` and `list.ts` say what follows from that.
 */

import type { HeraldClient } from './client.js';
import { aboutConversation, parseConversation } from './conversation.js';
import { History } from './history.js';
import { ConversationList, isUnread } from './list.js';
import { Writable } from './readable.js';
import { Backoff, retryDelay } from './recovery.js';
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

/** What is loaded: the list anew, the list because of a doubt, the open conversation, or another page of either. */
type Slot = 'list' | 'again' | 'more' | 'thread' | 'older';

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
  /** Calls on their way, one of a kind. */
  const calls: { [S in Slot]?: AbortController | undefined } = {};
  /** What has come since each of them began. */
  const recordings = new Set<MessageEvent[]>();
  /** Cuts pauses short. */
  const pauses = new Set<(isOver: boolean) => void>();

  /** Ends everything; there is none before `start()`. */
  let life: AbortController | undefined;
  let conversationsStatus: ConversationStoreState['conversationsStatus'] = 'loading';
  let conversationsError: ProblemError | null = null;
  let opened: string | null = null;
  let status: Thread['status'] = 'loading';
  let error: ProblemError | null = null;
  /** Whether the open conversation has to be loaded again because events may have been missed. */
  let isStale = false;
  let isMarking = false;
  let willRefresh = false;
  let connection: ConversationStoreState['connection'] = { status: 'idle' };

  // What is shown.

  /** The open conversation, as far as it is loaded. */
  const history = (): History | undefined => histories.get(opened!);

  function threadNow(old: Thread | null): Thread | null {
    if (opened === null) return null;
    const { rows = [], next = null } = history() ?? {};
    const row = rows.at(-1);
    const waiting = [...outbox.values()].filter(({ conversation }) => conversation === opened);
    const thread: Thread = {
      conversation: opened,
      status,
      error,
      messages: [...rows, ...waiting.map(({ message }) => message)],
      hasOlder: !!next,
      isLoadingOlder: !!calls.older,
      counterpart: {
        ...aboutConversation(opened, row),
        ...(!row && list.find(opened)),
        product_price: row?.product_price ?? null,
      },
    };
    if (old?.conversation !== opened) return thread;
    const { messages, counterpart } = old;
    return share(old, {
      ...thread,
      messages: share(messages, thread.messages),
      counterpart: share(counterpart, thread.counterpart),
    });
  }

  const stateNow = (old: Thread | null): ConversationStoreState => ({
    user: client.user,
    connection,
    conversations: list.shown,
    conversationsStatus,
    conversationsError,
    hasMoreConversations: !!list.next,
    thread: threadNow(old),
    unreadTotal: list.shown.reduce((total, { unread_count }) => total + unread_count, 0),
  });
  const state = new Writable(stateNow(null), client.onError);

  function emit(): void {
    const old = state.value;
    const next = share(old, stateNow(old.thread));
    if (next !== old) state.set(next);
  }

  // Loading.

  /** Waits. Good news cuts it short unless it is firm, and so does the end. */
  const pause = (delay: number, isFirm = false): Promise<void> =>
    new Promise((resolve) => {
      const done = (isOver: boolean): void => {
        if (isFirm && !isOver) return;
        clearTimeout(timer);
        pauses.delete(done);
        resolve();
      };
      const timer = setTimeout(done, delay, true);
      pauses.add(done);
    });

  function cancel(...slots: Slot[]): void {
    for (const slot of slots) {
      calls[slot]?.abort();
      calls[slot] = undefined;
    }
  }

  /**
   * Makes a call, again and again as long as it may succeed later; answers whether it has. It gets what has come since it was made.
   * `failed` is told of each failure, and answers whether to go on.
   */
  async function load<T>(
    slot: Slot,
    call: (signal: AbortSignal) => Promise<T>,
    apply: (page: T, since: readonly MessageEvent[]) => void,
    failed: (problem: ProblemError) => boolean,
  ): Promise<boolean> {
    cancel(slot);
    const { signal } = (calls[slot] = new AbortController());
    const delays = new Backoff();
    emit();
    for (;;) {
      const since: MessageEvent[] = [];
      recordings.add(since);
      let problem: ProblemError;
      try {
        const page = await call(signal);
        if (signal.aborted) return false;
        cancel(slot);
        apply(page, since);
        emit();
        return true;
      } catch (thrown) {
        problem = thrown as ProblemError;
      } finally {
        recordings.delete(since);
      }
      if (signal.aborted) return false;
      const goesOn = failed(problem) && problem.isTemporary;
      if (!goesOn) cancel(slot);
      emit();
      if (goesOn) await pause(...retryDelay(problem, delays));
      if (signal.aborted) return false;
    }
  }

  function loadList(slot: 'list' | 'again'): Promise<boolean> {
    const limit = Math.min(Math.max(list.shown.length, PAGE), PAGE_MAX);
    return load(
      slot,
      (signal) => client.conversations({ limit, signal }),
      (page, since) => {
        list.user = client.user;
        list.addPage(page, since, slot);
        conversationsStatus = 'ready';
        conversationsError = null;
        client.connect(page.cursor);
      },
      (problem) => {
        if (slot === 'list') {
          conversationsError = problem;
          if (conversationsStatus === 'loading') conversationsStatus = 'failed';
          // The open conversation waits for the position that comes with the list.
          if (client.cursor === undefined) [status, error] = ['failed', problem];
        }
        return true;
      },
    );
  }

  async function loadThread(): Promise<void> {
    const conversation = opened;
    if (conversation === null || !life || client.cursor === undefined) return;
    cancel('older');
    const limit = Math.min(Math.max(history()?.rows.length ?? 0, PAGE), PAGE_MAX);
    await load(
      'thread',
      (signal) => client.messages(conversation, { limit, signal }),
      (page, since) => {
        const shown = new History(conversation, page, since);
        histories.set(conversation, shown);
        for (const { id } of shown.rows) outbox.delete(id);
        [status, error, isStale] = ['ready', null, false];
        markSeen();
      },
      (problem) => {
        error = problem;
        if (!history()) status = 'failed';
        return true;
      },
    );
  }

  /** Loads everything anew. What is shown stays until it is replaced. */
  async function loadAll(): Promise<void> {
    cancel('again', 'more', 'thread', 'older');
    isStale = true;
    for (const conversation of histories.keys()) if (conversation !== opened) histories.delete(conversation);
    const listed = loadList('list');
    if (client.cursor === undefined) await listed;
    await Promise.all([listed, loadThread()]);
  }

  /** Loads the list again a little later if it is in doubt. */
  async function refresh(): Promise<void> {
    if (willRefresh || !list.isDoubtful) return;
    willRefresh = true;
    await pause(REFRESH_DELAY * (1 + Math.random()), true);
    willRefresh = false;
    // A list that is being loaded anew is in no doubt.
    if (life && !calls.list && list.isDoubtful && (await loadList('again'))) void refresh();
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
      else if (!calls.thread) void loadThread();
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
    const shown = history();
    if (!shown || !life || globalThis.document?.visibilityState === 'hidden') return;
    const { conversation, rows } = shown;
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
      life = undefined;
      cancel('list', 'again', 'more', 'thread', 'older');
      for (const done of [...pauses]) done(true);
    },

    open(conversation) {
      if (conversation === opened) return;
      cancel('thread', 'older');
      if (isStale) histories.delete(opened!);
      opened = conversation;
      const shown = history();
      [status, error, isStale] = [shown ? 'ready' : 'loading', null, false];
      if (shown) {
        // It is the one that was opened last.
        histories.delete(shown.conversation);
        histories.set(shown.conversation, shown);
      }
      for (const [recent, { rows }] of histories) {
        if (recent !== conversation && (histories.size > RECENT_MAX || rows.length > PAGE_MAX)) histories.delete(recent);
      }
      markSeen();
      emit();
      if (!shown) void loadThread();
    },

    async loadOlder() {
      const shown = history();
      const before = shown?.next;
      if (!before || calls.older) return;
      await load(
        'older',
        (signal) => client.messages(shown.conversation, { before, signal }),
        (page, since) => {
          error = null;
          shown.addPage(page, since);
        },
        (problem) => {
          error = problem;
          return false;
        },
      );
    },

    async loadMoreConversations() {
      const before = list.next;
      if (!before || calls.more) return;
      await load(
        'more',
        (signal) => client.conversations({ before, signal }),
        (page, since) => {
          conversationsError = null;
          list.addPage(page, since, 'more');
        },
        (problem) => {
          conversationsError = problem;
          return false;
        },
      );
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
