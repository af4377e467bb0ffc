/** The HTTP API, and the tokens that it and the connection need. */

import type { ErrorSink } from './readable.js';
import { ProblemError, type HeraldClientOptions, type TokenRequest } from './types.js';
import { ANSWER_DEADLINE } from './limits.js';

/** What a token says of itself. Only the gateway can tell whether that is true. */
export interface Claims {
  readonly sub?: string;
  /** In seconds since 1970. */
  readonly exp?: number;
  readonly iat?: number;
}

/** Reads a token's claims; a token that cannot be read has none. */
export function claimsOf(token: string): Claims {
  try {
    const body = token.split('.')[1]!;
    return JSON.parse(atob(body.replace(/-/g, '+').replace(/_/g, '/'))) as Claims;
  } catch {
    return {};
  }
}

/**
 * How much longer a token is good, in milliseconds. A clock that is wrong by more than a token's life is not believed, and the
 * token is then taken to be fresh.
 */
export function remainingLife({ exp = Infinity, iat = 0 }: Claims, now: number): number {
  const life = (exp - iat) * 1000;
  const remaining = exp * 1000 - now;
  return remaining > 0 && remaining < life ? remaining : life;
}

/** What a call takes besides its address. */
type Init = { [K in 'method' | 'body' | 'signal']?: RequestInit[K] | undefined };

/** Calls the gateway as the person whose tokens it is given. */
export class Api {
  /** The gateway's address, without a slash at its end. */
  readonly base: string;
  /** Whose token it is, as far as the token says. */
  user: string | null = null;
  /** When the token at hand ends, in milliseconds as `Date.now()` counts them. */
  expiresAt = 0;
  readonly #source: HeraldClientOptions['token'];
  #token = '';
  #asked: Promise<string> | null = null;
  #calls = new AbortController();

  constructor(
    options: HeraldClientOptions,
    readonly onError: ErrorSink,
  ) {
    this.base = `${new URL(options.url, globalThis.location?.href)}`.replace(/\/$/, '');
    this.#source = options.token;
  }

  /** The token at hand, or a first one. */
  async token(): Promise<string> {
    return Date.now() < this.expiresAt ? this.#token : this.renew(this.#token ? 'rejected' : 'start');
  }

  /**
   * Asks for another token, unless that has been done already.
   *
   * @param old - the token at hand when that became necessary.
   */
  async renew(reason: TokenRequest['reason'], old = this.#token): Promise<string> {
    if (this.#token !== old) return this.#token;
    return (this.#asked ??= this.#ask(reason).finally(() => (this.#asked = null)));
  }

  async #ask(reason: TokenRequest['reason']): Promise<string> {
    try {
      const token = await this.#source({ reason });
      const claims = claimsOf(token);
      const now = Date.now();
      this.user = claims.sub ?? this.user;
      this.expiresAt = now + remainingLife(claims, now);
      return (this.#token = token);
    } catch (error) {
      this.onError(error);
      // One that only ends soon is better than none.
      if (reason === 'rejected') this.expiresAt = 0;
      throw error;
    }
  }

  /** Calls, and reads the JSON of the answer, if it has any. */
  async json<T>(path: string, init: Init): Promise<T> {
    const own = this.#calls.signal;
    const cause = init.signal ?? own;
    const signal = AbortSignal.any([own, cause, AbortSignal.timeout(ANSWER_DEADLINE)]);
    try {
      const text = await (await this.request(path, { ...init, signal })).text();
      return (text && JSON.parse(text)) as T;
    } catch (error) {
      throw error instanceof ProblemError || own.aborted || cause.aborted ? error : lost();
    }
  }

  /** Calls, once more with a new token if this one is not accepted. The answer is one of success. */
  async request(path: string, init: Init & { signal: AbortSignal }): Promise<Response> {
    for (let attempt = 0; ; attempt++) {
      const token = await this.token();
      init.signal.throwIfAborted();
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
      const answer = await fetch(this.base + path, { ...init, headers } as RequestInit);
      if (answer.ok) return answer;
      const { status } = answer;
      if (status !== 401 || attempt > 0) {
        // What is no problem body was sent by no gateway; its status says enough.
        const { detail = `HTTP ${status}` } = (await answer.json().catch(() => ({}))) as { detail?: string };
        throw new ProblemError(status, detail, +answer.headers.get('retry-after')! || 0);
      }
      await this.renew('rejected', token);
    }
  }

  /** Ends all calls that are on their way. */
  abort(): void {
    this.#calls.abort();
    this.#calls = new AbortController();
  }
}

/** The connection ended, or did not come about: with a close code of the protocol, or without a word. */
export function lost(code = 0, reason?: string): ProblemError {
  return new ProblemError(code, reason || 'No connection.');
}
