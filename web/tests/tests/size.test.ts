/** Long conversations and long sessions: what is loaded, what is kept, and that it stays quick. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';

import { ALICE, BINARY, BOB, until } from '../../client/tests/gateway.js';
import { median, openConversation } from '../src/measure.js';
import { Scene } from '../src/scene.js';

/** How many messages a long conversation has. */
const LONG = 10_000;

/** Within this time a long conversation is open, in milliseconds. */
const OPEN_LIMIT = 500;

/** How many conversations are opened one after the other, and how many messages arrive meanwhile. */
const SWITCHES = 500;
const ARRIVALS = 2_000;

/** By how much the heap may be larger afterwards. */
const GROWTH_LIMIT = 1.1;

describe('the page', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start()));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  test(`opens a conversation of ${LONG} messages at its end, and loads older ones as somebody scrolls up`, async (context) => {
    await scene.database.fill(BOB, ALICE, 'long', LONG, '1 minute');
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

describe('the page, of whose heap compiled code is no part,', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start(['--js-flags=--jitless'])));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  test(`keeps nothing of ${SWITCHES} switches and ${ARRIVALS} messages`, async (context) => {
    const tab = await scene.tab(await scene.person(ALICE));
    await tab.list.getByRole('link').nth(7).waitFor();
    const switches = async (count: number, arrivals: number): Promise<void> => {
      for (let done = 0; done < count; done += 10) {
        await scene.database.fill(BOB, ALICE, `arrival ${done}`, (arrivals / count) * 10);
        await tab.page.evaluate(async () => {
          for (let index = 0; index < 10; index++) {
            document.querySelectorAll<HTMLElement>('nav a')[index % 8]!.click();
            await new Promise((resolve) => requestAnimationFrame(resolve));
          }
        });
      }
      // What is unread is kept until it has been read.
      await tab.conversation(`arrival ${count - 10} ${(arrivals / count) * 10}`).click();
      await until('nothing unread', async () => (await tab.conversation(/bob.*arrival/s).getByLabel(/unread/).count()) === 0);
      await tab.open('hiroshi');
      await tab.messages.first().waitFor();
    };
    // What is made once, and the pages of the last conversations, are there after the first round.
    await switches(100, 1_000);
    const before = await tab.heap();
    await switches(SWITCHES, ARRIVALS);
    // The deadlines of calls that were answered hold a little until they have passed.
    let after = Infinity;
    const returns = async (): Promise<boolean> => (after = await tab.heap()) < before * GROWTH_LIMIT;
    await until(`${before} bytes again`, returns, () => after);
    context.diagnostic(`${(before / 1e6).toFixed(2)} MB before, ${(after / 1e6).toFixed(2)} MB after`);
  });
});
