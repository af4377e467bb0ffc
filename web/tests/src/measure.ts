/** Times as the browser itself measures them: from the event that a person causes to the frame that shows its result. */

import type { Locator } from 'playwright-core';

import type { Tab } from './browser.js';

/** The middle one of the values. */
export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** The value that so large a share of the values does not exceed. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

/** Clicks on a link of the list, and answers after how many milliseconds a message with this text was painted. */
export async function openConversation(link: Locator, text: string): Promise<number> {
  return link.evaluate(clickAndWait, text);
}

/** Runs in the page. A frame's callbacks run before it is painted; the one of the next frame runs after that. */
async function clickAndWait(link: Element, text: string): Promise<number> {
  const begun = performance.now();
  (link as HTMLElement).click();
  const isShown = (): boolean => [...document.querySelectorAll('article p[dir]')].some((line) => line.textContent === text);
  while (!isShown()) {
    if (performance.now() - begun > 30_000) throw new Error(`never shown: ${text}`);
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
  await new Promise((resolve) => requestAnimationFrame(resolve));
  return performance.now() - begun;
}

/** Sends what stands in the box, and answers after how many milliseconds it was shown, and when it was confirmed. */
export async function send(tab: Tab, text: string): Promise<{ shown: number; confirmed: number }> {
  await tab.box.fill(text);
  return tab.page.getByRole('button', { name: 'Send' }).evaluate(sendAndWait, text);
}

/** Runs in the page. */
async function sendAndWait(button: Element, text: string): Promise<{ shown: number; confirmed: number }> {
  const begun = performance.now();
  (button as HTMLElement).click();
  const article = (): Element | undefined =>
    [...document.querySelectorAll('article')].findLast((one) => one.querySelector('p[dir]')?.textContent === text);
  const until = async (condition: () => boolean): Promise<number> => {
    while (!condition()) {
      if (performance.now() - begun > 30_000) throw new Error(`never: ${text}`);
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
    return performance.now() - begun;
  };
  const shown = await until(() => article() !== undefined);
  const confirmed = await until(() => /Sent|Read/.test(article()?.textContent ?? ''));
  return { shown, confirmed };
}
