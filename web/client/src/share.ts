/** Keeps objects that have not changed, so that whoever compares them by identity has nothing to do. */

/** Answers `old` if `next` holds the very same values, and otherwise `next` with what it has in common with `old`. */
export function share<T>(old: T, next: T): T {
  if (old === next || !old || !next || typeof next !== 'object') return next;
  const keys = Object.keys(next) as (keyof T)[];
  let isSame = keys.length === Object.keys(old).length;
  for (const key of keys) {
    const kept = (next[key] = share(old[key], next[key]));
    isSame &&= kept === old[key];
  }
  return isSame ? old : next;
}
