/** The demo in a browser: whoever comes chooses whom to be. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';

import { BINARY } from '../../client/tests/gateway.js';
import { Scene } from '../src/scene.js';

describe('the demo', { skip: !BINARY }, () => {
  let scene: Scene;
  before(async () => void (scene = await Scene.start()));
  afterEach(() => scene.clear());
  after(() => scene?.stop());

  test('asks whom to be, and then is that person', async () => {
    const visitor = await scene.visitor();
    const tab = await visitor.tab(scene.database.gatewayUrl);
    await tab.page.getByRole('heading', { name: 'Who do you want to be?' }).waitFor();
    await tab.page.getByRole('link', { name: 'carol' }).click();
    await tab.live();
    await tab.list.getByRole('link').first().waitFor();
    assert.equal(new URL(tab.page.url()).search, '?as=carol');
    await tab.page.getByRole('link', { name: 'Be somebody else' }).click();
    await tab.page.getByRole('heading', { name: 'Who do you want to be?' }).waitFor();
  });

  test('says who is not there', async () => {
    const tab = await (await scene.visitor()).tab(`${scene.database.gatewayUrl}/?as=nobody`);
    await tab.page.getByText('Nobody here is called “nobody”.').waitFor();
  });

  test('is two people side by side in one browser', async () => {
    const visitor = await scene.visitor();
    const alice = await (await visitor.tab(`${scene.database.gatewayUrl}/?as=alice`)).live();
    const bob = await (await visitor.tab(`${scene.database.gatewayUrl}/?as=bob`)).live();
    await alice.open('bob');
    await alice.write('side by side');
    await alice.sent('side by side');
    await bob.open('side by side');
    await bob.sees('side by side');
    await bob.write('indeed');
    await alice.sees('indeed');
    assert.equal(await alice.message('indeed').count(), 1);
  });
});
