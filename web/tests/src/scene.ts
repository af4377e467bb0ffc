/** What a test plays in: a database, a gateway that serves the page, the application before it, and a browser. */

import { fileURLToPath } from 'node:url';

import type { Browser, BrowserContextOptions } from 'playwright-core';

import { Database, Gateway } from '../../client/tests/gateway.js';
import { Application, COOKIE } from './application.js';
import { Person, startBrowser, type Tab } from './browser.js';

/** The folder `web`. */
export const WEB = fileURLToPath(new URL('../../../..', import.meta.url));

/** The page as the application has built it for itself, by `build-page`. */
export const PAGE = `${WEB}/tests/dist`;

/** The page of the demo. */
export const DEMO_PAGE = `${WEB}/app/dist`;

/** Where screenshots are put. */
export const SHOTS = `${WEB}/tests/shots`;

/** A stage with people on it. */
export class Scene {
  readonly #people: Person[] = [];

  private constructor(
    readonly database: Database,
    readonly application: Application,
    readonly browser: Browser,
  ) {}

  /** Sets the stage; Chromium is given these arguments. */
  static async start(chromium: readonly string[] = []): Promise<Scene> {
    const [database, browser] = await Promise.all([
      Database.start({ HERALD_WEB_ROOT: DEMO_PAGE }),
      startBrowser(chromium),
    ]);
    const scene = new Scene(database, await Application.start(database), browser);
    await scene.startGateway();
    return scene;
  }

  /** Starts a gateway and passes everything on to it. */
  async startGateway(): Promise<void> {
    this.application.upstream = await Gateway.start(this.database, { HERALD_WEB_ROOT: PAGE });
  }

  /** Ends the gateway without a word. */
  async killGateway(): Promise<void> {
    const gateway = this.application.upstream;
    this.application.upstream = null;
    await gateway?.kill();
  }

  /** Somebody signs in to the application, in a browser of their own. */
  async person(id: string, options: BrowserContextOptions = {}): Promise<Person> {
    const person = await this.visitor(options);
    await this.signIn(person, id);
    return person;
  }

  async signIn(person: Person, id: string): Promise<void> {
    await person.context.addCookies([{ name: COOKIE, value: id, url: this.application.url }]);
  }

  /** Somebody who has not signed in. */
  async visitor(options: BrowserContextOptions = {}): Promise<Person> {
    const person = await Person.start(this.browser, options);
    this.#people.push(person);
    return person;
  }

  /** Opens the page of the application, at a conversation if one is named, and waits for the connection. */
  async tab(person: Person, conversation?: string): Promise<Tab> {
    const tab = await person.tab(`${this.application.url}/${conversation ? `?conversation=${conversation}` : ''}`);
    return tab.live();
  }

  /** Closes all browsers, and finds that nothing went wrong in them. */
  async clear(): Promise<void> {
    for (const person of this.#people.splice(0)) await person.close();
  }

  async stop(): Promise<void> {
    await this.browser.close();
    this.application.stop();
    await this.application.upstream?.stop();
    await this.database.stop();
  }
}
