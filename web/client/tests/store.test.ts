/** A store of conversations against a real gateway. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import {
  createConversationStore,
  HeraldClient,
  type Conversation,
  type ConversationStore,
  type ConversationStoreState,
  type ThreadMessage,
} from '../src/index.js';
import { ALICE, BINARY, BOB, CAROL, Database, Gateway, PRODUCT, Proxy, until } from './gateway.js';

const SETTINGS = { HERALD_HEARTBEAT: '1s', HERALD_REPLAY_EVENTS: '20' };

/** A page of the application, as far as it has anything to do with messages. */
class Page {
  readonly client: HeraldClient;
  readonly store: ConversationStore;
  readonly states: ConversationStoreState[] = [];
  readonly errors: unknown[] = [];

  constructor(url: string, token: () => string) {
    this.client = new HeraldClient({ url, token, onError: (error) => this.errors.push(error) });
    this.store = createConversationStore(this.client);
    this.store.subscribe((state) => this.states.push(state));
  }

  get now(): ConversationStoreState {
    return this.store.snapshot();
  }

  get messages(): readonly ThreadMessage[] {
    return this.now.thread?.messages ?? [];
  }

  conversation(name: string): Conversation | undefined {
    return this.now.conversations.find(({ conversation_id }) => conversation_id === name);
  }

  until(what: string, condition: () => unknown): Promise<unknown> {
    return until(what, condition, () => [this.now.connection, this.now.thread, this.errors.map(String)]);
  }

  async ready(): Promise<this> {
    await this.until('a page that is loaded and live', () => {
      const { connection, conversationsStatus, thread } = this.now;
      return connection.status === 'live' && conversationsStatus === 'ready' && (!thread || thread.status === 'ready');
    });
    return this;
  }

  shows(content: string): Promise<unknown> {
    return this.until(content, () => this.messages.some((message) => message.content === content && message.state === 'sent'));
  }

  close(): void {
    this.store.close();
    this.client.close();
  }
}

describe('the store', { skip: BINARY ? false : 'HERALD_BINARY names no gateway' }, () => {
  let database: Database;
  let gateway: Gateway;
  let proxy: Proxy;
  const pages: Page[] = [];

  const open = (user = ALICE, conversation: string | null = null): Page => {
    const page = new Page(proxy.url, () => database.token(user));
    pages.push(page);
    page.store.open(conversation);
    page.store.start();
    return page;
  };

  before(async () => {
    database = await Database.start();
    await database.sql(
      `insert into messages (sender_id, receiver_id, content, created_at)
       select '${BOB}', '${ALICE}', 'history ' || n, now() - n * interval '1 min' from generate_series(1, 120) n`,
    );
    gateway = await Gateway.start(database, SETTINGS);
    proxy = await Proxy.start(gateway);
  });

  afterEach(() => {
    for (const page of pages.splice(0)) page.close();
    for (const name of ['document', 'addEventListener']) Reflect.deleteProperty(globalThis, name);
  });

  after(async () => {
    proxy?.stop();
    await gateway?.kill();
    await database?.stop();
  });

  test('loads the conversations and the one of a deep link, and goes on live', async () => {
    const page = await open(ALICE, `${BOB}__general`).ready();
    const { thread, user, conversations } = page.now;
    assert.equal(user, ALICE);
    assert.equal(thread?.counterpart.other_username, 'bob');
    assert.equal(thread?.messages.length, 50);
    assert.ok(thread.hasOlder);
    assert.ok(conversations.length > 3);
    await page.until('all of it read', () => page.messages.every(({ is_read, sender_id }) => is_read || sender_id === ALICE));
    const [first] = page.messages;
    const mark = page.states.length;
    await database.insert(BOB, ALICE, 'live');
    await page.shows('live');
    assert.equal(page.now.conversations[0]?.last_message, 'live');
    assert.equal(page.now.conversations[0]?.conversation_id, `${BOB}__general`);
    assert.equal(page.messages.length, 51);
    assert.equal(page.messages[0], first, 'what has not changed is the same object');
    assert.equal(page.now, page.store.snapshot());
    await page.until('the message marked as read', async () => {
      return (await database.sql(`select is_read from messages where content = 'live'`)) === 't';
    });
    for (const { conversations: shown } of page.states.slice(mark)) {
      assert.equal(shown.find((one) => one.conversation_id === `${BOB}__general`)?.unread_count, 0, 'who looks has no unread message');
    }
    assert.deepEqual(page.errors, []);
  });

  test('loads older messages in order, down to the first', async () => {
    const page = await open(ALICE, `${BOB}__general`).ready();
    while (page.now.thread?.hasOlder) await page.store.loadOlder();
    const expected = await database.sql(
      `select string_agg(id::text, ' ' order by created_at, id) from messages where product_id is null
        and (sender_id, receiver_id) in (('${ALICE}', '${BOB}'), ('${BOB}', '${ALICE}'))`,
    );
    assert.equal(page.messages.map(({ id }) => id).join(' '), expected);
    await page.store.loadOlder();
  });

  test('loads more conversations, and knows when there are none', async () => {
    const page = await open().ready();
    while (page.now.hasMoreConversations) await page.store.loadMoreConversations();
    const { conversations } = await page.client.conversations({ limit: 200 });
    assert.deepEqual(page.now.conversations, conversations);
  });

  test('shows a message that is sent at once, once, and under its final id', async () => {
    const page = await open(ALICE, `${CAROL}__general`).ready();
    const id = page.store.send('optimistic');
    const [shown] = page.messages.filter((message) => message.id === id);
    assert.equal(shown?.state, 'sending');
    assert.equal(page.messages.at(-1), shown);
    await page.shows('optimistic');
    await page.until('the event and the answer', () => page.conversation(`${CAROL}__general`)?.last_message === 'optimistic');
    assert.equal(page.messages.filter((message) => message.id === id).length, 1);
    assert.equal(await database.sql(`select id from messages where content = 'optimistic'`), id);
    for (const { thread } of page.states) {
      assert.ok((thread?.messages.filter((message) => message.id === id).length ?? 0) <= 1, 'never twice');
    }
  });

  test('sends in order what was written during an outage', async () => {
    const page = await open(ALICE, `${CAROL}__general`).ready();
    proxy.upstream = null;
    proxy.cut();
    await page.until('the outage', () => page.now.connection.status === 'waiting');
    const written = Array.from({ length: 5 }, (_, number) => `written in an outage ${number}`);
    const ids = written.map((content) => page.store.send(content));
    assert.deepEqual(page.messages.slice(-5).map(({ content }) => content), written);
    await database.insert(CAROL, ALICE, 'from the other side');
    proxy.upstream = gateway;
    for (const content of written) await page.shows(content);
    const kept = await database.sql(
      `select string_agg(id::text, ' ' order by created_at) from messages where content like 'written in an outage %'`,
    );
    assert.equal(kept, ids.join(' '));
    await page.shows('from the other side');
  });

  test('a message that nobody takes has failed at once, and can be tried again or forgotten', async () => {
    const page = await open(ALICE, `${CAROL}__general`).ready();
    const blank = page.store.send('   ');
    const failed = (id: string): ThreadMessage | undefined =>
      page.messages.find((message) => message.id === id && message.state === 'failed');
    await page.until('a failure', () => failed(blank));
    assert.equal(failed(blank)?.error?.status, 422);
    const long = page.store.send('x'.repeat(10_001));
    page.store.send('not held up');
    await page.shows('not held up');
    assert.equal(failed(long)?.error?.status, 413);
    page.store.retry(long);
    assert.equal(failed(long), undefined);
    await page.until('another failure', () => failed(long));
    page.store.discard(long);
    page.store.discard(blank);
    assert.ok(page.messages.every(({ state }) => state === 'sent'));
  });

  test('counts unread messages live, and clears them when another page has read them', async () => {
    const name = `${CAROL}__${PRODUCT}`;
    const [one, other] = [open(), open()];
    await Promise.all([one.ready(), other.ready()]);
    const unread = (page: Page): number => page.conversation(name)?.unread_count ?? 0;
    const before = unread(one);
    await database.insert(CAROL, ALICE, 'unread 1', PRODUCT);
    await database.insert(CAROL, ALICE, 'unread 2', PRODUCT);
    await database.insert(ALICE, CAROL, 'my own', PRODUCT);
    for (const page of [one, other]) await page.until('two more unread', () => unread(page) === before + 2);
    assert.equal(one.now.unreadTotal, one.now.conversations.reduce((sum, { unread_count }) => sum + unread_count, 0));
    one.store.open(name);
    for (const page of [one, other]) await page.until('none unread', () => unread(page) === 0);
    await one.until('rows that are read', () => one.messages.every(({ is_read, sender_id }) => is_read || sender_id === ALICE));
    await database.insert(CAROL, ALICE, 'unread 3', PRODUCT);
    await one.shows('unread 3');
    await other.until('read by the other page', () => other.conversation(name)?.last_message === 'unread 3' && unread(other) === 0);
  });

  test('marks as read only what somebody sees', async () => {
    const name = `${CAROL}__general`;
    const document = { hidden: true };
    const window = new EventTarget();
    const addEventListener = window.addEventListener.bind(window);
    Object.assign(globalThis, { document, addEventListener });
    const page = await open(ALICE, name).ready();
    await page.until('none unread', () => true);
    const before = page.conversation(name)?.unread_count ?? 0;
    await database.insert(CAROL, ALICE, 'not seen yet');
    await page.shows('not seen yet');
    assert.equal(page.conversation(name)?.unread_count, before + 1);
    document.hidden = false;
    window.dispatchEvent(new Event('visibilitychange'));
    await page.until('read', async () => (await database.sql(`select is_read from messages where content = 'not seen yet'`)) === 't');
    assert.equal(page.conversation(name)?.unread_count, 0);
  });

  test('a conversation with somebody new appears by itself, and a note to oneself once', async () => {
    const [stranger] = (await database.sql(`insert into profiles (username) values ('stranger') returning id`)).split('\n');
    const page = await open(ALICE, `${ALICE}__general`).ready();
    await database.insert(stranger!, ALICE, 'first words', PRODUCT);
    await page.until('the conversation', () => page.conversation(`${stranger}__${PRODUCT}`));
    const { other_username, product_title, unread_count } = page.conversation(`${stranger}__${PRODUCT}`)!;
    assert.deepEqual([other_username, product_title, unread_count], ['stranger', 'Oak bookshelf', 1]);
    page.store.send('note');
    await page.shows('note');
    await page.until('the list', () => page.conversation(`${ALICE}__general`)?.last_message === 'note');
    assert.equal(page.messages.filter(({ content }) => content === 'note').length, 1);
    assert.equal(page.conversation(`${ALICE}__general`)?.unread_count, 0);
    // A conversation that has no message yet is known by its name.
    page.store.open(`${stranger}__general`);
    assert.deepEqual(page.now.thread?.counterpart.other_user_id, stranger);
    assert.equal(page.now.thread?.counterpart.product_id, null);
  });

  test('follows changes and deletes', async () => {
    const name = `${BOB}__${PRODUCT}`;
    const page = await open(ALICE, name).ready();
    const first = await database.insert(BOB, ALICE, 'to stay', PRODUCT);
    const second = await database.insert(BOB, ALICE, 'to change', PRODUCT);
    await page.shows('to change');
    await database.sql(`update messages set content = 'changed' where id = '${second}'`);
    await page.shows('changed');
    await page.until('the preview', () => page.conversation(name)?.last_message === 'changed');
    await database.sql(`delete from messages where id = '${second}'`);
    await page.until('the delete', () => !page.messages.some(({ id }) => id === second));
    assert.equal(page.messages.at(-1)?.id, first);
    await page.until('the preview without it', () => page.conversation(name)?.last_message === 'to stay');
  });

  test('loads again what is shown when events may have been missed, without a flicker, and keeps what is not sent', async () => {
    const page = await open(ALICE, `${BOB}__general`).ready();
    await page.store.loadOlder();
    const before = page.messages.length;
    proxy.upstream = null;
    proxy.cut();
    await page.until('the outage', () => page.now.connection.status === 'waiting');
    page.store.send('not sent yet');
    await database.sql(
      `insert into messages (sender_id, receiver_id, content, created_at)
       select '${BOB}', '${ALICE}', 'missed ' || n, now() + n * interval '1 ms' from generate_series(1, 30) n`,
    );
    const mark = page.states.length;
    proxy.upstream = gateway;
    await page.shows('missed 30');
    await page.shows('not sent yet');
    await page.until('the list', () => page.conversation(`${BOB}__general`)?.unread_count === 0);
    assert.ok(page.messages.length >= before);
    for (const { thread, conversationsStatus, conversations } of page.states.slice(mark)) {
      assert.ok(thread?.status === 'ready' && thread.messages.length >= before && conversationsStatus === 'ready');
      assert.ok(conversations.length > 0);
      assert.equal(thread.messages.filter(({ content }) => content === 'not sent yet').length, 1);
    }
    const expected = await database.sql(`select count(*) from messages where content like 'missed %'`);
    assert.equal(page.messages.filter(({ content }) => content.startsWith('missed')).length, Number(expected));
  });

  test('switching five hundred times shows the right conversation, and does not grow', async () => {
    const page = await open().ready();
    const names = page.now.conversations.map(({ conversation_id }) => conversation_id);
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const switchOften = async (): Promise<number> => {
      for (let turn = 0; turn < 500; turn++) {
        page.store.open(names[turn % names.length]!);
        // Some are left before their answer has come, and some after it.
        if (turn % 5 === 0) await page.until('a conversation', () => page.now.thread?.status === 'ready');
      }
      await page.ready();
      page.states.length = 0;
      proxy.heads.length = 0;
      collect();
      return process.memoryUsage().heapUsed;
    };
    const first = await switchOften();
    const second = await switchOften();
    assert.ok(second - first < 1e6, `${second - first} bytes more`);
    const { thread } = page.now;
    assert.equal(thread?.conversation, names[499 % names.length]);
    const { messages } = await page.client.messages(thread!.conversation);
    assert.deepEqual(thread!.messages.map(({ id }) => id), messages.map(({ id }) => id));
  });

  test('the open conversation does not grow without end', async () => {
    const page = await open(ALICE, `${CAROL}__general`).ready();
    await database.sql(
      `insert into messages (sender_id, receiver_id, content, created_at)
       select '${CAROL}', '${ALICE}', 'flood ' || n, now() + n * interval '1 us' from generate_series(1, 700) n`,
    );
    await page.shows('flood 700');
    await page.until('only the newest', () => page.messages.length <= 200 && page.messages.at(-1)?.content === 'flood 700');
    assert.ok(page.now.thread?.hasOlder);
    await page.store.loadOlder();
    const { messages } = page.now.thread;
    const numbers = messages.map(({ content }) => Number(content.slice('flood '.length)));
    assert.deepEqual(numbers, Array.from({ length: messages.length }, (_, index) => 701 - messages.length + index));
  });

  test('shows why it cannot load, and goes on by itself when it can', async () => {
    proxy.upstream = null;
    proxy.cut();
    const page = open(ALICE, `${BOB}__general`);
    await page.until('a failure', () => page.now.conversationsStatus === 'failed' && page.now.thread?.status === 'failed');
    assert.equal(page.now.conversationsError?.status, 0);
    const early = page.store.send('written before anything was loaded');
    proxy.upstream = gateway;
    await page.ready();
    await page.shows('written before anything was loaded');
    assert.equal(page.messages.filter(({ id }) => id === early).length, 1);
    page.store.open('nonsense');
    await page.until('a refusal', () => page.now.thread?.status === 'failed');
    assert.ok(!page.now.thread?.error?.isTemporary);
  });

  test('closing leaves nothing behind', async () => {
    const page = await open(ALICE, `${BOB}__general`).ready();
    page.store.send('and gone');
    page.close();
    const count = page.states.length;
    await until('no timer', () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length <= 1);
    await database.insert(BOB, ALICE, 'into the void');
    assert.equal(page.states.slice(count).filter(({ thread }) => thread?.messages.at(-1)?.content === 'into the void').length, 0);
  });
});
