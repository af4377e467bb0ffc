/** A value that tells its subscribers when it changes. */

import type { Readable } from './types.js';

/** Told what a subscriber threw. */
export type ErrorSink = (error: unknown) => void;

/** A set of functions that are called one after the other; one that throws does not disturb the others. */
export class Listeners<T> {
  readonly #listeners = new Set<{ run: (value: T) => void }>();

  constructor(readonly onError: ErrorSink) {}

  add(run: (value: T) => void): () => void {
    // Wrapped, so that a function that is added twice is called twice and removed once.
    const listener = { run };
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  call(value: T): void {
    for (const listener of [...this.#listeners]) this.callOne(listener.run, value);
  }

  callOne(run: (value: T) => void, value: T): void {
    try {
      run(value);
    } catch (error) {
      this.onError(error);
    }
  }
}

/** A value that can be set. */
export class Writable<T> implements Readable<T> {
  readonly #listeners: Listeners<T>;

  constructor(
    public value: T,
    onError: ErrorSink,
  ) {
    this.#listeners = new Listeners(onError);
  }

  set(value: T): void {
    this.value = value;
    this.#listeners.call(value);
  }

  subscribe(run: (value: T) => void): () => void {
    const unsubscribe = this.#listeners.add(run);
    this.#listeners.callOne(run, this.value);
    return unsubscribe;
  }
}
