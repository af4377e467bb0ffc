/** How long things may take, and how many of them there may be. A module of their own, because bundlers then put the numbers in. */

/** How long an answer may take, in milliseconds. */
export const ANSWER_DEADLINE = 20_000;

/** How long the first frame may take, in milliseconds: a gateway allows a replay fifteen seconds. */
export const READY_DEADLINE = 20_000;

/** How soon the gateway has to answer when the page comes back into sight, in milliseconds. */
export const PROBE_DEADLINE = 5_000;

/** A session that lasted this long was a good one even if nothing happened, in milliseconds. */
export const LASTED = 10_000;

/** The share of a token's remaining life after which the next one is asked for. */
export const RENEW_AFTER = 0.8;

/** The least time between two attempts to get a token in a session, in milliseconds. */
export const RENEW_PAUSE = 1_000;

/** The longest time between two tokens, in milliseconds: a day. A browser's timers take 24 of them. */
export const RENEW_MAX = 86_400_000;

/** If more WebSockets than these fail in a row, Server-Sent Events are used. */
export const SOCKET_FAILURES = 1;

/** After this time WebSockets are tried again when a connection is opened, in milliseconds. */
export const SOCKET_BAN = 600_000;

/** What a page holds if nothing is said, and at most (PROTOCOL.md, "Paging"). */
export const PAGE = 50;
export const PAGE_MAX = 200;

/** So many conversations are kept, so that going back to them takes no time. */
export const RECENT_MAX = 5;

/** After so many new messages the open conversation is cut back to its newest ones. */
export const GROWTH_MAX = 500;

/** How long doubts are gathered before the list is loaded again, in milliseconds; up to twice as long, for the sake of the gateway. */
export const REFRESH_DELAY = 1_000;
