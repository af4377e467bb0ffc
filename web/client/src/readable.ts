/** Functions that are told of something, and values that tell when they change. */

import type { Readable } from './types.js';

/** Told what a subscriber threw. */
export type ErrorSink = (error: unknown) => void;

/** Functions that are called one after the other; one that throws does not disturb the others. */
export class Listeners<T> {
  readonly #listeners = new Set<(value: T) => void>();

  constructor(readonly onError: ErrorSink) {}

  /** Adds a function, and calls it at once with what is given; answers a function that removes it. */
  add(run: (value: T) => unknown, ...now: T[]): () => void {
    // A function of its own, so that what is added twice is called twice and removed once.
    const listener = (value: T): void => {
      try {
        run(value);
      } catch (error) {
        this.onError(error);
      }
    };
    this.#listeners.add(listener);
    now.forEach(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Calls those that are there now. */
  call(value: T): void {
    for (const listener of [...this.#listeners]) listener(value);
  }
}

/** A value that can be set. */
export class Writable<T> extends Listeners<T> implements Readable<T> {
  constructor(
    public value: T,
    onError: ErrorSink,
  ) {
    super(onError);
  }

  set(value: T): void {
    this.value = value;
    this.call(value);
  }

  subscribe(run: (value: T) => void): () => void {
    return this.add(run, this.value);
  }
}
