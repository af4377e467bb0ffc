/** What carries a session's frames: a WebSocket, or Server-Sent Events where those do not pass. */

import { lost, type Api } from './api.js';
import { eventStreamParser } from './event-stream.js';
import { ProblemError } from './types.js';

/** Told what comes. */
export interface Hearer {
  /** Something came, if only a comment. */
  alive(): void;
  /** A frame came. */
  frame(text: string): void;
  /** The connection is no more, or did not come about. */
  ended(loss: ProblemError): void;
}

/** An open connection, or one that is being opened. */
export interface Carrier {
  /** Sends a frame; absent where there is no way back. */
  send?(frame: object): void;
  /** Lets go of it. */
  close(): void;
}

/** Opens a WebSocket. The token travels as a subprotocol, because addresses end up in logs. */
export function openSocket(api: Api, token: string, query: string, hearer: Hearer): Carrier {
  const socket = new WebSocket(`${api.base.replace(/^http/, 'ws')}/v1/socket${query}`, ['herald.v1', `bearer.${token}`]);
  socket.onmessage = ({ data }) => {
    hearer.alive();
    hearer.frame(data as string);
  };
  // What an error was is told to nobody; the close event follows. The package `ws` throws what nobody listens to.
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => hearer.ended(lost(code, reason));
  return {
    send: (frame) => socket.send(JSON.stringify(frame)),
    close: () => socket.close(),
  };
}

/** Asks for Server-Sent Events. Not by `EventSource`, which can set no header and tells no status. */
export function openEvents(api: Api, query: string, hearer: Hearer): Carrier {
  const ending = new AbortController();
  const read = async (): Promise<void> => {
    const answer = await api.request(`/v1/events${query}`, { signal: ending.signal });
    const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
    const parse = eventStreamParser();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw lost();
      hearer.alive();
      parse(value).forEach(hearer.frame);
    }
  };
  read().catch((error: unknown) => hearer.ended(error instanceof ProblemError ? error : lost()));
  return { close: () => ending.abort() };
}
