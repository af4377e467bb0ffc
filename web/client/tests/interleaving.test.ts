/** What a store makes of answers, events and failures in orders that no real gateway can be made to keep to. */

import assert from 'node:assert/strict';
import { afterEach, describe, mock, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import type { Message } from '../src/types.js';
import { insert, ME, message, NAME, OTHER, script } from './scripted.js';

/** A message to the other person, as the gateway stores what is being sent. */
function stored(given: readonly unknown[], time = 1e6) {
  const { id, content } = given[1] as { id: string; content: string };
  return message(time, { id, content, sender_id: ME, receiver_id: OTHER });
}

describe('the store', () => {
  afterEach(() => {
    mock.timers.reset();
    for (const name of ['document', 'addEventListener']) Reflect.deleteProperty(globalThis, name);
  });

  test('does not come back by itself when the gateway has sent it away', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const { client, begin, store } = script();
    await begin([message(1)]);
    assert.deepEqual(client.connects, ['start']);
    // Something is in doubt, so the list is going to be loaded again.
    client.tell({ op: 'delete', seq: 0, conversation: NAME, message: { id: message(1).id } });
    client.refuse(4009);
    mock.timers.tick(10_000);
    await client.rest();
    for (const call of client.pending('conversations')) call.answer({ conversations: [], cursor: 'later', next: null });
    await client.rest();
    assert.deepEqual(client.connects, ['start'], 'what lies between would be missing, and another page would be sent away');
    void store.reload();
    await client.answer('conversations', { conversations: [], cursor: 'reloaded', next: null });
    assert.deepEqual(client.connects, ['start', 'reloaded']);
    store.close();
  });

  test('closed and started again, sends what was on its way', async () => {
    const { client, begin, store, contents } = script();
    await begin();
    store.send('on its way');
    await client.rest();
    store.close();
    store.start();
    await client.answer('conversations', { conversations: [], cursor: 'again', next: null });
    await client.answer('messages', { messages: [], cursor: 'again', next: null });
    const [call] = client.pending('send');
    assert.ok(call, 'it is sent again');
    await client.answer('send', stored(call.given));
    assert.deepEqual(contents(), ['on its way']);
    assert.equal(store.snapshot().thread?.messages[0]?.state, 'sent');
    store.close();
  });

  test('closed and started again, marks as read what is seen', async () => {
    const { client, begin, store } = script();
    await begin([message(1, { is_read: false })]);
    assert.equal(client.pending('markRead').length, 1);
    store.close();
    store.start();
    await client.answer('conversations', { conversations: [], cursor: 'again', next: null });
    await client.answer('messages', { messages: [message(1, { is_read: false })], cursor: 'again', next: null });
    assert.equal(client.pending('markRead').length, 1);
    store.close();
  });

  test('keeps nothing of what it showed before it was loaded again', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const { client, begin, store } = script();
    await begin([message(1)]);
    void store.reload();
    await client.answer('conversations', { conversations: [], cursor: '', next: null });
    await client.answer('messages', { messages: [message(1)], cursor: '', next: null });
    // A view may have more columns than are known here.
    const weigh = (column: object): WeakRef<object> => {
      client.tell(insert({ ...message(2), column } as Message));
      return new WeakRef(column);
    };
    const shown = weigh({});
    for (let number = 3; number < 600; number++) client.tell(insert(message(number)));
    // The open conversation is cut back, so that the message is in it no more.
    await client.answer('messages', { messages: [message(599)], cursor: '', next: 'older' });
    assert.equal(store.snapshot().thread?.messages.length, 1);
    await client.rest();
    collect();
    assert.equal(shown.deref(), undefined);
    store.close();
  });

  test('does not lose sight of a sent message while a page that does not know of it is on its way', async () => {
    const { client, begin, store, contents } = script();
    await begin([message(1)]);
    store.send('sent');
    await client.rest();
    void store.reload();
    await client.rest();
    await client.answer('send', stored(client.pending('send')[0]!.given));
    assert.deepEqual(contents(), ['1', 'sent']);
    await client.answer('conversations', { conversations: [], cursor: '', next: null });
    await client.answer('messages', { messages: [message(1)], cursor: '', next: null });
    assert.deepEqual(contents(), ['1', 'sent'], 'the event may take its time');
    assert.equal(store.snapshot().conversations[0]?.last_message, 'sent');
    store.close();
  });

  test('shows a message once that an older page has while its answer was lost', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const { client, begin, store, contents } = script();
    await begin();
    store.send('lost answer');
    await client.rest();
    const row = stored(client.pending('send')[0]!.given, 1);
    await client.fail('send', 503);
    client.ready(false);
    await client.answer('conversations', { conversations: [], cursor: '', next: null });
    await client.fail('send', 500);
    await client.answer('messages', { messages: [message(2)], cursor: '', next: 'older' });
    assert.deepEqual(contents(), ['2', 'lost answer']);
    void store.loadOlder();
    await client.answer('messages', { messages: [row], cursor: '', next: null });
    assert.deepEqual(contents(), ['lost answer', '2']);
    store.close();
  });

  test('marks as read again, after a while, what could not be marked', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const { client, begin, store } = script();
    await begin([message(1, { is_read: false })]);
    let attempts = 0;
    for (let second = 0; second < 120; second++) {
      for (const call of client.pending('markRead')) {
        attempts++;
        call.fail(503);
      }
      await client.rest();
      for (const call of client.pending('conversations')) call.answer({ conversations: [], cursor: '', next: null });
      await client.rest();
      client.tell(insert(message(1000 + second, { sender_id: ME, receiver_id: OTHER })));
      await client.rest();
      mock.timers.tick(1000);
      await client.rest();
    }
    assert.ok(attempts >= 4 && attempts < 40, `${attempts} attempts in two minutes`);
    store.close();
  });

  test('marks nothing as read again that nobody looks at any more', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const document = { hidden: false };
    Object.assign(globalThis, { document, addEventListener: () => {} });
    const { client, begin, store } = script();
    await begin([message(1, { is_read: false })]);
    await client.fail('markRead', 503);
    document.hidden = true;
    client.tell(insert(message(2, { is_read: false })));
    mock.timers.tick(60_000);
    await client.rest();
    assert.equal(client.pending('markRead').length, 0);
    store.close();
  });

  test('says that a conversation is being loaded, whatever is wrong with the list', async () => {
    const { client, begin, store } = script();
    await begin();
    void store.reload();
    await client.fail('conversations', 500);
    await client.answer('messages', { messages: [], cursor: '', next: null });
    store.open(`${ME}__general`);
    assert.equal(store.snapshot().thread?.status, 'loading');
    store.close();
  });

  test('gives a message an id also where a page is not served by https', async () => {
    const { client, begin, store } = script();
    const { randomUUID } = crypto;
    Object.defineProperty(crypto, 'randomUUID', { value: undefined, configurable: true, writable: true });
    try {
      await begin();
      const ids = new Set(Array.from({ length: 100 }, () => store.send('insecure')));
      assert.equal(ids.size, 100);
      for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      assert.equal(client.pending('send').length, 1);
    } finally {
      Object.assign(crypto, { randomUUID });
    }
    store.close();
  });
});
