/** How a thread is grouped. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ThreadMessage } from '@herald/client';
import { countAfter, layOut, type Day, type Group } from '../src/thread/layout.js';

/** A message with what the layout looks at. */
function message(id: string, sender: string, time: Date): ThreadMessage {
  return { id, sender_id: sender, created_at: time.toISOString() } as ThreadMessage;
}

const at = (day: number, hour: number, minute: number, second = 0): Date => new Date(2026, 10, day, hour, minute, second);

/** Messages of two people by turns, each in a minute of its own, on one day; they are called by their numbers. */
function minutes(from: number, until: number): ThreadMessage[] {
  const numbers = Array.from({ length: until - from }, (_, index) => from + index);
  return numbers.map((number) => message(`${number}`, number % 2 ? 'ada' : 'bob', at(1, 0, number)));
}

function groupsOf({ blocks }: Day): Group[] {
  return blocks.flatMap(({ groups }) => groups);
}

/** The ids, with `|` between groups and `/` between days. */
function shape(messages: readonly ThreadMessage[]): string {
  const days = layOut(messages).map((day) => groupsOf(day).map((group) => group.messages.map(({ id }) => id).join('')).join('|'));
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
  assert.deepEqual(days.map((day) => groupsOf(day).length), [1, 2]);
});

test('what has not changed is taken over', () => {
  const messages = [
    message('a', 'ada', at(1, 12, 0)),
    message('b', 'bob', at(2, 12, 0)),
    message('c', 'bob', at(2, 12, 1)),
    message('d', 'bob', at(3, 12, 0)),
  ];
  const before = layOut(messages);
  assert.ok(layOut([...messages], before).every((day, index) => day === before[index]));

  const more = [...messages.slice(0, 2), { ...messages[2]!, is_read: true }, messages[3]!, message('e', 'ada', at(3, 12, 0))];
  const after = layOut(more, before);
  assert.equal(after[0], before[0]);
  assert.equal(groupsOf(after[1]!)[0], groupsOf(before[1]!)[0]);
  assert.notEqual(groupsOf(after[1]!)[1], groupsOf(before[1]!)[1]);
  assert.equal(groupsOf(after[2]!)[0], groupsOf(before[2]!)[0]);
  assert.deepEqual(after, layOut(more));
});

test('blocks are of a bounded size, and nothing goes from one to another', () => {
  let [from, until] = [500, 510];
  let before = layOut(minutes(from, until));
  for (let round = 0; round < 60; round++) {
    if (round % 3 === 0) from = Math.max(from - 50, 0);
    else until += round % 7;
    const [day, ...others] = layOut(minutes(from, until), before);
    assert.ok(day);
    assert.deepEqual(others, []);
    assert.deepEqual(groupsOf(day).map(({ messages }) => messages.map(({ id }) => id).join()), minutes(from, until).map(({ id }) => id));
    assert.equal(new Set(day.blocks.map(({ key }) => key)).size, day.blocks.length);
    const places = new Map(day.blocks.flatMap(({ key, groups }) => groups.map((group) => [group.key, key])));
    for (const { key, groups } of before[0]!.blocks) for (const group of groups) assert.equal(places.get(group.key), key);
    assert.ok(day.blocks.every(({ groups }) => groups.length <= 50));
    before = [day];
  }
  assert.ok(before[0]!.blocks.length < 40);
});

test('a minute stays the same group in the same block while its older messages are loaded', () => {
  const all = Array.from({ length: 400 }, (_, index) => message(`${index}`, 'ada', at(1, 9, 0, index / 8)));
  const answer = message('answer', 'bob', at(1, 9, 1));
  let before = layOut([...all.slice(350), answer]);
  const first = before[0]!.blocks[0]!;
  for (let from = 300; from >= 0; from -= 50) {
    before = layOut([...all.slice(from), answer], before);
    const block = before[0]!.blocks[0]!;
    assert.equal(block.key, first.key);
    assert.equal(block.groups[0]!.key, first.groups[0]!.key);
    assert.equal(block.groups[0]!.messages.length, 400 - from);
  }
});

test('keys are given once, however messages come, move and go', () => {
  let seed = 7;
  const draw = (count: number): number => (seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648) % count;
  for (let round = 0; round < 12; round++) {
    const people = ['ada', 'bob'];
    let all: ThreadMessage[] = [];
    let before: Day[] = [];
    for (let step = 0; step < 60; step++) {
      const place = draw(3) ? all.length : draw(all.length + 1);
      const many = draw(4) ? 1 : draw(60);
      const minute = Math.floor(place / 40);
      const come = Array.from({ length: many }, (_, index) => message(`${step} ${index}`, people[draw(20) ? step % 2 : 0]!, at(1, 0, minute)));
      all = [...all.slice(0, place), ...come, ...all.slice(place)];
      if (all.length && draw(3) === 0) all.splice(draw(all.length), 0, ...all.splice(draw(all.length), 1 + draw(3)));
      if (draw(5) === 0) all.splice(draw(all.length), draw(30));
      before = layOut(all, before);
      for (const { blocks } of before) {
        for (const keyed of [blocks, ...blocks.map(({ groups }) => groups)]) {
          assert.equal(new Set(keyed.map(({ key }) => key)).size, keyed.length, `round ${round}, step ${step}`);
        }
      }
      assert.deepEqual(before.flatMap(groupsOf).flatMap(({ messages }) => messages), all);
    }
  }
});

test('a key is given once, whatever is deleted', () => {
  const all = minutes(0, 200);
  let before = layOut(all.slice(100));
  let seed = 3;
  for (let round = 0; round < 300; round++) {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    const kept = all.filter(({ id }) => (Number(id) * 7_919 + seed) % 11 > 2).slice(seed % 90);
    before = layOut(kept, before);
    const keys = before.flatMap(({ blocks }) => blocks.map(({ key }) => key));
    assert.equal(new Set(keys).size, keys.length);
    assert.deepEqual(before.flatMap(groupsOf).flatMap(({ messages }) => messages), kept);
  }
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
