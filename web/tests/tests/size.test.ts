/** Long conversations: what is loaded, and that it stays quick. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';

import { ALICE, BINARY, BOB, until } from '../../client/tests/gateway.js';
import { median, openConversation } from '../src/measure.js';
import { Scene } from '../src/scene.js';

/** How many messages a long conversation has. */
const LONG = 10_000;

/** Within this time a long conversation is open, in milliseconds. */
const OPEN_LIMIT = 500;

describe('the page', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start()));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  test(`opens a conversation of ${LONG} messages at its end, and loads older ones as somebody scrolls up`, async (context) => {
    await scene.database.fill(BOB, ALICE, 'long', LONG);
    const tab = await scene.tab(await scene.person(ALICE));
    const link = tab.conversation(`long ${LONG}`);
    await link.waitFor();
    const other = tab.conversation('hiroshi').first();
    const times: number[] = [];
    for (let round = 0; round < 5; round++) {
      times.push(await openConversation(link, `long ${LONG}`));
      assert.ok((await tab.messages.count()) <= 100, 'no more than what is seen and a little is loaded');
      await other.click();
      await tab.page.getByRole('heading', { level: 2, name: 'hiroshi' }).waitFor();
    }
    context.diagnostic(`open after ${times.map(Math.round).join(', ')} ms`);
    assert.ok(median(times) < OPEN_LIMIT, `${times}`);

    await link.click();
    await tab.sees(`long ${LONG}`);
    let loaded = await tab.messages.count();
    await tab.log.hover();
    // Each time the top comes near, the page before is there, and what was seen stays where it was.
    for (const older of [9_800, 9_500, 9_000]) {
      await until(`message ${older}`, async () => {
        await tab.page.mouse.wheel(0, -5_000);
        return (await tab.message(`long ${older}`).count()) > 0;
      });
      const now = await tab.messages.count();
      assert.ok(now > loaded);
      loaded = now;
    }
    const texts = await tab.texts(/^long /);
    assert.deepEqual(texts, Array.from({ length: texts.length }, (_, index) => `long ${LONG - texts.length + 1 + index}`));
    await tab.page.getByRole('button', { name: 'To the newest message' }).click();
    await until('the bottom', () => tab.log.evaluate((log) => Math.abs(log.scrollTop) < 2));
  });
});
