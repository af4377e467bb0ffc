/** A person's connection to a gateway, which comes back by itself, and the calls of the HTTP API. */

import { Api, lost } from './api.js';
import { openEvents, openSocket, type Hearer } from './carrier.js';
import { Listeners, Writable, type ErrorSink } from './readable.js';
import { Backoff, comeBack, pause, type Poke } from './recovery.js';
import { LASTED, PROBE_DEADLINE, READY_DEADLINE, RENEW_AFTER, RENEW_MAX, RENEW_PAUSE, SOCKET_BAN, SOCKET_FAILURES } from './limits.js';
import type {
  CallOptions,
  ConnectionState,
  ConversationPage,
  Discontinuity,
  HeraldClientOptions,
  HeraldEvents,
  Message,
  MessageEvent,
  MessagePage,
  PageOptions,
  ProblemError,
  Readable,
  Ready,
} from './types.js';

/** Frames of the gateway that matter here; others are ignored. */
type Frame =
  | Ready
  | { type: 'events'; cursor?: string; events: MessageEvent[] }
  | { type: 'close'; code: number; reason: string };

/** The path of something of a conversation. */
function below(conversation: string, what: string): string {
  return `/${encodeURIComponent(conversation)}/${what}`;
}

/** A person's connection to a gateway. */
export class HeraldClient {
  /** Is told what subscribers and the token's source throw. */
  readonly onError: ErrorSink;
  /** Where the connection stands. */
  readonly connection: Readable<ConnectionState> & { readonly value: ConnectionState };
  readonly #state: Writable<ConnectionState>;
  readonly #api: Api;
  readonly #listeners: Listeners<[name: string, value: unknown]>;
  #cursor: string | undefined;
  #running: AbortController | null = null;
  /** When the last session has proved itself: by events at once, otherwise by lasting. Never, if it has not begun. */
  #provesAt = Infinity;
  /** The session or the wait for the next one, which may end or look whether something has changed. */
  readonly #pokes = new Set<Poke>();

  constructor(options: HeraldClientOptions) {
    this.onError = options.onError ?? console.error;
    this.#listeners = new Listeners(this.onError);
    this.#api = new Api(options, this.onError);
    this.connection = this.#state = new Writable<ConnectionState>({ status: 'idle' }, this.onError);
  }

  /** Whose connection it is; `null` before the first token. */
  get user(): string | null {
    return this.#api.user;
  }

  /** Where the stream of events stands: everything before it has been told. It is known while the client is connected or on its way. */
  get cursor(): string | undefined {
    return this.#running ? this.#cursor : undefined;
  }

  /** Connects, from this position on if one is given. While the client is connected or on its way, it does nothing. */
  connect(cursor?: string): void {
    if (this.#running) return;
    const running = (this.#running = new AbortController());
    this.#cursor = cursor;
    const { signal } = running;
    for (const type of ['online', 'offline', 'pageshow', 'visibilitychange']) {
      globalThis.addEventListener?.(type, () => this.#poke(type), { signal });
    }
    this.#run(signal).catch(this.onError);
  }

  /** Ends the connection and all calls on their way. Nothing of it is left behind; `connect()` would begin anew. */
  close(): void {
    this.#stop({ status: 'closed' });
    this.#api.abort();
  }

  /**
   * Listens to events of the gateway. If the connection is lost while a large batch arrives, its events are told again from the
   * batch's beginning, with their messages as they are then: put them into a map by id, and that changes nothing.
   *
   * @returns a function that ends that.
   */
  on<E extends keyof HeraldEvents>(event: E, listener: (value: HeraldEvents[E]) => void): () => void {
    return this.#listeners.add(([name, value]) => name === event && listener(value as HeraldEvents[E]));
  }

  /** Loads a page of conversations, newest first. */
  conversations(options: PageOptions = {}): Promise<ConversationPage> {
    return this.#page('', options);
  }

  /** Loads a page of a conversation: the newest messages, or those before the page that is named. */
  messages(conversation: string, options: PageOptions = {}): Promise<MessagePage> {
    return this.#page(below(conversation, 'messages'), options);
  }

  /** Sends a message. Repeated with the same id, it is written once. */
  async send(
    conversation: string,
    { id, content }: { readonly id: string; readonly content: string },
    options?: CallOptions,
  ): Promise<Message> {
    const body = JSON.stringify({ id, content });
    return (await this.#post<{ message: Message }>(below(conversation, 'messages'), options, body)).message;
  }

  /**
   * Marks as read what the person has received in a conversation.
   *
   * @returns how many messages that were.
   */
  async markRead(conversation: string, options?: CallOptions): Promise<number> {
    return (await this.#post<{ updated: number }>(below(conversation, 'read'), options)).updated;
  }

  #page<T>(path: string, { limit = 50, before, signal }: PageOptions): Promise<T> {
    const after = before ? `&before=${encodeURIComponent(before)}` : '';
    return this.#api.json(`/v1/conversations${path}?limit=${limit}${after}`, { signal });
  }

  #post<T>(path: string, options?: CallOptions, body?: string): Promise<T> {
    return this.#api.json(`/v1/conversations${path}`, { signal: options?.signal, method: 'POST', body });
  }

  #emit<E extends keyof HeraldEvents>(event: E, value: HeraldEvents[E]): void {
    this.#listeners.call([event, value]);
  }

  #poke(news?: string): void {
    for (const poke of this.#pokes) poke(news);
  }

  #stop(state: ConnectionState): undefined {
    this.#running?.abort();
    this.#running = null;
    this.#poke();
    this.#state.set(state);
  }

  /** Tells where the connection stands while there is none. */
  #show(state: ConnectionState): void {
    // The browser may be wrong, above all where the gateway is on the same machine, so that this changes nothing else.
    this.#state.set(globalThis.navigator?.onLine === false ? { status: 'offline' } : state);
  }

  /** Holds sessions, one after the other, until there is no point in another or the signal ends it. */
  async #run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff();
    let socketFailures = 0;
    let socketBanEnds = 0;
    let loss: ProblemError | undefined = lost();
    for (let attempt = 1; !signal.aborted; attempt++) {
      // Where one session only takes another one's place, nobody needs to know.
      if (loss) this.#show({ status: 'connecting', attempt });
      const isSocket = Date.now() > socketBanEnds;
      this.#provesAt = Infinity;
      loss = await this.#session(isSocket, signal).catch((error: ProblemError) => {
        // The source of tokens has none and will have none: the person is signed out.
        if (error.isTemporary === false && !signal.aborted) return this.#stop({ status: 'refused', code: error.status, reason: error.detail });
        return lost(-1, error.message);
      });
      const hasProved = Date.now() > this.#provesAt;
      if (this.#provesAt < Infinity) {
        attempt = 0;
        if (isSocket) socketFailures = 0;
      } else if (isSocket && loss && [0, 1006].includes(loss.status)) {
        // A browser does not tell why a WebSocket did not open, but HTTP does.
        try {
          await this.#api.json('/v1/events', { method: 'HEAD', signal });
          // HTTP is let in, so it is the WebSockets that do not pass.
          if (++socketFailures > SOCKET_FAILURES) {
            socketBanEnds = Date.now() + SOCKET_BAN;
            loss = undefined;
          }
        } catch (error) {
          loss = error as ProblemError;
        }
      }
      if (signal.aborted) return;
      if (hasProved) backoff.reset();
      if (!loss) continue;
      const { status, detail: reason } = loss;
      const delay = comeBack(loss, hasProved, backoff);
      if (!delay) return this.#stop({ status: 'refused', code: status, reason });
      // A source that has none now may have one for the next attempt, which asks again.
      if (status === 401 || status === 4001) await this.#api.renew('rejected').catch(() => {});
      const [wait, isFirm] = delay;
      if (wait && !signal.aborted) {
        this.#show({ status: 'waiting', retryAt: Date.now() + wait, reason });
        await pause(wait, isFirm, this.#pokes);
      }
    }
  }

  /** Holds one session, and answers how it was lost; if it was not, another one is to take its place with a new token. */
  async #session(isSocket: boolean, signal: AbortSignal): Promise<ProblemError | undefined> {
    const api = this.#api;
    const token = await api.token();
    if (signal.aborted) return undefined;
    return new Promise((resolve) => {
      let beat = 0;
      let hasEnded = false;
      let pulse: ReturnType<typeof setTimeout>;
      let renewal: ReturnType<typeof setTimeout>;

      const end = (loss?: ProblemError): void => {
        hasEnded = true;
        clearTimeout(pulse);
        clearTimeout(renewal);
        this.#pokes.delete(poke);
        carrier.close();
        resolve(loss);
      };
      const fall = (): void => end(lost());

      const pulseAfter = (delay: number, then: () => void): void => {
        clearTimeout(pulse);
        if (!hasEnded) pulse = setTimeout(then, delay);
      };
      const probe = (within: number): void => {
        carrier.send?.({ type: 'ping' });
        pulseAfter(within, fall);
      };
      /** The gateway's own pings are not told to a page, so after one beat of silence it sends one of its own. */
      const alive = (): void => {
        if (beat) pulseAfter(beat, () => probe(1.5 * beat));
      };

      const renewLater = (): void => {
        const delay = Math.max((api.expiresAt - Date.now()) * RENEW_AFTER, RENEW_PAUSE);
        renewal = setTimeout(renew, Math.min(delay, RENEW_MAX));
      };
      const renew = async (): Promise<void> => {
        const next = await api.renew('expiring').catch(() => null);
        if (hasEnded) return;
        if (next && !carrier.send) return end();
        if (next) carrier.send?.({ type: 'auth', token: next });
        renewLater();
      };

      const take = (text: string): void => {
        if (hasEnded) return;
        const frame = JSON.parse(text) as Frame;
        if (frame.type === 'ready') {
          this.#provesAt = Date.now() + LASTED;
          beat = frame.heartbeat_s * 1000;
          alive();
          renewLater();
          api.user = frame.user;
          this.#cursor = frame.cursor;
          this.#state.set({ status: 'live', transport: isSocket ? 'websocket' : 'events' });
          this.#emit('ready', frame);
          if (frame.resumed === false) this.#emit('discontinuity', frame as Ready & Discontinuity);
        } else if (frame.type === 'events') {
          const { events } = frame;
          if (events.length) {
            this.#provesAt = 0;
            this.#emit('batch', events);
          }
          for (const event of events) this.#emit(event.op, event as never);
          this.#cursor = frame.cursor ?? this.#cursor;
        } else if (frame.type === 'close') {
          end(lost(frame.code, frame.reason));
        }
      };

      const hearer: Hearer = { alive, frame: take, ended: end };
      // A cursor consists of letters, digits, dots and hyphens.
      const query = this.#cursor ? `?cursor=${this.#cursor}` : '';
      const carrier = isSocket ? openSocket(api, token, query, hearer) : openEvents(api, query, hearer);
      pulseAfter(READY_DEADLINE, fall);
      const poke: Poke = (news) => {
        if (news && beat && carrier.send) probe(PROBE_DEADLINE);
        // Where nothing can be asked, another session tells as well.
        else if (!news || beat) end();
        else if (news === 'online') fall();
      };
      this.#pokes.add(poke);
    });
  }
}
