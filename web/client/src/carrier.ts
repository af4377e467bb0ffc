/** What carries a session's frames: a WebSocket, or Server-Sent Events where those do not pass. */

import type { Api } from './api.js';
import { eventStreamParser } from './event-stream.js';
import type { Loss } from './recovery.js';
import { ProblemError } from './types.js';

/** Told what comes. After `ended` it is told nothing more. */
export interface Hearer {
  /** Something came, if only a comment. */
  alive(): void;
  /** A frame came. */
  frame(text: string): void;
  /** The connection is no more, or did not come about. */
  ended(loss: Loss): void;
}

/** An open connection, or one that is being opened. */
export interface Carrier {
  /** Sends a frame; absent where there is no way back. */
  send?(frame: object): void;
  /** Lets go of it. Its hearer is told nothing more. */
  close(): void;
}

/** It broke without a word (RFC 6455, 7.1.5). */
export const BROKEN = 1006;

/** Where a session is opened, from the cursor on if there is one. */
function address(path: string, cursor: string | undefined): string {
  return path + (cursor ? `?cursor=${encodeURIComponent(cursor)}` : '');
}

/** Opens a WebSocket. The token travels as a subprotocol, because addresses end up in logs. */
export function openSocket(api: Api, token: string, cursor: string | undefined, hearer: Hearer): Carrier {
  const url = address(`${api.base}/v1/socket`, cursor).replace(/^http/, 'ws');
  let isClosed = false;
  const ended = (code: number, reason: string): void => {
    if (!isClosed) hearer.ended({ code, reason: reason || 'The connection was lost.' });
  };
  let socket: WebSocket;
  try {
    socket = new WebSocket(url, ['herald.v1', `bearer.${token}`]);
  } catch (error) {
    queueMicrotask(() => ended(BROKEN, String(error)));
    return { close: () => void (isClosed = true) };
  }
  socket.onmessage = ({ data }) => {
    if (isClosed) return;
    hearer.alive();
    if (typeof data === 'string') hearer.frame(data);
  };
  // What an error was is told to nobody; the close event follows.
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => ended(code, reason);
  return {
    send(frame) {
      if (socket.readyState === 1) socket.send(JSON.stringify(frame));
    },
    close() {
      isClosed = true;
      socket.close();
    },
  };
}

/** Asks for Server-Sent Events. Not by `EventSource`, which can set no header and tells no status. */
export function openEvents(api: Api, cursor: string | undefined, hearer: Hearer): Carrier {
  const ending = new AbortController();
  const { signal } = ending;
  const ended = (loss: Loss): void => {
    if (!signal.aborted) hearer.ended(loss);
    ending.abort();
  };
  const read = async (): Promise<void> => {
    const headers = { accept: 'text/event-stream' };
    const answer = await api.request(address('/v1/events', cursor), { headers, cache: 'no-store', signal });
    const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
    const parse = eventStreamParser();
    for (;;) {
      const piece = await reader?.read();
      if (!piece || piece.done) return ended({ code: BROKEN, reason: 'The connection was lost.' });
      hearer.alive();
      for (const data of parse(piece.value)) if (!signal.aborted) hearer.frame(data);
    }
  };
  read().catch((error: unknown) =>
    ended(error instanceof ProblemError ? error : { code: BROKEN, reason: 'The gateway cannot be reached.' }),
  );
  return { close: () => ending.abort() };
}
