/** How a thread is grouped. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ThreadMessage } from '@herald/client';
import { countAfter, layOut } from '../src/thread/layout.js';

/** A message with what the layout looks at. */
function message(id: string, sender: string, time: Date): ThreadMessage {
  return { id, sender_id: sender, created_at: time.toISOString() } as ThreadMessage;
}

const at = (day: number, hour: number, minute: number, second = 0): Date => new Date(2026, 10, day, hour, minute, second);

/** The ids, with `|` between groups and `/` between days. */
function shape(messages: readonly ThreadMessage[]): string {
  const days = layOut(messages).map(({ groups }) => groups.map((group) => group.messages.map(({ id }) => id).join('')).join('|'));
  return days.join('/');
}

test('messages of one person within one minute are a group', () => {
  assert.equal(
    shape([
      message('a', 'ada', at(1, 9, 0, 1)),
      message('b', 'ada', at(1, 9, 0, 59)),
      message('c', 'ada', at(1, 9, 1, 0)),
      message('d', 'bob', at(1, 9, 1, 1)),
      message('e', 'ada', at(1, 9, 1, 2)),
    ]),
    'ab|c|d|e',
  );
});

test('a day begins at midnight where the reader is', () => {
  const days = [message('a', 'ada', at(1, 23, 59, 59)), message('b', 'ada', at(2, 0, 0, 0)), message('c', 'ada', at(4, 12, 0))];
  assert.equal(shape(days), 'a/b/c');
  assert.deepEqual(layOut(days).map(({ start }) => start), [at(1, 0, 0), at(2, 0, 0), at(4, 0, 0)].map(Number));
  assert.deepEqual(layOut([]), []);
});

test('a clock that is behind makes no day a second time', () => {
  const days = layOut([
    message('a', 'ada', at(1, 12, 0)),
    message('b', 'bob', at(2, 0, 1)),
    message('c', 'ada', at(1, 23, 58)),
    message('d', 'ada', at(1, 23, 59)),
  ]);
  assert.equal(new Set(days.map(({ start }) => start)).size, days.length);
  assert.deepEqual(days.map(({ groups }) => groups.length), [1, 2]);
});

test('what has not changed is taken over', () => {
  const messages = [
    message('a', 'ada', at(1, 12, 0)),
    message('b', 'bob', at(2, 12, 0)),
    message('c', 'bob', at(2, 12, 1)),
    message('d', 'bob', at(3, 12, 0)),
  ];
  const before = layOut(messages);
  assert.deepEqual(layOut([...messages], before), before);
  assert.ok(layOut([...messages], before).every((day, index) => day === before[index]));

  const more = [...messages.slice(0, 2), { ...messages[2]!, is_read: true }, messages[3]!, message('e', 'ada', at(3, 12, 0))];
  const after = layOut(more, before);
  assert.equal(after[0], before[0]);
  assert.equal(after[1]!.groups[0], before[1]!.groups[0]);
  assert.notEqual(after[1]!.groups[1], before[1]!.groups[1]);
  assert.equal(after[2]!.groups[0], before[2]!.groups[0]);
  assert.deepEqual(after, layOut(more));
});

test('only what others wrote since is new', () => {
  const messages = [
    message('a', 'ada', at(1, 1, 0)),
    message('b', 'bob', at(1, 1, 1)),
    message('c', 'ada', at(1, 1, 2)),
    message('d', 'bob', at(1, 1, 3)),
  ];
  assert.equal(countAfter(messages, 'a', 'ada'), 2);
  assert.equal(countAfter(messages, 'd', 'ada'), 0);
  assert.equal(countAfter(messages, 'gone', 'ada'), 0);
  assert.equal(countAfter(messages, null, 'ada'), 0);
});
