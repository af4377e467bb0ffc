/** Whatever order pages, events, answers and repetitions come in, what is shown in the end is what the database has. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { conversationName } from '../src/conversation.js';
import { History } from '../src/history.js';
import { ConversationList } from '../src/list.js';
import type { ConversationPage, Message, MessageEvent, MessagePage } from '../src/types.js';
import { Database, ME } from './database.js';

const OTHERS = ['00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-00000000000c', ME];
const PRODUCT = '00000000-0000-4000-8000-0000000000f0';
const BEGIN = Date.parse('2026-01-01T00:00:00Z');

/** What happens in the database, or between it and the client. */
type Step =
  | { do: 'insert'; message: number; time: number; other: number; isFromOther: boolean; hasProduct: boolean }
  | { do: 'edit' | 'markRead' | 'delete' | 'move' | 'answer'; message: number }
  | { do: 'read' | 'ask' | 'snapshot' | 'receive' }
  | { do: 'tell' | 'repeat'; count: number };

const message = fc.nat(9);
/** Most messages are of one conversation, so that much happens to it. */
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({
      do: fc.constant('insert' as const),
      message,
      time: fc.nat(1000),
      other: fc.constantFrom(0, 0, 0, 0, 0, 1, 2),
      isFromOther: fc.boolean(),
      hasProduct: fc.constantFrom(true, true, true, true, false),
    }),
    fc.record({
      do: fc.constant('insert' as const),
      message,
      time: fc.nat(1000),
      other: fc.constant(0),
      isFromOther: fc.constant(true),
      hasProduct: fc.constant(true),
    }),
    fc.record({ do: fc.constantFrom('edit', 'markRead', 'delete', 'move', 'answer'), message }),
    fc.record({ do: fc.constantFrom('read', 'ask', 'snapshot', 'receive') }),
    fc.record({ do: fc.constantFrom('tell', 'repeat'), count: fc.integer({ min: 1, max: 4 }) }),
  ),
  { minLength: 10, maxLength: 100, size: 'max' },
);

const idOf = (number: number): string => `00000000-0000-4000-8000-0000000001${number}0`;

/** Carries out a step that concerns the database or its feed only. */
function change(database: Database, step: Step, edits: { count: number }): void {
  switch (step.do) {
    case 'insert': {
      const other = OTHERS[step.other] ?? ME;
      // No two messages have one time, which the gateway's previews could not tell apart.
      const time = BEGIN + step.time * 100 + step.message;
      database.insert(idOf(step.message), other, step.hasProduct ? PRODUCT : null, step.isFromOther, time);
      break;
    }
    case 'edit':
      database.update(idOf(step.message), { content: `edit ${edits.count++}` });
      break;
    case 'markRead':
      database.update(idOf(step.message), { is_read: true });
      break;
    case 'delete':
      database.delete(idOf(step.message));
      break;
    case 'read':
      database.read();
      break;
    case 'repeat':
      database.repeat(step.count);
  }
}

test('a history ends as what the database has', () => {
  const conversation = conversationName(OTHERS[0]!, PRODUCT);
  const limit = 2;
  fc.assert(
    fc.property(steps, (all) => {
      const database = new Database();
      const edits = { count: 0 };
      let history = null as History | null;
      /** A page that is on its way: what came since it was asked for, and what the answer is if it has been made. */
      let call = null as ({ since: MessageEvent[]; page: MessagePage | null; before: string | null }) | null;
      const receive = (): void => {
        if (!call?.page) return;
        if (history && call.before) history.addPage(call.page, call.since);
        else history = new History(conversation, call.page, call.since);
        call = null;
      };
      const tell = (count: number): void => {
        const events = database.tell(count);
        call?.since.push(...events);
        for (const event of events) history?.apply(event);
      };
      const snapshot = (): void => {
        if (call) call.page ??= database.messages(conversation, limit, call.before);
      };
      for (const step of all) {
        change(database, step, edits);
        if (step.do === 'move') database.update(idOf(step.message), { product_id: null });
        if (step.do === 'tell') tell(step.count);
        if (step.do === 'ask') call ??= { since: [], page: null, before: history?.next ?? null };
        if (step.do === 'snapshot') snapshot();
        if (step.do === 'receive') receive();
        if (step.do === 'answer') {
          const row = database.messagesOf(conversation).find(({ id }) => id === idOf(step.message));
          // An answer is made after the commit, and comes before the event or after it.
          if (row && history) history.add(row);
        }
      }
      // Everything comes to rest, and all pages are loaded.
      call ??= { since: [], page: null, before: history?.next ?? null };
      snapshot();
      database.read();
      if (all.length % 2) receive();
      tell(Infinity);
      receive();
      const shown = (): unknown => history?.rows.map(({ state: _, ...row }) => row);
      const here = database.messagesOf(conversation);
      const loaded = history!.next === null ? here : here.slice(here.length - history!.rows.length);
      assert.deepEqual(shown(), loaded);
      while (history!.next) history!.addPage(database.messages(conversation, limit, history!.next), []);
      assert.deepEqual(shown(), here);
    }),
    { numRuns: 3000 },
  );
});

test('a history takes nothing back', () => {
  const database = new Database();
  const other = OTHERS[0]!;
  const name = conversationName(other, null);
  const tell = (): MessageEvent => {
    database.read();
    return database.tell(1)[0]!;
  };
  database.insert(idOf(1), other, null, true, BEGIN);
  const insert = tell();
  const before = database.messages(name, 50, null);
  database.update(idOf(1), { content: 'second' });
  const update = tell();
  const history = new History(name, { messages: [], cursor: '', next: null }, []);
  history.apply(update);
  const { rows } = history;
  history.apply(insert);
  history.add(insert.message as Message);
  history.addPage(before, []);
  assert.equal(history.rows[0]?.content, 'second');
  assert.equal(history.rows.length, 1);
  assert.equal(history.rows[0], rows[0], 'the same row, because nothing has changed');
  database.delete(idOf(1));
  const gone = tell();
  history.apply(gone);
  assert.deepEqual(history.rows, []);
  assert.deepEqual(new History(name, before, [gone]).rows, [], 'a page that was on its way meanwhile');
});

test('a list ends as what the database has, or knows that it may not', () => {
  fc.assert(
    fc.property(steps, (all) => {
      const database = new Database();
      const edits = { count: 0 };
      const list = new ConversationList({ user: ME });
      let isLoaded = false;
      let call = null as ({ since: MessageEvent[]; page: ConversationPage | null }) | null;
      const receive = (): void => {
        if (!call?.page) return;
        list.addPage(call.page, call.since, true);
        isLoaded = true;
        call = null;
      };
      const tell = (count: number): void => {
        const events = database.tell(count);
        call?.since.push(...events);
        if (isLoaded) list.applyAll(events);
      };
      const snapshot = (): void => {
        if (call) call.page ??= database.conversations();
      };
      for (const step of all) {
        change(database, step, edits);
        if (step.do === 'tell') tell(step.count);
        if (step.do === 'ask') call ??= { since: [], page: null };
        if (step.do === 'snapshot') snapshot();
        if (step.do === 'receive') receive();
      }
      if (!isLoaded) call ??= { since: [], page: null };
      snapshot();
      database.read();
      if (all.length % 2) receive();
      tell(Infinity);
      receive();
      if (list.isDoubtful) list.addPage(database.conversations(), [], true);
      const { conversations } = database.conversations();
      assert.deepEqual(list.shown, conversations);
    }),
    { numRuns: 3000 },
  );
});

test('unread messages are counted once, and lowered once', () => {
  const database = new Database();
  const other = OTHERS[0]!;
  const list = new ConversationList({ user: ME });
  list.addPage(database.conversations(), [], true);
  const unread = (): number | undefined => list.find(conversationName(other, null))?.unread_count;
  database.insert(idOf(1), other, null, true, BEGIN + 1);
  database.insert(idOf(2), other, null, true, BEGIN + 2);
  database.insert(idOf(3), other, null, false, BEGIN + 3);
  database.insert(idOf(4), ME, null, true, BEGIN + 4);
  database.read();
  const inserts = database.tell(Infinity);
  list.applyAll([...inserts, ...inserts]);
  assert.equal(unread(), 2);
  assert.equal(list.find(conversationName(ME, null))?.unread_count, 0, 'a note to oneself is read');
  database.update(idOf(1), { is_read: true });
  database.read();
  const updates = database.tell(Infinity);
  list.applyAll([...updates, ...updates]);
  assert.equal(unread(), 1);
  list.markRead(conversationName(other, null));
  assert.equal(unread(), 0);
  assert.equal(list.isDoubtful, false);
});
