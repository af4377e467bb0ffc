/** What is made of the text of a message, and of names. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { colourOf, countCharacters, initialsOf, isLargeEmoji } from '../src/text/characters.js';
import { splitLinks } from '../src/text/links.js';
import { pictureAddress } from '../src/text/picture.js';

/** The addresses that are found in a message, as written. */
function links(content: string): string[] {
  return splitLinks(content).flatMap(({ text, href }) => (href === null ? [] : [text]));
}

test('addresses are found in the middle of a sentence, without its punctuation', () => {
  assert.deepEqual(splitLinks('See https://a.example/b?c=d#e, or not.'), [
    { text: 'See ', href: null },
    { text: 'https://a.example/b?c=d#e', href: 'https://a.example/b?c=d#e' },
    { text: ', or not.', href: null },
  ]);
  assert.deepEqual(links('(https://a.example/b_(c)) https://d.example... "https://e.example"'), [
    'https://a.example/b_(c)',
    'https://d.example',
    'https://e.example',
  ]);
  assert.deepEqual(links('HTTPS://A.example/Ü und http://localhost:4000/'), ['HTTPS://A.example/Ü', 'http://localhost:4000/']);
});

test('nothing but http and https becomes a link, and no address that hides its host', () => {
  for (const content of [
    'javascript:alert(1)',
    'data:text/html,<b>x</b>',
    'ftp://a.example',
    'https://',
    'https://bank.example@evil.example/',
    'https://a:b@c.example',
    '<img src=x onerror=alert(1)>',
    'xhttps://a.example',
  ]) {
    assert.deepEqual(links(content), [], content);
  }
});

test('the pieces of a message are the message', () => {
  const words = ['https://a.example', ' ', '(', ')', '.', '\n', '<b>', 'é', 'https://', '😄', '"', ']', '[', 'http://[::1]/x'];
  let seed = 7;
  for (let round = 0; round < 500; round++) {
    let content = '';
    for (let count = 0; count < 12; count++) {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
      content += words[seed % words.length];
    }
    assert.equal(splitLinks(content).map(({ text }) => text).join(''), content);
  }
  assert.deepEqual(splitLinks(''), []);
});

test('the longest message is split in no time', () => {
  for (const content of ['https://'.repeat(1250), `https://a${')'.repeat(9_990)}`, `https://a/${'('.repeat(9_990)}`, '('.repeat(10_000)]) {
    const began = performance.now();
    splitLinks(content);
    assert.ok(performance.now() - began < 250, content.slice(0, 12));
  }
});

test('one to three emoji are large, and nothing else is', () => {
  for (const content of ['😄', ' 👍🏽 ', '👩‍👩‍👧‍👦', '🇩🇪🇫🇷', '❤️', '1️⃣', '🎉 🎉\n🎉', '🏴‍☠️']) assert.ok(isLargeEmoji(content), content);
  for (const content of ['', ' ', '1', '42', '#', '©', 'ok 😄', '🎉🎉🎉🎉', '❤', 'a️']) assert.ok(!isLargeEmoji(content), content);
});

test('characters are counted as the gateway counts them', () => {
  assert.equal(countCharacters('añ😄'), 3);
  assert.equal(countCharacters('👩‍👧'), 3);
  assert.equal(countCharacters(''), 0);
});

test('initials come from the first and the last word', () => {
  assert.equal(initialsOf('alice'), 'A');
  assert.equal(initialsOf('Ada King Lovelace'), 'AL');
  assert.equal(initialsOf('jean-luc'), 'JL');
  assert.equal(initialsOf('محمد علي'), 'مع');
  assert.equal(initialsOf('👩‍🚀 Mae'), '👩‍🚀M');
  for (const nobody of [null, '', '  ', '_']) assert.equal(initialsOf(nobody), '?');
});

test('a person has one colour, and people have several', () => {
  const ids = Array.from({ length: 64 }, (_, number) => `aaaaaaaa-0000-4000-8000-${String(number).padStart(12, '0')}`);
  const colours = ids.map((id) => colourOf(id, 8));
  assert.deepEqual(colours, ids.map((id) => colourOf(id, 8)));
  assert.ok(colours.every((colour) => colour >= 0 && colour < 8));
  assert.equal(new Set(colours).size, 8);
});

test('pictures come by https, from the page or from themselves', () => {
  const page = 'http://127.0.0.1:4000/messages/';
  const asked = (avatar: string | null): string | null => pictureAddress(avatar, page);
  assert.equal(asked('https://a.example/b.png'), 'https://a.example/b.png');
  assert.equal(asked('/a.png'), 'http://127.0.0.1:4000/a.png');
  assert.equal(asked('data:image/svg+xml,%3Csvg/%3E'), 'data:image/svg+xml,%3Csvg/%3E');
  for (const other of [null, '', 'http://a.example/b.png', 'javascript:alert(1)', 'data:text/html,x', 'https://']) {
    assert.equal(asked(other), null, String(other));
  }
});
