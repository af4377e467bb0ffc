/** How the page looks, and whether everybody can use it: axe's rules in every state, and a picture of each to look at. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, afterEach, before, describe, test } from 'node:test';

import type { BrowserContextOptions } from 'playwright-core';

import { ALICE, BINARY, BOB } from '../../client/tests/gateway.js';
import type { Tab } from '../src/browser.js';
import { Scene, SHOTS } from '../src/scene.js';

const WINDOWS: Record<string, BrowserContextOptions> = {
  desktop: { viewport: { width: 1280, height: 800 } },
  dark: { viewport: { width: 1280, height: 800 }, colorScheme: 'dark' },
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true },
  'phone-dark': { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true, colorScheme: 'dark' },
};

interface Violation {
  readonly id: string;
  readonly help: string;
  readonly nodes: readonly { readonly html: string; readonly failureSummary: string }[];
}

describe('the page', { skip: !BINARY }, () => {
  let scene: Scene;
  let axe: string;
  before(async () => {
    await mkdir(SHOTS, { recursive: true });
    axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
    scene = await Scene.start();
    // What makes a page burst: long words, another direction, emoji, links, many lines.
    for (const [sender, receiver, text] of [
      [BOB, ALICE, 'Here is the place: https://example.com/a/very/long/path?with=parameters&and=more#and-a-fragment'],
      [ALICE, BOB, 'Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft'],
      [BOB, ALICE, 'שלום! האם זה עדיין זמין?'],
      [ALICE, BOB, '🎉🚲'],
      [BOB, ALICE, 'First line\nSecond line\n\nLast line'],
    ] as const) {
      await scene.database.insert(sender, receiver, text);
    }
  });
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  /** Takes a picture, and finds that no rule is violated. */
  async function look({ page }: Tab, name: string): Promise<void> {
    // What moves would be seen half way.
    await page.evaluate(() => Promise.all(document.getAnimations().map((animation) => animation.effect?.getTiming().iterations === Infinity || animation.finished.catch(() => {}))));
    await page.screenshot({ path: `${SHOTS}/${name}.png` });
    // The policy of the page allows no script in it; the debugger may evaluate one all the same.
    await page.evaluate(axe);
    const violations = (await page.evaluate(
      `axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations)`,
    )) as Violation[];
    const told = violations.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.map((node) => `  ${node.html}\n  ${node.failureSummary}`).join('\n')}`);
    assert.deepEqual(told, [], name);
  }

  for (const [name, options] of Object.entries(WINDOWS)) {
    test(`is for everybody: ${name}`, async () => {
      const person = await scene.person(ALICE, options);
      const tab = await scene.tab(person);
      await tab.list.getByRole('link').nth(5).waitFor();
      await look(tab, `${name}-list`);
      await tab.open(/bob.*Last line/s);
      await tab.sees('🎉🚲');
      await look(tab, `${name}-thread`);

      await person.context.route(/\/messages$/, (route) =>
        route.request().method() === 'POST'
          ? route.fulfill({ status: 403, contentType: 'application/problem+json', body: '{"detail":"You may not write here."}' })
          : route.fallback(),
      );
      await tab.write('This one does not arrive.');
      await tab.messages.filter({ hasText: 'Not sent' }).waitFor();
      await tab.box.fill('x'.repeat(10_001));
      await look(tab, `${name}-failed`);

      const lost = await scene.tab(person, 'nonsense');
      await lost.page.getByRole('heading', { name: 'This conversation could not be loaded' }).waitFor();
      await look(lost, `${name}-nowhere`);
    });

    test(`is for newcomers: ${name}`, async () => {
      const newcomer = randomUUID();
      await scene.database.sql(`insert into profiles (id, username) values ('${newcomer}', 'newcomer ${name}')`);
      const person = await scene.person(newcomer, options);
      const tab = await scene.tab(person);
      await tab.page.getByRole('heading', { name: 'No conversations yet' }).waitFor();
      await look(tab, `${name}-empty`);
      const first = await scene.tab(person, `${BOB}__general`);
      await first.page.getByRole('heading', { name: 'No messages yet' }).waitFor();
      await look(first, `${name}-first`);

      const visitor = await scene.visitor(options);
      const chooser = await visitor.tab(scene.database.gatewayUrl);
      await chooser.page.getByRole('heading', { name: 'Who do you want to be?' }).waitFor();
      await look(chooser, `${name}-chooser`);
      const stranger = await scene.visitor(options);
      const outside = await stranger.tab(scene.application.url);
      await outside.page.getByText('You are not signed in any more.').first().waitFor();
      await look(outside, `${name}-signed-out`);
    });
  }

  for (const name of ['desktop', 'phone-dark']) {
    test(`says that there is no network: ${name}`, async () => {
      const person = await scene.person(ALICE, WINDOWS[name]);
      const tab = await scene.tab(person, `${BOB}__general`);
      await tab.messages.first().waitFor();
      await person.context.setOffline(true);
      await tab.page.getByRole('alert').waitFor();
      await look(tab, `${name}-offline`);
      await person.context.setOffline(false);
    });
  }

  test('shows that it is loading', async () => {
    const person = await scene.person(ALICE, WINDOWS['desktop']);
    let answer = (): void => {};
    const asked = new Promise<void>((resolve) => (answer = resolve));
    await person.context.route(/\/v1\/conversations/, async (route) => {
      await asked;
      await route.continue();
    });
    const tab = await person.tab(`${scene.application.url}/?conversation=${BOB}__general`);
    await tab.page.locator('nav[aria-busy=true]').waitFor();
    await look(tab, 'desktop-loading');
    answer();
    await tab.live();
    await tab.messages.first().waitFor();
  });
});
