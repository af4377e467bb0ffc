/** The web application beside which a gateway runs: it signs people in, and passes everything else on to the gateway. */

import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import type { Database, Gateway } from '../../client/tests/gateway.js';

/** Where the page gets its tokens; the page is built with this address. */
export const TOKEN_PATH = '/session/token';

/** Names in a cookie who is signed in. */
export const COOKIE = 'person';

/** An address that stays while gateways come and go. */
export class Application {
  /** The gateway; while there is none, requests are answered as a reverse proxy does. */
  upstream: Gateway | null = null;
  /** How long its tokens are good, in seconds. */
  tokenLife = 3600;
  /** How many tokens it has given. */
  tokens = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Duplex>();

  private constructor(
    readonly database: Database,
    server: Server,
  ) {
    this.#server = server;
  }

  static async start(database: Database): Promise<Application> {
    const server = createServer();
    const application = new Application(database, server);
    server.on('connection', (socket) => application.#hold(socket));
    server.on('request', (asked, answer) => application.#answer(asked, answer));
    server.on('upgrade', (asked, socket, head) => application.#upgrade(asked, socket, head));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return application;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #hold(socket: Duplex): void {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
  }

  #answer(asked: IncomingMessage, answer: ServerResponse): void {
    if (asked.url === TOKEN_PATH) return this.#sign(asked, answer);
    const { upstream } = this;
    const fail = (): void => {
      if (!answer.headersSent) answer.writeHead(502);
      answer.end();
    };
    if (!upstream) return fail();
    const { method, url, headers } = asked;
    const passed = request({ port: upstream.port, host: '127.0.0.1', method, path: url, headers }, (from) => {
      answer.writeHead(from.statusCode ?? 502, from.headers);
      from.pipe(answer);
    });
    passed.on('error', fail);
    answer.on('close', () => passed.destroy());
    asked.pipe(passed);
  }

  #sign(asked: IncomingMessage, answer: ServerResponse): void {
    const person = new RegExp(`${COOKIE}=([\\w-]+)`).exec(asked.headers.cookie ?? '')?.[1];
    if (!person) return void answer.writeHead(401).end();
    this.tokens++;
    const token = this.database.token(person, this.tokenLife);
    answer.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-store' }).end(JSON.stringify({ token }));
  }

  #upgrade(asked: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { upstream } = this;
    if (!upstream) return void socket.end('HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
    const gateway: Socket = connect(upstream.port, '127.0.0.1');
    this.#hold(gateway);
    const lines = [`${asked.method} ${asked.url} HTTP/1.1`];
    for (let index = 0; index < asked.rawHeaders.length; index += 2) lines.push(asked.rawHeaders.slice(index, index + 2).join(': '));
    gateway.write(`${lines.join('\r\n')}\r\n\r\n`);
    gateway.write(head);
    gateway.pipe(socket).pipe(gateway);
    gateway.on('close', () => socket.destroy());
    socket.on('close', () => gateway.destroy());
  }
}
