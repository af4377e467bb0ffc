/** A real database and real gateways, and a proxy before them that fails on demand. */

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, connect, type AddressInfo, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

import { WebSocket as NodeWebSocket } from 'ws';

/** Node 20 has no WebSocket of its own; browsers do. */
globalThis.WebSocket ??= NodeWebSocket as unknown as typeof WebSocket;

/** The gateway's program. Without it, the tests that need one are skipped. */
export const BINARY = process.env['HERALD_BINARY'];

/** How long anything may take, in milliseconds: far longer than it does, because machines are busy. */
export const PATIENCE = 30_000;

/** People and a product of the demo. */
export const ALICE = 'aaaaaaaa-0000-4000-8000-000000000001';
export const BOB = 'aaaaaaaa-0000-4000-8000-000000000002';
export const CAROL = 'aaaaaaaa-0000-4000-8000-000000000003';
export const PRODUCT = 'bbbbbbbb-0000-4000-8000-000000000001';

/** Waits until the condition gives something, and gives that back. */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  details: () => unknown = () => '',
): Promise<NonNullable<Exclude<T, false>>> {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const found = await condition();
    if (found) return found as NonNullable<Exclude<T, false>>;
    if (Date.now() > deadline) throw new Error(`never came: ${what} ${JSON.stringify(details())}`);
    await delay(5);
  }
}

/** A process, and what it has written. */
class Running {
  output = '';

  constructor(readonly process: ChildProcess) {
    for (const stream of [process.stdout, process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
  }

  /** Waits for something in the output. */
  find(pattern: RegExp): Promise<string> {
    return until(`${pattern}`, () => {
      if (this.process.exitCode !== null) throw new Error(`it has ended: ${this.output}`);
      return pattern.exec(this.output)?.[1];
    });
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill(signal);
    await ended;
  }
}

/** The demo's database. Its people do not talk. */
export class Database {
  private constructor(
    readonly folder: string,
    readonly dev: Running,
    readonly port: string,
    readonly password: string,
    readonly secret: string,
    readonly psql: string,
    /** The demo's own gateway, which signs in whom it is told to. */
    readonly gatewayUrl: string,
  ) {}

  static async start(settings: Record<string, string> = {}): Promise<Database> {
    const folder = await mkdtemp(join(tmpdir(), 'herald-client-'));
    // Postgres may run as another user.
    await chmod(folder, 0o755);
    const dev = new Running(spawn(BINARY!, ['dev', '--folder', folder, '--bind', '127.0.0.1:0'], { env: environment(settings) }));
    const chatter = await dev.find(/chatter +process (\d+)/);
    process.kill(Number(chatter));
    const [password, secret] = await Promise.all(
      ['password', 'jwt-secret'].map(async (name) => (await readFile(join(folder, name), 'utf8')).trim()),
    );
    const port = await dev.find(/Postgres +127\.0\.0\.1:(\d+)/);
    // It lies beside the server's program, which need not be on the path.
    const [psql, gatewayUrl] = await Promise.all([dev.find(/" (\S+psql) -h/), dev.find(/gateway +(\S+)/)]);
    return new Database(folder, dev, port, password!, secret!, psql, gatewayUrl);
  }

  get url(): string {
    return `postgres://postgres:${this.password}@127.0.0.1:${this.port}/herald_demo`;
  }

  async sql(statement: string): Promise<string> {
    const { stdout } = await promisify(execFile)(this.psql, ['-XAtq', this.url, '-c', statement]);
    return stdout.trim();
  }

  /** Somebody writes, and commits. */
  insert(sender: string, receiver: string, content: string, product: string | null = null): Promise<string> {
    const columns = `'${sender}', '${receiver}', '${content}', ${product ? `'${product}'` : 'null'}`;
    return this.sql(`insert into messages (sender_id, receiver_id, content, product_id) values (${columns}) returning id`);
  }

  /** Somebody writes so many messages at once, numbered from one on, so far one after the other, the last one now. */
  async fill(sender: string, receiver: string, content: string, count: number, apart = '1 millisecond'): Promise<void> {
    const rows = `select '${sender}', '${receiver}', '${content} ' || n, now() - (${count} - n) * interval '${apart}'`;
    await this.sql(`insert into messages (sender_id, receiver_id, content, created_at) ${rows} from generate_series(1, ${count}) n`);
  }

  /** A token that is good for so many seconds. */
  token(user: string, seconds = 3600): string {
    const now = Math.floor(Date.now() / 1000);
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, role: 'authenticated', iat: now - 60, exp: now + seconds })}`;
    return `${body}.${createHmac('sha256', this.secret).update(body).digest('base64url')}`;
  }

  async stop(): Promise<void> {
    await this.dev.end('SIGINT');
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** A gateway of its own process beside the database. */
export class Gateway {
  private constructor(
    readonly running: Running,
    readonly port: number,
  ) {}

  static async start(database: Database, settings: Record<string, string> = {}): Promise<Gateway> {
    const running = new Running(
      spawn(BINARY!, ['serve'], {
        env: environment({
          DATABASE_URL: database.url,
          HERALD_BIND: '127.0.0.1:0',
          HERALD_JWT_SECRET: database.secret,
          HERALD_SHUTDOWN_GRACE: '2s',
          ...settings,
        }),
      }),
    );
    const gateway = new Gateway(running, Number(await running.find(/address=127\.0\.0\.1:(\d+)/)));
    await until('a gateway that is ready', async () => (await fetch(`http://127.0.0.1:${gateway.port}/readyz`)).ok);
    return gateway;
  }

  /** Ends it in order. */
  stop(): Promise<void> {
    return this.running.end('SIGTERM');
  }

  /** Ends it without a word. */
  kill(): Promise<void> {
    return this.running.end('SIGKILL');
  }
}

/** Stands before a gateway at an address that stays. */
export class Proxy {
  /** Where the gateway is; nobody if it is nowhere. */
  upstream: Gateway | null = null;
  /** Whether it answers requests for a WebSocket as if it had never heard of them. */
  refusesUpgrades = false;
  /** Whether it lets nothing through any more, in either direction, and says nothing about it. */
  swallows = false;
  /** What all requests began with, to look for what must not be there. */
  readonly heads: string[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(upstream: Gateway | null): Promise<Proxy> {
    const server = createServer();
    const proxy = new Proxy(server);
    proxy.upstream = upstream;
    server.on('connection', (client) => proxy.#serve(client));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  /** How many requests began like this, for instance `GET /v1/socket`. */
  count(begin: string): number {
    return this.heads.filter((head) => head.startsWith(begin)).length;
  }

  /** How many connections are open. */
  get open(): number {
    return this.#sockets.size;
  }

  /** Breaks all connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  stop(): void {
    this.#server.close();
    this.cut();
  }

  #serve(client: Socket): void {
    const { upstream } = this;
    if (!upstream) return void client.destroy();
    const gateway = connect(upstream.port, '127.0.0.1');
    for (const socket of [client, gateway]) {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        this.#sockets.delete(socket);
        client.destroy();
        gateway.destroy();
      });
    }
    client.on('data', (data) => {
      if (this.swallows) return;
      const text = data.toString('latin1');
      if (/^[A-Z]+ \//.test(text)) this.heads.push(text);
      if (this.refusesUpgrades && /^upgrade: websocket/im.test(text)) {
        client.end('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
      } else {
        gateway.write(data);
      }
    });
    gateway.on('data', (data) => {
      if (!this.swallows) client.write(data);
    });
  }
}

function environment(more: Record<string, string> = {}): NodeJS.ProcessEnv {
  // Settings of whoever runs the tests are not theirs.
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('HERALD_') && name !== 'DATABASE_URL');
  return { ...Object.fromEntries(kept), ...more };
}
