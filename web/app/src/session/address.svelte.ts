/** Where the page is, as its address says: so that links, reloading, and the browser's back and forward work. */

/** What this page notes with an entry of the browser's history. */
interface Note {
  /** Whether the entry before is the list of conversations, so that going back leads there. */
  readonly isFromList: boolean;
}

/** The address of the page. */
export class Address {
  /** The open conversation. */
  conversation = $state<string | null>(null);
  readonly #changed: (conversation: string | null) => void;

  /** Tells `changed` whenever the open conversation is another one. */
  constructor(changed: (conversation: string | null) => void) {
    this.#changed = changed;
    this.conversation = read();
  }

  /** Follows the browser's buttons until the answered function is called. */
  follow(): () => void {
    const read = (): void => this.#read();
    window.addEventListener('popstate', read);
    return () => window.removeEventListener('popstate', read);
  }

  /** The address of a conversation, or of the list. */
  href(conversation: string | null): string {
    const query = new URLSearchParams(location.search);
    if (conversation === null) query.delete('conversation');
    else query.set('conversation', conversation);
    return `?${query}`;
  }

  /** Goes to a conversation, or to the list. */
  go(conversation: string | null): void {
    if (conversation === this.conversation) return;
    if (conversation === null && (history.state as Note | null)?.isFromList) {
      history.back();
      return;
    }
    const note: Note = { isFromList: this.conversation === null };
    history.pushState(note, '', this.href(conversation));
    this.#read();
  }

  /** Goes where a link leads, unless the reader wants it elsewhere, in a new tab say. Answers whether it did. */
  take(event: MouseEvent, conversation: string | null): boolean {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return false;
    event.preventDefault();
    this.go(conversation);
    return true;
  }

  #read(): void {
    const conversation = read();
    if (conversation === this.conversation) return;
    this.conversation = conversation;
    this.#changed(conversation);
  }
}

/** The conversation of the page's address. Its ids are in lower case everywhere. */
function read(): string | null {
  return new URLSearchParams(location.search).get('conversation')?.toLowerCase() || null;
}
