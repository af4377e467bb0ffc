/** Times as people say them. Pure: what time it is, is an argument. */

const DAY = 86_400_000;

/** English, because the page is, in the form that the reader prefers; with the clock that the reader is used to. */
export function readersLocale(languages: readonly string[]): string {
  const english = languages.find((language) => /^en\b/iu.test(language)) ?? 'en-GB';
  const { hourCycle } = new Intl.DateTimeFormat(languages[0] ?? english, { hour: 'numeric' }).resolvedOptions();
  return new Intl.Locale(english, hourCycle ? { hourCycle } : {}).toString();
}

/** Says times in one language. Making formats is slow, so they are made once. */
export class Sayer {
  readonly #clock: Intl.DateTimeFormat;
  readonly #weekday: Intl.DateTimeFormat;
  readonly #shortWeekday: Intl.DateTimeFormat;
  readonly #date: Intl.DateTimeFormat;
  readonly #shortDate: Intl.DateTimeFormat;
  readonly #year: Intl.DateTimeFormat;
  readonly #shortYear: Intl.DateTimeFormat;
  readonly #moment: Intl.DateTimeFormat;

  constructor(locale: string) {
    const format = (options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat => new Intl.DateTimeFormat(locale, options);
    this.#clock = format({ timeStyle: 'short' });
    this.#weekday = format({ weekday: 'long' });
    this.#shortWeekday = format({ weekday: 'short' });
    this.#date = format({ weekday: 'short', day: 'numeric', month: 'long' });
    this.#shortDate = format({ day: 'numeric', month: 'short' });
    this.#year = format({ day: 'numeric', month: 'long', year: 'numeric' });
    this.#shortYear = format({ day: 'numeric', month: 'short', year: 'numeric' });
    this.#moment = format({ dateStyle: 'full', timeStyle: 'short' });
  }

  /** The time of day. */
  clock(time: number): string {
    return this.#clock.format(time);
  }

  /** A moment, with all that there is to say. */
  moment(time: number): string {
    return this.#moment.format(time);
  }

  /** A day, above its messages. */
  day(time: number, now: number): string {
    const days = daysBetween(time, now);
    if (days === 0) return 'Today';
    if (days === 1) return 'Yesterday';
    if (days > 1 && days < 7) return this.#weekday.format(time);
    return (isSameYear(time, now) ? this.#date : this.#year).format(time);
  }

  /** When somebody last wrote, in as few letters as will do. */
  brief(time: number, now: number): string {
    const days = daysBetween(time, now);
    // A sender's clock may be ahead.
    if (days <= 0) return this.clock(time);
    if (days === 1) return 'Yesterday';
    if (days < 7) return this.#shortWeekday.format(time);
    return (isSameYear(time, now) ? this.#shortDate : this.#shortYear).format(time);
  }
}

/** How many midnights lie between two moments, where the reader is. */
export function daysBetween(time: number, now: number): number {
  // Rounded, because a day with a change of the clocks is longer or shorter.
  return Math.round((startOfDay(now) - startOfDay(time)) / DAY);
}

/** The midnight before a moment, where the reader is. */
export function startOfDay(time: number): number {
  return new Date(time).setHours(0, 0, 0, 0);
}

function isSameYear(time: number, now: number): boolean {
  return new Date(time).getFullYear() === new Date(now).getFullYear();
}
