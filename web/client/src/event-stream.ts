/** Reads `text/event-stream` (WHATWG HTML, "Server-sent events") as it comes in pieces. */

/**
 * Gives back what has become complete with this piece: the data of each event, which is JSON. Comments, names and ids are
 * skipped.
 */
export function eventStreamParser(): (piece: string) => string[] {
  let rest = '';
  return (piece) => {
    const events = (rest + piece).split(/\r?\n\r?\n/);
    rest = events.pop()!;
    // A line break more or less is nothing to JSON, which the data is. What a regular expression takes for the end of a line is not
    // always one of a stream: a message may contain U+2028.
    return events.map((event) => event.replace(/(^|\n)(data:|[^\n]*)/g, '').trim()).filter((data) => data);
  };
}
