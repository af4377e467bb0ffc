/** Finds out whose page this is, and gets tokens for that person. */

import { ProblemError, type HeraldClientOptions } from '@herald/client';

/** Where the page finds its gateway and its tokens. */
export interface Settings {
  /** Answers the tokens of whoever is signed in; `null` for the demo, whose gateway signs in whom it is told to. */
  readonly tokenAddress: string | null;
  readonly gateway: URL;
}

/** Somebody of the demo. */
export interface Person {
  readonly id: string;
  readonly username: string;
  readonly avatar_url: string | null;
}

/** Who is signed in. */
export interface SignedIn {
  readonly token: HeraldClientOptions['token'];
  /** `null` if only the token knows. */
  readonly person: Person | null;
}

/** The people of the demo to choose from, and who was asked for in vain. */
export interface Choice {
  readonly people: readonly Person[];
  readonly unknown: string | null;
}

const SIGNED_OUT = 'You are not signed in any more. Sign in where you came from, then load this page again.';
const UNREACHABLE = 'The server cannot be reached. Look after your connection, then try again.';
const NOT_SET_UP =
  'This page was not told where its tokens come from. Whoever runs it sets the address in its “herald-token-url”, or runs the demo.';

/** Reads what the page's head says. */
export function readSettings(page: Document): Settings {
  const read = (name: string): string | null =>
    page.querySelector<HTMLMetaElement>(`meta[name="${name}"]`)?.content.trim() || null;
  const tokenAddress = read('herald-token-url');
  return {
    tokenAddress: tokenAddress && new URL(tokenAddress, page.baseURI).href,
    // The gateway serves the page, so its paths begin where the page lies.
    gateway: new URL(read('herald-url') ?? '.', page.baseURI),
  };
}

/**
 * Signs in.
 *
 * @param as - who of the demo's people to be.
 * @throws ProblemError with what to do about it.
 */
export async function signIn({ tokenAddress, gateway }: Settings, as: string | null): Promise<SignedIn | Choice> {
  if (tokenAddress !== null) {
    return { token: () => tokenOf(tokenAddress, { credentials: 'include' }), person: null };
  }
  const { people } = await ask<{ people: readonly Person[] }>(below(gateway, 'demo/people'), {});
  const person = people.find(({ username }) => username === as);
  if (!person) return { people, unknown: as };
  const request = {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ username: person.username }),
  };
  return { token: () => tokenOf(below(gateway, 'demo/token'), request), person };
}

/** A path of the gateway. */
function below(gateway: URL, path: string): string {
  return new URL(path, gateway.href.replace(/\/*$/, '/')).href;
}

async function tokenOf(address: string, request: RequestInit): Promise<string> {
  const { token } = await ask<{ token?: unknown }>(address, request);
  if (typeof token === 'string') return token;
  throw new ProblemError(500, 'The server answered no token. Tell whoever runs it.');
}

async function ask<T>(address: string, request: RequestInit): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(address, { cache: 'no-store', ...request });
  } catch {
    throw new ProblemError(0, UNREACHABLE);
  }
  const { status } = answer;
  if (status === 401 || status === 403) throw new ProblemError(status, SIGNED_OUT);
  if (status === 404) throw new ProblemError(status, NOT_SET_UP);
  if (!answer.ok) throw new ProblemError(status, `The server cannot sign you in (HTTP ${status}). Try again in a minute.`);
  try {
    return (await answer.json()) as T;
  } catch {
    throw new ProblemError(404, NOT_SET_UP);
  }
}
