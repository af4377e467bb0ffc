/** Chromium without a window, and a person in it, who finds things by their roles and names only. */

import assert from 'node:assert/strict';

import { chromium, type Browser, type BrowserContextOptions, type BrowserContext, type Locator, type Page } from 'playwright-core';

import { PATIENCE } from '../../client/tests/gateway.js';

export async function startBrowser(further: readonly string[]): Promise<Browser> {
  const executablePath = process.env['HERALD_CHROMIUM'];
  assert.ok(executablePath, 'Set HERALD_CHROMIUM to the program of a Chromium or Chrome, as script/test does.');
  return chromium.launch({
    executablePath,
    // Neither root nor many a container can have the sandbox; the tests show no pages but their own.
    chromiumSandbox: false,
    // A container's shared memory is small.
    args: ['--disable-dev-shm-usage', ...further],
  });
}

/** Somebody's browser: its tabs have their cookies, and their network, in common. */
export class Person {
  /** What the browser wrote to a console as an error: of the page, and of what its policy forbids. */
  readonly errors: string[] = [];

  private constructor(readonly context: BrowserContext) {
    context.setDefaultTimeout(PATIENCE);
    context.on('console', (message) => {
      // That an address cannot be reached is written by the browser itself, and is no error of the page.
      if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) this.#note(message.text());
    });
    context.on('weberror', (error) => this.#note(`${error.error().stack}`));
  }

  static async start(browser: Browser, options: BrowserContextOptions): Promise<Person> {
    return new Person(await browser.newContext({ locale: 'en-GB', timezoneId: 'Europe/Berlin', ...options }));
  }

  /** Opens another tab. */
  async tab(address: string): Promise<Tab> {
    const page = await this.context.newPage();
    await page.goto(address);
    return new Tab(page);
  }

  /** Closes the browser, in which nothing may have gone wrong. */
  async close(): Promise<void> {
    await this.context.close();
    assert.deepEqual(this.errors, []);
  }

  #note(text: string): void {
    // So does a WebSocket whose server is away.
    if (!/^WebSocket connection to .* failed/.test(text)) this.errors.push(text);
  }
}

/** One tab with the page. */
export class Tab {
  constructor(readonly page: Page) {}

  get list(): Locator {
    return this.page.getByRole('navigation', { name: 'Conversations' });
  }

  get log(): Locator {
    return this.page.getByRole('log', { name: 'Messages' });
  }

  get messages(): Locator {
    return this.log.getByRole('article');
  }

  get box(): Locator {
    return this.page.getByRole('textbox', { name: 'Message' });
  }

  get status(): Locator {
    return this.page.getByRole('status');
  }

  /** The links of the list that have this text. */
  conversation(text: string | RegExp): Locator {
    return this.list.getByRole('link').filter({ hasText: text });
  }

  /** The messages of the open conversation with this text. */
  message(text: string): Locator {
    return this.messages.filter({ has: this.page.getByText(text, { exact: true }) });
  }

  unread(count: number): Locator {
    return this.list.getByLabel(`${count} unread`, { exact: true });
  }

  /** Waits for the connection. */
  async live(): Promise<this> {
    await this.status.filter({ hasText: 'Live' }).waitFor();
    return this;
  }

  /** Opens a conversation from the list. */
  async open(text: string | RegExp): Promise<void> {
    await this.conversation(text).first().click();
    await this.box.waitFor();
  }

  /** Writes and sends. */
  async write(text: string): Promise<void> {
    await this.box.fill(text);
    await this.box.press('Enter');
  }

  /** Waits for a message, and for nothing that would say it is not sent. */
  async sees(text: string): Promise<void> {
    await this.message(text).first().waitFor();
  }

  /** Waits until somebody's own message is confirmed. */
  async sent(text: string): Promise<void> {
    await this.message(text).filter({ hasNotText: 'Sending' }).waitFor();
  }

  /** What stands in the log and matches, from top to bottom. */
  async texts(pattern: RegExp): Promise<string[]> {
    const all = await this.messages.locator('p[dir]').allTextContents();
    return all.filter((text) => pattern.test(text));
  }

  /** Bytes of the page's heap that are in use, after everything that nobody needs has been let go of. */
  async heap(): Promise<number> {
    const session = await this.page.context().newCDPSession(this.page);
    await session.send('HeapProfiler.collectGarbage');
    const { usedSize } = await session.send('Runtime.getHeapUsage');
    await session.detach();
    return usedSize;
  }
}
