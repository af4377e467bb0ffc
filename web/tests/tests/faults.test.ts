/** What goes wrong between people, and is mended before they have to do anything. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';

import { ALICE, BINARY, BOB, until } from '../../client/tests/gateway.js';
import type { Tab } from '../src/browser.js';
import { Scene } from '../src/scene.js';

/** Waits until a tab shows messages in the order in which the database has them, each once. */
async function showsAll(scene: Scene, tabs: readonly Tab[], begin: string, count: number): Promise<void> {
  const stored = async (): Promise<string[]> => {
    const rows = await scene.database.sql(`select content from messages where content like '${begin}%' order by created_at, id`);
    return rows.split('\n').filter(Boolean);
  };
  await until(`${count} stored messages`, async () => (await stored()).length >= count, () => begin);
  const expected = await stored();
  assert.equal(new Set(expected).size, count);
  for (const tab of tabs) {
    let seen: string[] = [];
    const same = async (): Promise<boolean> => {
      seen = await tab.texts(new RegExp(`^${begin}`));
      return seen.length >= count;
    };
    await until(`all of "${begin}"`, same, () => seen);
    assert.deepEqual(await tab.texts(new RegExp(`^${begin}`)), expected);
    await tab.live();
    assert.equal(await tab.messages.filter({ hasText: /Sending|Not sent/ }).count(), 0);
  }
}

describe('while two people write,', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start()));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  async function both() {
    const [alice, bob] = await Promise.all([scene.person(ALICE), scene.person(BOB)]);
    const [hers, his] = await Promise.all([scene.tab(alice, `${BOB}__general`), scene.tab(bob, `${ALICE}__general`)]);
    return { alice, bob, hers, his };
  }

  test('the gateway is killed and started again, and nobody has to do anything', async () => {
    const { hers, his } = await both();
    await hers.write('killed 1');
    await his.sees('killed 1');
    await scene.killGateway();
    await hers.write('killed 2');
    await his.write('killed 3');
    await hers.write('killed 4');
    await hers.status.filter({ hasNotText: 'Live' }).waitFor();
    // Some other program writes to the database meanwhile.
    await scene.database.insert(BOB, ALICE, 'killed 5');
    await scene.startGateway();
    await hers.write('killed 6');
    await showsAll(scene, [hers, his], 'killed ', 6);
  });

  test('the gateway is killed in the middle of many messages', async () => {
    const { hers, his } = await both();
    for (let index = 0; index < 30; index++) {
      const number = String(index).padStart(2, '0');
      await (index % 2 ? his : hers).write(`many ${number}`);
      if (index === 10) await scene.killGateway();
      if (index === 20) await scene.startGateway();
    }
    await showsAll(scene, [hers, his], 'many ', 30);
    for (const [tab, parity] of [[hers, 0], [his, 1]] as const) {
      // What one person writes arrives in the order in which it was written.
      const own = (await tab.texts(/^many /)).filter((text) => Number(text.slice(-2)) % 2 === parity);
      assert.deepEqual(own, [...own].sort());
    }
  });

  test('the network goes away and comes back', async () => {
    const { alice, bob, hers, his } = await both();
    await hers.write('offline 1');
    await his.sees('offline 1');
    await alice.context.setOffline(true);
    await hers.status.filter({ hasText: 'Offline' }).waitFor();
    await hers.write('offline 2');
    await his.write('offline 3');
    await his.sent('offline 3');
    await bob.context.setOffline(true);
    await his.write('offline 4');
    await alice.context.setOffline(false);
    await hers.sees('offline 3');
    await hers.sent('offline 2');
    await bob.context.setOffline(false);
    await showsAll(scene, [hers, his], 'offline ', 4);
  });

  test('the gateway loses all its connections to the database', async () => {
    const { hers, his } = await both();
    await hers.write('lost 1');
    await his.sees('lost 1');
    const others = `pid <> pg_backend_pid() and backend_type = 'client backend'`;
    await scene.database.sql(`select pg_terminate_backend(pid) from pg_stat_activity where ${others}`);
    await hers.write('lost 2');
    await his.write('lost 3');
    await showsAll(scene, [hers, his], 'lost ', 3);
  });
});

describe('somebody', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start()));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  test('is told of a message that could not be sent, and sends it by “Try again”, once', async () => {
    const person = await scene.person(ALICE);
    const tab = await scene.tab(person, `${BOB}__general`);
    const his = await scene.tab(await scene.person(BOB), `${ALICE}__general`);
    // The first attempt reaches nobody, the second one the gateway, whose answer is lost on the way.
    let attempts = 0;
    await person.context.route(/\/v1\/conversations\/[^/]+\/messages$/, async (route) => {
      if (route.request().method() !== 'POST') return route.fallback();
      attempts++;
      if (attempts === 2) await route.fetch();
      if (attempts > 2) return route.continue();
      return route.fulfill({ status: 500, contentType: 'application/problem+json', body: '{"detail":"It broke."}' });
    });
    await tab.write('not so easy');
    const failed = tab.messages.filter({ hasText: 'Not sent' });
    await failed.filter({ hasText: 'It broke.' }).waitFor();
    assert.equal(await scene.database.sql(`select count(*) from messages where content = 'not so easy'`), '0');
    await failed.getByRole('button', { name: 'Try again' }).click();
    await his.sees('not so easy');
    await tab.sent('not so easy');
    // Its event came although the answer did not: so it is sent, and nobody has to try anything.
    await until('no failure', async () => (await failed.count()) === 0);
    assert.equal(attempts, 2);
    for (const each of [tab, his]) assert.equal(await each.message('not so easy').count(), 1);
    assert.equal(await scene.database.sql(`select count(*) from messages where content = 'not so easy'`), '1');
  });

  test('may discard a message that could not be sent', async () => {
    const person = await scene.person(ALICE);
    const tab = await scene.tab(person, `${BOB}__general`);
    await person.context.route(/\/messages$/, (route) =>
      route.request().method() === 'POST' ? route.fulfill({ status: 403, body: '' }) : route.fallback(),
    );
    await tab.write('never mind');
    await tab.message('never mind').getByRole('button', { name: 'Discard' }).click();
    await until('a message that is gone', async () => (await tab.message('never mind').count()) === 0);
  });

  test('never sees that tokens end', async () => {
    scene.application.tokenLife = 6;
    const tab = await scene.tab(await scene.person(ALICE), `${BOB}__general`);
    scene.application.tokens = 0;
    const states = await tab.page.evaluateHandle(() => {
      const seen: string[] = [];
      const status = document.querySelector('[role=status]')!;
      new MutationObserver(() => seen.push(status.textContent ?? '')).observe(status, { subtree: true, childList: true, characterData: true });
      return seen;
    });
    let count = 0;
    while (scene.application.tokens < 3) {
      await scene.database.insert(BOB, ALICE, `token ${count}`);
      await tab.sees(`token ${count}`);
      await tab.write(`answer ${count}`);
      await tab.sent(`answer ${count}`);
      count++;
    }
    assert.deepEqual(await states.jsonValue(), []);
    assert.equal((await tab.texts(/^(token|answer) /)).length, 2 * count);
    assert.equal(await tab.page.getByRole('alert').count(), 0);
    scene.application.tokenLife = 3600;
  });

  test('is told when nobody lets them in any more, and goes on after signing in again', async () => {
    scene.application.tokenLife = 4;
    const person = await scene.person(ALICE);
    const tab = await scene.tab(person, `${BOB}__general`);
    await person.context.clearCookies();
    await tab.page.getByRole('alert').filter({ hasText: 'You are not signed in any more' }).waitFor();
    scene.application.tokenLife = 3600;
    await tab.write('written while signed out');
    await scene.signIn(person, ALICE);
    await tab.page.getByRole('button', { name: 'Load again' }).click();
    await tab.live();
  });

  test('gets messages where WebSockets do not pass', async () => {
    const person = await scene.person(ALICE);
    await person.context.addInitScript(() => {
      // As behind a proxy that knows no upgrade: each attempt fails.
      class Blocked extends EventTarget {
        onclose: ((event: unknown) => void) | null = null;
        constructor() {
          super();
          setTimeout(() => this.onclose?.({ code: 1006, reason: '' }));
        }
        send(): void {}
        close(): void {}
      }
      Object.assign(globalThis, { WebSocket: Blocked });
    });
    const tab = await scene.tab(person, `${BOB}__general`);
    await scene.database.insert(BOB, ALICE, 'by another way');
    await tab.sees('by another way');
    await tab.write('and back');
    await tab.sent('and back');
    assert.equal(await tab.message('and back').count(), 1);
  });
});
