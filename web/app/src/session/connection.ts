/** What the page says about its connection. Pure. */

import type { ConnectionState } from '@herald/client';

/** A connection in one word, and how good that is. */
export interface Signal {
  readonly label: string;
  readonly tone: 'good' | 'waiting' | 'bad';
}

/** Says where a connection stands. While it comes and goes the word stays the same, so that nobody hears it again and again. */
export function signalOf(connection: ConnectionState): Signal {
  switch (connection.status) {
    case 'live':
      return { label: 'Live', tone: 'good' };
    case 'idle':
      return { label: 'Connecting…', tone: 'waiting' };
    case 'connecting':
      return { label: connection.attempt > 1 ? 'Reconnecting…' : 'Connecting…', tone: 'waiting' };
    case 'waiting':
      return { label: 'Reconnecting…', tone: 'waiting' };
    case 'offline':
      return { label: 'Offline', tone: 'bad' };
    case 'closed':
    case 'refused':
      return { label: 'Disconnected', tone: 'bad' };
  }
}
