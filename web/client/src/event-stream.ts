/** Reads `text/event-stream` (WHATWG HTML, "Server-sent events") as it comes in pieces. */

/** Gives back what has become complete with this piece: the data of each event. Comments, names and ids are skipped. */
export function eventStreamParser(): (piece: string) => string[] {
  let rest = '';
  let data: string[] = [];
  return (piece) => {
    const complete: string[] = [];
    const lines = (rest + piece).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      const [, field] = /^data: ?(.*?)\r?$/.exec(line) ?? [];
      if (field !== undefined) {
        data.push(field);
      } else if (data.length > 0 && /^\r?$/.test(line)) {
        complete.push(data.join('\n'));
        data = [];
      }
    }
    return complete;
  };
}
