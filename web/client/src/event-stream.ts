/** Reads `text/event-stream` (WHATWG HTML, "Server-sent events") as it comes in pieces. */

/** Gives back what has become complete with this piece: the data of each event. Comments, names and ids are skipped. */
export function eventStreamParser(): (piece: string) => string[] {
  let rest = '';
  return (piece) => {
    const events = (rest + piece).split(/\r?\n\r?\n/);
    rest = events.pop()!;
    const data = events.map((event) => [...event.matchAll(/^data:(.*)/gm)].map(([, line]) => line).join('\n'));
    return data.filter(Boolean);
  };
}
