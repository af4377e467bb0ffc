/** A client against a real gateway. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { HeraldClient, ProblemError, type ConnectionState, type HeraldEvents, type TokenRequest } from '../src/index.js';
import { ALICE, BINARY, BOB, Database, Gateway, Proxy, until } from './gateway.js';

/** A client, and what it has told. */
class Follower {
  readonly states: ConnectionState[] = [];
  readonly inserted: string[] = [];
  readonly readies: HeraldEvents['ready'][] = [];
  readonly discontinuities: string[] = [];
  readonly reasons: TokenRequest['reason'][] = [];
  readonly errors: unknown[] = [];
  readonly client: HeraldClient;

  constructor(url: string, token: (why: TokenRequest) => string) {
    this.client = new HeraldClient({
      url,
      token: (why) => {
        this.reasons.push(why.reason);
        return token(why);
      },
      onError: (error) => this.errors.push(error),
    });
    this.client.connection.subscribe((state) => this.states.push(state));
    this.client.on('insert', ({ message }) => this.inserted.push(message.content));
    this.client.on('ready', (ready) => this.readies.push(ready));
    this.client.on('discontinuity', ({ reason }) => this.discontinuities.push(reason));
  }

  get state(): ConnectionState | undefined {
    return this.states.at(-1);
  }

  async live(): Promise<void> {
    await until('a live connection', () => this.state?.status === 'live', () => [this.states, this.errors.map(String)]);
  }

  async hear(content: string): Promise<void> {
    await until(content, () => this.inserted.includes(content), () => [this.states, this.inserted]);
  }
}

describe('the client', { skip: BINARY ? false : 'HERALD_BINARY names no gateway' }, () => {
  let database: Database;
  let gateway: Gateway;
  let proxy: Proxy;
  const followers: Follower[] = [];

  const follow = (user = ALICE, seconds = 3600): Follower => {
    const follower = new Follower(proxy.url, () => database.token(user, seconds));
    followers.push(follower);
    return follower;
  };

  before(async () => {
    database = await Database.start();
    gateway = await Gateway.start(database, { HERALD_HEARTBEAT: '1s', HERALD_REPLAY_EVENTS: '20' });
    proxy = await Proxy.start(gateway);
  });

  after(async () => {
    for (const { client } of followers) client.close();
    proxy?.stop();
    await gateway?.kill();
    await database?.stop();
  });

  test('tells what is committed, and leaves nothing behind when it is closed', async () => {
    const follower = follow();
    const batches: number[] = [];
    follower.client.on('batch', () => assert.fail('a subscriber that throws'));
    follower.client.on('batch', (events) => batches.push(events.length));
    follower.client.connect();
    follower.client.connect();
    await follower.live();
    assert.deepEqual(follower.state, { status: 'live', transport: 'websocket' });
    assert.equal(follower.client.user, ALICE);
    await database.insert(BOB, ALICE, 'hello');
    await follower.hear('hello');
    assert.deepEqual(batches, [1]);
    assert.equal(follower.errors.length, 1);
    assert.equal(proxy.count('GET /v1/socket'), 1);
    for (const head of proxy.heads) assert.ok(!/^[A-Z]+ \S*(ey|token)/.test(head), 'a token has no place in an address');
    const pending = assert.rejects(follower.client.conversations(), { name: 'AbortError' });
    follower.client.close();
    await pending;
    assert.equal(follower.state?.status, 'closed');
    const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
    // This wait has one of its own.
    await until('no timer of the client', () => timers() <= 1, () => process.getActiveResourcesInfo());
  });

  test('calls the HTTP API, and tells problems in the words of the gateway', async () => {
    const { client } = follow();
    const id = crypto.randomUUID();
    const conversation = `${BOB}__general`;
    const sent = await client.send(conversation, { id, content: 'by HTTP' });
    const again = await client.send(conversation, { id, content: 'by HTTP' });
    assert.deepEqual(again, sent);
    const page = await client.messages(conversation, { limit: 2 });
    assert.deepEqual(page.messages.at(-1), sent);
    const older = await client.messages(conversation, { limit: 2, before: page.next! });
    assert.ok(older.messages.at(-1)!.created_at <= page.messages[0]!.created_at);
    const { conversations } = await client.conversations({ limit: 1 });
    assert.equal(conversations[0]?.last_message, 'by HTTP');
    assert.equal(await follow(BOB).client.markRead(`${ALICE}__general`) > 0, true);
    await assert.rejects(client.send(conversation, { id: crypto.randomUUID(), content: ' ' }), (error: ProblemError) => {
      assert.equal(error.status, 422);
      assert.ok(error.detail.length > 0 && !error.isTemporary);
      return true;
    });
    const ending = new AbortController();
    ending.abort(new Error('enough'));
    await assert.rejects(client.messages(conversation, { signal: ending.signal }), /enough/);
  });

  test('misses nothing and doubles nothing when its connection breaks, its gateway is killed, or ends in order', async () => {
    const follower = follow();
    const { cursor } = await follower.client.conversations();
    await database.insert(BOB, ALICE, 'between loading and connecting');
    follower.client.connect(cursor);
    await follower.hear('between loading and connecting');

    proxy.upstream = null;
    proxy.cut();
    await database.insert(BOB, ALICE, 'while the network is away');
    await until('a wait', () => follower.state?.status === 'waiting');
    proxy.upstream = gateway;
    await follower.hear('while the network is away');

    proxy.upstream = null;
    await gateway.kill();
    await database.insert(BOB, ALICE, 'while the gateway is dead');
    gateway = await Gateway.start(database, { HERALD_HEARTBEAT: '1s', HERALD_REPLAY_EVENTS: '20' });
    proxy.upstream = gateway;
    await follower.hear('while the gateway is dead');

    const old = gateway;
    gateway = await Gateway.start(database, { HERALD_HEARTBEAT: '1s', HERALD_REPLAY_EVENTS: '20' });
    proxy.upstream = gateway;
    await old.stop();
    await database.insert(BOB, ALICE, 'after the gateway has gone in order');
    await follower.hear('after the gateway has gone in order');

    assert.deepEqual(new Set(follower.inserted).size, follower.inserted.length, 'nothing twice');
    assert.equal(follower.inserted.length, 4);
    assert.ok(follower.readies.every(({ resumed }) => resumed));
    assert.deepEqual(follower.discontinuities, []);
    assert.deepEqual(follower.reasons, ['start']);
  });

  test('finds out that a connection is dead, and comes back', async () => {
    const follower = follow();
    follower.client.connect();
    await follower.live();
    proxy.swallows = true;
    await until('the loss', () => follower.state?.status !== 'live');
    proxy.swallows = false;
    proxy.cut();
    await follower.live();
    await database.insert(BOB, ALICE, 'after the silence');
    await follower.hear('after the silence');
  });

  test('an idle connection stays', async () => {
    const follower = follow();
    follower.client.connect();
    await follower.live();
    const begin = Date.now();
    // Beyond three heartbeats of one second, a connection without pings would have been given up.
    await until('three heartbeats and a half', () => Date.now() - begin > 3500);
    assert.equal(follower.readies.length, 1);
  });

  test('tells that events were missed if the gateway cannot prove the contrary', async () => {
    const follower = follow();
    follower.client.connect();
    await follower.live();
    proxy.upstream = null;
    proxy.cut();
    await database.sql(
      `insert into messages (sender_id, receiver_id, content) select '${BOB}', '${ALICE}', 'many ' || n from generate_series(1, 30) n`,
    );
    proxy.upstream = gateway;
    await until('a discontinuity', () => follower.discontinuities.length > 0);
    assert.deepEqual(follower.discontinuities, ['too_far']);
    await database.insert(BOB, ALICE, 'after the gap');
    await follower.hear('after the gap');
    assert.deepEqual(follower.inserted, ['after the gap']);
  });

  test('renews its token before it ends, without a new session', async () => {
    const follower = follow(ALICE, 4);
    follower.client.connect();
    await follower.live();
    await until('three tokens', () => follower.reasons.length >= 3);
    assert.deepEqual(follower.reasons.slice(0, 3), ['start', 'expiring', 'expiring']);
    await database.insert(BOB, ALICE, 'after the renewals');
    await follower.hear('after the renewals');
    assert.equal(follower.readies.length, 1);
    assert.deepEqual(follower.errors, []);
  });

  test('a token that is rejected at the door, or ends although the source has failed, is replaced', async () => {
    let calls = 0;
    const follower = new Follower(proxy.url, ({ reason }) => {
      calls++;
      if (calls === 1) return database.token(ALICE, -10);
      if (reason === 'expiring') throw new Error('the source is away');
      return database.token(ALICE, 3);
    });
    followers.push(follower);
    follower.client.connect();
    await follower.live();
    await until(
      'an expiry that was not prevented',
      () => follower.reasons.filter((reason) => reason === 'rejected').length >= 2,
      () => [follower.reasons, follower.states, follower.errors.map(String)],
    );
    await until('a second session', () => follower.readies.length >= 2);
    assert.ok(follower.reasons.includes('expiring'));
    assert.ok(follower.readies.slice(1).every(({ resumed }) => resumed));
    assert.ok(follower.errors.length > 0);
  });

  test('a person who has signed out is not connected again', async () => {
    for (const refusesUpgrades of [false, true]) {
      proxy.refusesUpgrades = refusesUpgrades;
      const follower = new Follower(proxy.url, ({ reason }) => {
        if (reason === 'start') return database.token(ALICE, 3);
        throw new ProblemError(401, 'Sign in again.');
      });
      followers.push(follower);
      follower.client.connect();
      await follower.live();
      await until('the end', () => follower.state?.status === 'refused');
      assert.deepEqual(follower.state, { status: 'refused', code: 401, reason: 'Sign in again.' });
      assert.equal(follower.client.cursor, undefined);
    }
    proxy.refusesUpgrades = false;
  });

  test('uses Server-Sent Events where WebSockets do not pass, and renews its token there too', async () => {
    proxy.refusesUpgrades = true;
    const follower = follow(ALICE, 4);
    follower.client.connect();
    await follower.live();
    assert.deepEqual(follower.state, { status: 'live', transport: 'events' });
    await database.insert(BOB, ALICE, 'by Server-Sent Events');
    await follower.hear('by Server-Sent Events');
    await until('a session with a new token', () => follower.readies.length >= 2);
    assert.ok(follower.readies.slice(1).every(({ resumed }) => resumed));
    await database.insert(BOB, ALICE, 'with a new token');
    await follower.hear('with a new token');
    proxy.upstream = null;
    proxy.cut();
    await database.insert(BOB, ALICE, 'while nothing passes');
    proxy.upstream = gateway;
    await follower.hear('while nothing passes');
    assert.equal(follower.inserted.length, 3);
    for (const head of proxy.heads) assert.ok(!/^[A-Z]+ \S*(ey|token)/.test(head));
    proxy.refusesUpgrades = false;
  });

  test('does not come back where that would be of no use', async () => {
    const lone = await Gateway.start(database, { HERALD_SESSIONS_PER_USER: '1' });
    proxy.upstream = lone;
    const first = follow();
    first.client.connect();
    await first.live();
    const second = follow();
    second.client.connect();
    await second.live();
    await until('a refusal', () => first.state?.status === 'refused');
    assert.equal((first.state as { code: number }).code, 4009);
    assert.equal(first.client.cursor, undefined);
    proxy.upstream = gateway;
    await lone.kill();
  });

  test('two of the same person hear the same', async () => {
    const pair = [follow(), follow()];
    for (const { client } of pair) client.connect();
    for (const follower of pair) await follower.live();
    await pair[0]!.client.send(`${BOB}__general`, { id: crypto.randomUUID(), content: 'to both' });
    for (const follower of pair) await follower.hear('to both');
  });
});
