/** Times as people say them. Midnight is where the reader is, so every moment is made of local parts. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { daysBetween, readersLocale, Sayer } from '../src/text/time.js';

const now = new Date(2026, 10, 26, 9, 30).getTime();
const at = (month: number, day: number, hour = 12, year = 2026): number => new Date(year, month - 1, day, hour, 5).getTime();
const sayer = new Sayer('en-GB');

test('a day has the name that says most', () => {
  assert.equal(sayer.day(at(11, 26, 0), now), 'Today');
  assert.equal(sayer.day(at(11, 25, 23), now), 'Yesterday');
  assert.equal(sayer.day(at(11, 20), now), 'Friday');
  assert.match(sayer.day(at(11, 19), now), /^Thu,? 19 November$/);
  assert.equal(sayer.day(at(12, 31, 12, 2025), now), '31 December 2025');
  assert.match(sayer.day(at(11, 27), now), /27 November/);
});

test('the list says times briefly', () => {
  assert.equal(sayer.brief(at(11, 26, 8), now), '08:05');
  assert.equal(sayer.brief(at(11, 27, 8), now), '08:05');
  assert.equal(sayer.brief(at(11, 25), now), 'Yesterday');
  assert.equal(sayer.brief(at(11, 21), now), 'Sat');
  assert.equal(sayer.brief(at(11, 9), now), '9 Nov');
  assert.equal(sayer.brief(at(11, 9, 12, 2024), now), '9 Nov 2024');
});

test('days are counted by midnights, whatever the clocks do', () => {
  for (let day = 0; day < 800; day++) {
    const noon = new Date(2026, 0, 1 + day, 12).getTime();
    assert.equal(daysBetween(new Date(2026, 0, day, 23, 59).getTime(), noon), 1);
    assert.equal(daysBetween(new Date(2026, 0, 1 + day, 0, 1).getTime(), noon), 0);
    assert.equal(daysBetween(new Date(2026, 0, day - 6, 3).getTime(), noon), 7);
  }
});

test('the page speaks English with the clock of the reader', () => {
  const clock = (...languages: string[]): string => new Sayer(readersLocale(languages)).clock(at(11, 26, 15));
  assert.equal(clock('de-DE', 'en-US'), '15:05');
  assert.match(clock('en-US'), /^3:05\sPM$/u);
  assert.equal(clock('fr'), '15:05');
  assert.match(clock(), /05/);
});
