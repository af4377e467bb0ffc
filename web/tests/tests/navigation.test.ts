/** Finding the way: links, the browser's buttons, and conversations that were not there before. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, afterEach, before, describe, test } from 'node:test';

import { ALICE, BINARY, BOB, CAROL, until } from '../../client/tests/gateway.js';
import type { Tab } from '../src/browser.js';
import { Scene } from '../src/scene.js';

/** A telephone's window. */
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

function conversationOf(tab: Tab): string | null {
  return new URL(tab.page.url()).searchParams.get('conversation');
}

function heading(tab: Tab, name: string | RegExp) {
  return tab.page.getByRole('heading', { level: 2, name });
}

describe('the page', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start()));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  test('opens the conversation of its address, and goes on with the browser’s buttons', async () => {
    const person = await scene.person(ALICE);
    await scene.database.insert(CAROL, ALICE, 'from carol');
    const tab = await scene.tab(person, `${BOB}__general`);
    await heading(tab, 'bob').waitFor();
    await tab.messages.first().waitFor();
    await tab.open('from carol');
    await heading(tab, 'carol').waitFor();
    assert.ok(conversationOf(tab)?.startsWith(CAROL));
    await tab.open('hiroshi');
    await heading(tab, 'hiroshi').waitFor();
    await tab.page.goBack();
    await heading(tab, 'carol').waitFor();
    await tab.page.goBack();
    await heading(tab, 'bob').waitFor();
    await tab.page.goForward();
    await heading(tab, 'carol').waitFor();
    await tab.page.reload();
    await heading(tab, 'carol').waitFor();
    await tab.messages.first().waitFor();
  });

  test('marks the open conversation in the list, and answers the keyboard alone', async () => {
    const tab = await scene.tab(await scene.person(ALICE));
    const link = tab.conversation('bob').first();
    await link.focus();
    await tab.page.keyboard.press('Enter');
    await heading(tab, 'bob').waitFor();
    await until('a link that is marked', async () => (await link.getAttribute('aria-current')) === 'page');
    // Whoever has a keyboard goes on writing.
    await until('the focus in the box', async () => tab.box.evaluate((box) => box === document.activeElement));
    await tab.page.keyboard.type('by the keyboard');
    await tab.page.keyboard.press('Enter');
    await tab.sent('by the keyboard');
  });

  test('shows one pane at a time on a telephone', async () => {
    const tab = await scene.tab(await scene.person(ALICE, PHONE));
    await tab.conversation('bob').first().tap();
    await heading(tab, 'bob').waitFor();
    assert.ok(!(await tab.list.isVisible()));
    await tab.page.getByRole('link', { name: 'Back to conversations' }).tap();
    await tab.list.waitFor();
    assert.equal(conversationOf(tab), null);
    assert.ok(!(await tab.log.isVisible()));
    // The list was where the way had begun.
    await tab.page.goForward();
    await heading(tab, 'bob').waitFor();
  });

  test('shows the conversation of the last click, however fast the clicks come', async () => {
    const tab = await scene.tab(await scene.person(ALICE));
    const links = await tab.list.getByRole('link').all();
    for (let round = 0; round < 3; round++) for (const link of links.slice(0, 8)) await link.evaluate((element) => (element as HTMLElement).click());
    await tab.conversation('bob').first().click();
    await heading(tab, 'bob').waitFor();
    await tab.messages.first().waitFor();
    await tab.write('the last click');
    await tab.sent('the last click');
    const receiver = await scene.database.sql(`select receiver_id from messages where content = 'the last click'`);
    assert.equal(receiver, BOB);
  });

  test('says what is wrong with an address that leads nowhere', async () => {
    const tab = await scene.tab(await scene.person(ALICE), 'nonsense');
    await tab.page.getByRole('heading', { name: 'This conversation could not be loaded' }).waitFor();
    await tab.page.getByRole('link', { name: 'See all conversations' }).click();
    await tab.page.getByRole('heading', { name: 'Choose a conversation' }).waitFor();
  });

  test('lets a stranger’s first message appear, and be answered', async () => {
    const stranger = randomUUID();
    await scene.database.sql(`insert into profiles (id, username) values ('${stranger}', 'newcomer')`);
    const tab = await scene.tab(await scene.person(ALICE));
    assert.equal(await tab.conversation('newcomer').count(), 0);
    await scene.database.insert(stranger, ALICE, 'a first message');
    await tab.conversation('newcomer').filter({ hasText: 'a first message' }).waitFor();
    await tab.conversation('newcomer').getByLabel('1 unread', { exact: true }).waitFor();
    // It came last, so it stands first.
    assert.match(await tab.list.getByRole('link').first().innerText(), /newcomer/);
    await tab.open('newcomer');
    await tab.sees('a first message');
    await tab.write('an answer');
    await tab.sent('an answer');
    const theirs = await scene.tab(await scene.person(stranger));
    await theirs.conversation('alice').filter({ hasText: 'an answer' }).waitFor();
    assert.equal(await theirs.list.getByRole('link').count(), 1);
  });

  test('says that somebody has no conversations yet, until one comes', async () => {
    const newcomer = randomUUID();
    await scene.database.sql(`insert into profiles (id, username) values ('${newcomer}', 'lonely')`);
    const tab = await scene.tab(await scene.person(newcomer));
    await tab.page.getByRole('heading', { name: 'No conversations yet' }).waitFor();
    await scene.database.insert(BOB, newcomer, 'welcome');
    await tab.conversation('bob').filter({ hasText: 'welcome' }).waitFor();
  });

  test('keeps a note to oneself, which is shown once and never unread', async () => {
    const person = await scene.person(ALICE);
    const tab = await scene.tab(person, `${ALICE}__general`);
    const other = await scene.tab(person);
    await tab.write('a note to myself');
    await tab.sent('a note to myself');
    const link = other.conversation('a note to myself');
    await link.waitFor();
    await heading(tab, /\(you\)/).waitFor();
    assert.equal(await tab.message('a note to myself').count(), 1);
    assert.equal(await link.getByLabel(/unread/).count(), 0);
    assert.equal(await link.count(), 1);
  });

  test('asks nobody in who is not signed in', async () => {
    const visitor = await scene.visitor();
    const tab = await visitor.tab(scene.application.url);
    await tab.page.getByText('You are not signed in any more.').first().waitFor();
  });
});
