/** Characters as the gateway and people count them. Pure. */

/** So many characters a message may have (PROTOCOL.md). */
export const CONTENT_MAX = 10_000;

/** From so many characters left on, they are counted down. */
export const COUNTDOWN_FROM = 500;

/** So many emoji are shown large; more of them are a text of emoji. */
const LARGE_EMOJI_MAX = 3;

/** An emoji as one perceived character: a picture by default or by request, a flag, or a key. Plain digits are none. */
const EMOJI = /^(?:\p{Emoji_Presentation}|\p{Emoji}\uFE0F|\p{Extended_Pictographic}\u200D)/u;

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** How long a message is: code points, as Postgres counts them. */
export function countCharacters(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** Whether a message is nothing but one emoji or a few. */
export function isLargeEmoji(content: string): boolean {
  const text = content.trim();
  let count = 0;
  for (const { segment } of graphemes.segment(text)) {
    if (/^\s+$/u.test(segment)) continue;
    count += 1;
    // The first few tell enough about a text of any length.
    if (count > LARGE_EMOJI_MAX || !EMOJI.test(segment)) return false;
  }
  return count > 0;
}

/** What stands for somebody without a picture: the first letters of the first and the last word of the name. */
export function initialsOf(name: string | null): string {
  const words = (name ?? '').split(/[\s._-]+/u).filter(Boolean);
  const ends = words.length > 1 ? [words[0], words.at(-1)] : words;
  const letters = ends.map((word) => [...graphemes.segment(word ?? '')][0]?.segment ?? '');
  return letters.join('').toLocaleUpperCase() || '?';
}

/** Draws one of `count` colours by an id, always the same one. */
export function colourOf(id: string, count: number): number {
  let hash = 0;
  for (const character of id) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) >>> 0;
  return hash % count;
}
