/** The parts that need no gateway. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { claimsOf, lost, remainingLife } from '../src/api.js';
import { conversationName, parseConversation } from '../src/conversation.js';
import { eventStreamParser } from '../src/event-stream.js';
import { comparePlaces, compare } from '../src/order.js';
import { Listeners, Writable } from '../src/readable.js';
import { Backoff, comeBack, retryDelay } from '../src/recovery.js';
import { share } from '../src/share.js';
import { ProblemError } from '../src/types.js';

test('a conversation without a product is named general, and only there', () => {
  assert.equal(conversationName('a', null), 'a__general');
  assert.deepEqual(parseConversation('a__general'), { userId: 'a', productId: null });
  fc.assert(
    fc.property(fc.uuid(), fc.option(fc.uuid()), (userId, productId) => {
      assert.deepEqual(parseConversation(conversationName(userId, productId)), { userId, productId });
    }),
  );
});

test('an event stream is read the same however it is cut into pieces', () => {
  const stream =
    'retry: 1000\nevent: ready\nid: 1\ndata: {"a":1}\n\n:\n\nevent: events\r\ndata: {"b":\r\ndata:2}\r\n\r\n: comment\n\ndata: {"c":3}\n\ndata: half';
  fc.assert(
    fc.property(fc.array(fc.nat(stream.length)), (cuts) => {
      const parse = eventStreamParser();
      const places = [0, ...cuts.sort((one, other) => one - other), stream.length];
      const found = places.slice(1).flatMap((end, index) => parse(stream.slice(places[index], end)));
      assert.deepEqual(found.map((data) => JSON.parse(data) as unknown), [{ a: 1 }, { b: 2 }, { c: 3 }]);
    }),
  );
});

test('an event stream is read whatever a message consists of', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('a\u2028data: b', 'a\u2029', '\u0085id: x')), (content) => {
      const data = JSON.stringify({ content });
      const [found] = eventStreamParser()(`event: events\r\nid: 1\r\ndata: ${data}\r\n\r\n`);
      assert.deepEqual(JSON.parse(found!), { content });
    }),
  );
});

test('times are compared by the microsecond, whatever zeros were left away', () => {
  const write = (micros: number): string => {
    const fraction = `${micros % 1e6}`.padStart(6, '0').replace(/0+$/, '');
    return `2026-01-01T00:00:0${Math.floor(micros / 1e6)}${fraction && `.${fraction}`}+00:00`;
  };
  fc.assert(
    fc.property(fc.nat(9_999_999), fc.oneof(fc.nat(9_999_999), fc.nat(100)), (one, more) => {
      const other = Math.min(one + more, 9_999_999);
      assert.equal(compare(write(one), write(other)), Math.sign(one - other));
    }),
  );
  const created_at = '2026-01-01T00:00:00+00:00';
  assert.ok(comparePlaces({ created_at, id: 'b' }, { created_at, id: 'a' }) > 0);
  assert.equal(comparePlaces({ created_at, id: 'a' }, { created_at, id: 'a' }), 0);
});

test('each close code is obeyed', () => {
  const after = (code: number, hasProved: boolean) => comeBack(lost(code), hasProved, new Backoff(() => 0.5));
  for (const code of [1002, 1003, 1007, 1009, 4003, 4009, 4010]) assert.equal(after(code, true), undefined, `${code}`);
  assert.deepEqual(after(1001, true), [2500, true]);
  assert.deepEqual(after(4029, true), [60_000, true]);
  for (const code of [4001, 4008]) {
    assert.deepEqual(after(code, true), [0, false]);
    assert.deepEqual(after(code, false), [250, false], 'coming back at once and getting nowhere backs off');
  }
  for (const code of [0, 1005, 1006, 1011, 1012, 1013, 1014, 4999]) assert.deepEqual(after(code, true), [250, false]);
});

test('refusals at the door that pass are told from those that do not', () => {
  const after = (status: number, retryAfter = 0) =>
    comeBack(new ProblemError(status, '', retryAfter), false, new Backoff(() => 0.5));
  for (const status of [400, 403, 404, 405, 426]) assert.equal(after(status), undefined, `${status}`);
  for (const status of [401, 429, 500, 502, 503, 504]) assert.deepEqual(after(status), [250, false], `${status}`);
  assert.deepEqual(after(503, 7), [7250, true]);
  assert.deepEqual(after(503, 86_400), [60_250, true]);
});

test('delays grow to a ceiling, with full jitter, and begin again', () => {
  const backoff = new Backoff(() => 1);
  const delays = Array.from({ length: 9 }, () => backoff.next());
  assert.deepEqual(delays, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  backoff.reset();
  assert.equal(backoff.next(), 500);
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(70), (draw, attempts) => {
      const drawn = new Backoff(() => draw);
      for (let attempt = 0; attempt < attempts; attempt++) drawn.next();
      const [delay] = retryDelay(lost(), drawn);
      assert.ok(delay >= 0 && delay <= 30_000);
    }),
  );
});

test("a token's life is read, unless the clock cannot be right", () => {
  const now = 1_000_000_000_000;
  const exp = 1_000_003_600;
  const iat = 1_000_000_000;
  assert.equal(remainingLife({ exp, iat }, now), 3_600_000);
  assert.equal(remainingLife({ exp, iat }, now + 600_000), 3_000_000);
  assert.equal(remainingLife({ exp, iat }, now - 86_400_000), 3_600_000, 'the clock is a day behind');
  assert.equal(remainingLife({ exp, iat }, now + 86_400_000), 3_600_000, 'the clock is a day ahead');
  assert.equal(remainingLife({}, now), Infinity);
  const token = `x.${Buffer.from('{"sub":"ü>?","exp":1}').toString('base64url')}.y`;
  assert.equal(claimsOf(token).exp, 1);
  assert.deepEqual(claimsOf('opaque'), {});
});

test('a subscriber that throws does not disturb the others', () => {
  const errors: unknown[] = [];
  const listeners = new Listeners<number>((error) => errors.push(error));
  const heard: number[] = [];
  listeners.add(() => assert.fail('no'));
  const end = listeners.add((value) => heard.push(value));
  listeners.add((value) => heard.push(-value));
  listeners.call(1);
  end();
  listeners.call(2);
  assert.deepEqual(heard, [1, -1, -2]);
  assert.equal(errors.length, 2);
});

test("a readable keeps Svelte's contract, also with a subscriber that throws at once", () => {
  const errors: unknown[] = [];
  const value = new Writable('a', (error) => errors.push(error));
  const heard: string[] = [];
  const end = value.subscribe((now) => heard.push(now));
  value.subscribe(() => assert.fail('no'));
  value.set('b');
  end();
  value.set('c');
  assert.deepEqual(heard, ['a', 'b']);
  assert.equal(errors.length, 3);
});

test('what has not changed stays the same object', () => {
  const old = { a: 1, b: [] };
  assert.equal(share(old, { ...old }), old);
  assert.notEqual(share(old, { ...old, a: 2 }), old);
  const list = [old];
  assert.equal(share(list, [old]), list);
  assert.notEqual(share(list, [old, old]), list);
  assert.deepEqual(share<object[]>(list, []), []);
});
