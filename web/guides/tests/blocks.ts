/** The files that a guide tells people to write: its fenced blocks, each of which begins with the name of its file. Pure. */

/** Languages that are checked. Blocks of others (commands, settings) are not. */
const CHECKED = ['ts', 'tsx', 'svelte'];

/** A fenced block: its language, and what stands in it. */
const BLOCK = /^```(\w+)\n([^]*?)^```$/gm;

/** A first line with the name of a file, and for whom the block is, if it is not for everybody. */
const NAME = /^(?:\/\/|<!--) ([\w./+-]+\.\w+)(?:, with (\w+(?: \d+)?))?(?: -->)?$/;

/**
 * Takes the files out of a guide.
 *
 * @returns contents by path. A block for some only lies beside the one for everybody: `token.supabase.ts` beside `token.ts`.
 * @throws if a block says nothing about its file, or two say the same.
 */
export function filesOf(guide: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const [, language = '', content = ''] of guide.matchAll(BLOCK)) {
    if (!CHECKED.includes(language)) continue;
    const first = content.slice(0, content.indexOf('\n'));
    const [, name, variant] = NAME.exec(first) ?? [];
    if (!name) throw new Error(`A block does not begin with the name of its file, but with: ${first}`);
    const path = variant ? name.replace(/(?=\.\w+$)/, `.${variant.toLowerCase().replace(' ', '-')}`) : name;
    if (files.has(path)) throw new Error(`Two blocks are ${path}.`);
    files.set(path, content);
  }
  return files;
}
