/** Prints how long a person waits for the page: `npm run figures`, with the programs of the gateway and of Chromium in HERALD_BINARY and HERALD_CHROMIUM. */

import { ALICE, BOB } from '../../client/tests/gateway.js';
import type { Person, Tab } from './browser.js';
import { median, openConversation, percentile, send } from './measure.js';
import { Scene } from './scene.js';

/** How often each thing is done. */
const ROUNDS = 40;

/** How many messages the conversation that is opened has. */
const LONG = 10_000;

const scene = await Scene.start();
try {
  await scene.database.fill(BOB, ALICE, 'long', LONG, '1 minute');
  const person = await scene.person(ALICE);
  const loads: number[] = [];
  for (let round = 0; round < ROUNDS; round++) loads.push(await load(scene, person));
  const tab = await scene.tab(person);
  await tab.list.getByRole('link').nth(7).waitFor();
  const switches = await switchConversations(tab);
  await tab.open(`long ${LONG}`);
  const sends: { shown: number; confirmed: number }[] = [];
  for (let round = 0; round < ROUNDS; round++) sends.push(await send(tab, `figure ${round}`));
  print('initial load, until the conversations are shown', 2_000, loads);
  print(`switch to a conversation of ${LONG} messages`, 500, switches);
  print('send, until it is shown', 200, sends.map(({ shown }) => shown));
  print('send, until it is confirmed', null, sends.map(({ confirmed }) => confirmed));
} finally {
  await scene.clear();
  await scene.stop();
}

/** Loads the page with nothing in the browser's cache, until the newest conversation stands in the list. */
async function load({ application }: Scene, person: Person): Promise<number> {
  const page = await person.context.newPage();
  const session = await person.context.newCDPSession(page);
  await session.send('Network.setCacheDisabled', { cacheDisabled: true });
  await page.goto(application.url, { waitUntil: 'commit' });
  const time = await page.evaluate(async () => {
    while (!document.querySelector('nav a')) await new Promise((resolve) => requestAnimationFrame(resolve));
    return performance.now();
  });
  await page.close();
  return time;
}

/** Opens a long conversation again and again, each time for the first time: a reload forgets those that were open. */
async function switchConversations(tab: Tab): Promise<number[]> {
  const times: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    await tab.page.reload();
    await tab.live();
    times.push(await openConversation(tab.conversation(`long ${LONG}`).first(), `long ${LONG}`));
    await tab.page.goBack();
  }
  return times;
}

function print(what: string, limit: number | null, times: readonly number[]): void {
  const [half, most] = [median(times), percentile(times, 0.95)].map((time) => time.toFixed(0));
  console.log(`${what}: median ${half} ms, 95 % within ${most} ms${limit === null ? '' : ` (limit ${limit} ms)`}`);
}
