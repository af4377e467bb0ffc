/** Reads `text/event-stream` (WHATWG HTML, "Server-sent events") as it comes in pieces. */

/** The longest line that is read, in UTF-16 units: far above any frame of the gateway. */
const LINE_MAX = 1 << 24;

/** Gives back what has become complete with this piece: the data of each event. Comments, names and ids are skipped. */
export function eventStreamParser(): (piece: string) => string[] {
  let rest = '';
  let data: string[] = [];
  return (piece) => {
    const complete: string[] = [];
    const lines = (rest + piece).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > LINE_MAX) throw new Error('a line of the event stream is too long');
    for (const ended of lines) {
      const line = ended.endsWith('\r') ? ended.slice(0, -1) : ended;
      if (line.startsWith('data:')) {
        data.push(line.slice(line[5] === ' ' ? 6 : 5));
      } else if (line === '' && data.length > 0) {
        complete.push(data.join('\n'));
        data = [];
      }
    }
    return complete;
  };
}
