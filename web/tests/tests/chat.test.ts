/** People write to each other. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';

import { ALICE, BINARY, BOB, PRODUCT, until } from '../../client/tests/gateway.js';
import { Scene } from '../src/scene.js';

describe('two people', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start()));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  test('see each message once in every tab of both, and count what is unread', async () => {
    await scene.database.sql('update messages set is_read = true where not is_read');
    const [alice, bob] = await Promise.all([scene.person(ALICE), scene.person(BOB)]);
    const one = await scene.tab(alice, `${BOB}__general`);
    const other = await scene.tab(alice, `${BOB}__general`);
    const his = await scene.tab(bob);
    const said = ['Is it still there?', 'It is.', 'Then I shall come at six.'];

    await one.write(said[0]!);
    for (const tab of [one, other]) await tab.sees(said[0]!);
    await one.sent(said[0]!);
    // He is elsewhere, and sees who wrote, what, and how much of it he has not read.
    await his.conversation('alice').filter({ hasText: said[0]! }).first().waitFor();
    await his.unread(1).waitFor();
    await one.page.bringToFront();
    await one.write('Hello?');
    await his.unread(2).waitFor();
    assert.match(await his.page.title(), /^\(2\)/);

    await his.open(/alice.*Hello\?/s);
    await his.sees(said[0]!);
    await until('nothing unread', async () => (await his.unread(2).count()) === 0);
    await until('a title without a number', async () => !/\d/.test(await his.page.title()));
    // She sees that he has read it.
    await one.messages.filter({ hasText: 'Hello?' }).filter({ hasText: 'Read' }).waitFor();

    await his.write(said[1]!);
    await one.sees(said[1]!);
    await one.write(said[2]!);
    for (const tab of [one, other, his]) {
      await tab.sees(said[2]!);
      const expected = [said[0]!, 'Hello?', said[1]!, said[2]!];
      assert.deepEqual(await tab.texts(/^(Is it still|Hello\?|It is\.|Then I)/), expected);
    }
    const stored = await scene.database.sql(`select count(*) from messages where content in ('${said.join("','")}', 'Hello?')`);
    assert.equal(stored, '4');
  });

  test('write what looks like HTML, links and other scripts, and nothing but text is shown', async () => {
    const [alice, bob] = await Promise.all([scene.person(ALICE), scene.person(BOB)]);
    const hers = await scene.tab(alice, `${BOB}__general`);
    const his = await scene.tab(bob, `${ALICE}__general`);
    const html = '<img src=x onerror="document.title=1"><script>alert(1)</script> &amp; <b>bold</b>';
    await hers.write(html);
    await his.sees(html);
    await hers.write('see https://example.com/a?b=1, or javascript:alert(1)');
    const link = his.messages.getByRole('link', { name: 'https://example.com/a?b=1', exact: true });
    await link.waitFor();
    assert.equal(await link.getAttribute('href'), 'https://example.com/a?b=1');
    assert.match((await link.getAttribute('rel')) ?? '', /noopener.*noreferrer/);
    assert.equal(await his.messages.getByRole('link').count(), 1);
    await hers.write('שלום, מה שלומך?');
    await his.sees('שלום, מה שלומך?');
    const direction = await his.message('שלום, מה שלומך?').locator('p').first().evaluate((line) => getComputedStyle(line).direction);
    assert.equal(direction, 'rtl');
    // A word as wide as it likes does not make the page wider than the window.
    await hers.write('w'.repeat(2000));
    await his.messages.filter({ hasText: 'wwww' }).waitFor();
    const overflow = await his.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide`);
    assert.equal(await his.messages.locator('img, script, b').count(), 0);
  });

  test('break the line with Shift and Enter, and send with the button', async () => {
    const alice = await scene.person(ALICE);
    const tab = await scene.tab(alice, `${BOB}__general`);
    const send = tab.page.getByRole('button', { name: 'Send' });
    assert.ok(await send.isDisabled());
    await tab.box.pressSequentially('first line');
    await tab.box.press('Shift+Enter');
    await tab.box.pressSequentially('second line');
    await send.click();
    await tab.messages.filter({ hasText: 'second line' }).waitFor();
    assert.deepEqual(await tab.texts(/first line/), ['first line\nsecond line']);
    assert.equal(await tab.box.inputValue(), '');
  });

  test('talk about a product, and about none, in two conversations', async () => {
    const [alice, bob] = await Promise.all([scene.person(ALICE), scene.person(BOB)]);
    const about = await scene.tab(alice, `${BOB}__${PRODUCT}`);
    const general = await scene.tab(bob, `${ALICE}__general`);
    await about.write('about the product');
    await about.sent('about the product');
    await general.write('about nothing');
    await general.sent('about nothing');
    assert.equal(await about.message('about nothing').count(), 0);
    assert.equal(await general.message('about the product').count(), 0);
    await general.conversation('about the product').waitFor();
  });
});
