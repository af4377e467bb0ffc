/** Finds the addresses in a message. What comes out is text and addresses, never HTML. Pure. */

/** A piece of a message: text, or an address as it was written and where it leads. */
export interface Segment {
  readonly text: string;
  /** `null` if the piece is no link. */
  readonly href: string | null;
}

/** What may be an address: everything from the scheme to the next space, quotation mark or angle bracket. */
const CANDIDATE = /\bhttps?:\/\/[^\s<>"“”«»]+/giu;

/** What ends a sentence rather than an address. */
const TRAILING = /[.,;:!?'’*_~…]$/u;

/** Brackets that end an address only if it opened them. */
const BRACKETS: Readonly<Record<string, string>> = { ')': '(', ']': '[', '}': '{' };

/** Splits a message at its addresses. Joined, the texts are the message. */
export function splitLinks(content: string): Segment[] {
  const segments: Segment[] = [];
  let end = 0;
  const addText = (until: number): void => {
    if (until > end) segments.push({ text: content.slice(end, until), href: null });
    end = until;
  };
  for (const { 0: candidate, index } of content.matchAll(CANDIDATE)) {
    const text = candidate.slice(0, addressLength(candidate));
    const href = safeAddress(text);
    if (href === null) continue;
    addText(index);
    segments.push({ text, href });
    end = index + text.length;
  }
  addText(content.length);
  return segments;
}

/** How much of a candidate is the address, without the punctuation of the sentence around it. */
function addressLength(candidate: string): number {
  const open = new Map<string, number>();
  for (const character of candidate) open.set(character, (open.get(character) ?? 0) + 1);
  let length = candidate.length;
  for (; length > 0; length--) {
    const last = candidate.charAt(length - 1);
    const opening = BRACKETS[last];
    if (opening !== undefined) {
      const closed = open.get(last) ?? 0;
      if (closed <= (open.get(opening) ?? 0)) break;
      open.set(last, closed - 1);
    } else if (!TRAILING.test(last)) {
      break;
    }
  }
  return length;
}

/**
 * Where an address leads, if a message may lead there: by http or https, and with nobody's name before the host, which could make
 * one host look like another.
 */
function safeAddress(text: string): string | null {
  if (!URL.canParse(text)) return null;
  const { protocol, username, password, href } = new URL(text);
  return (protocol === 'http:' || protocol === 'https:') && !username && !password ? href : null;
}
