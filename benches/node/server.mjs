// What people write today in place of Herald: a trigger that notifies, one LISTEN connection, one fetch for each message, and a set of sockets for
// each user. It forgets what it says: whoever is away misses it. `herald load --peer` starts it with the database and the secret in its
// environment, and reads its address from the first line of its standard error.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import pg from 'pg';
import { WebSocketServer } from 'ws';

const { DATABASE_URL, HERALD_JWT_SECRET } = process.env;

const TRIGGER = `
  create or replace function announce_message() returns trigger language plpgsql as $$
  begin
    perform pg_notify('new_message', new.id::text);
    return null;
  end $$;
  create or replace trigger announce_message after insert on messages for each row execute function announce_message()`;

const FETCH = `
  select m.*, s.username as sender_username, s.avatar_url as sender_avatar_url,
         r.username as receiver_username, r.avatar_url as receiver_avatar_url, p.title as product_title
  from messages m
  join profiles s on s.id = m.sender_id
  join profiles r on r.id = m.receiver_id
  left join products p on p.id = m.product_id
  where m.id = $1`;

/** The user of a token (HS256), or nothing. */
function userOf(request) {
  const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  const [header, claims, signature] = token.split('.');
  const expected = createHmac('sha256', HERALD_JWT_SECRET).update(`${header}.${claims}`).digest();
  const given = Buffer.from(signature ?? '', 'base64url');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return undefined;
  const { sub, exp } = JSON.parse(Buffer.from(claims, 'base64url').toString());
  return exp * 1000 > Date.now() ? sub : undefined;
}

const users = new Map();
const server = createServer();
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });

server.on('upgrade', (request, connection, head) => {
  const user = userOf(request);
  if (user === undefined) {
    connection.end('HTTP/1.1 401 Unauthorized\r\n\r\n');
    return;
  }
  sockets.handleUpgrade(request, connection, head, (socket) => {
    if (!users.has(user)) users.set(user, new Set());
    users.get(user).add(socket);
    socket.on('close', () => {
      users.get(user)?.delete(socket);
      if (users.get(user)?.size === 0) users.delete(user);
    });
    socket.on('error', () => socket.terminate());
    socket.send('{"type":"ready"}');
  });
});

const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 });
await pool.query(TRIGGER);
const listener = new pg.Client({ connectionString: DATABASE_URL });
await listener.connect();
listener.on('notification', async ({ payload }) => {
  const { rows } = await pool.query({ name: 'fetch', text: FETCH, values: [payload] });
  for (const message of rows) {
    const text = JSON.stringify({ type: 'message', message });
    for (const user of new Set([message.sender_id, message.receiver_id])) {
      for (const socket of users.get(user) ?? []) socket.send(text);
    }
  }
});
await listener.query('listen new_message');
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
  process.stderr.write(`${JSON.stringify({ address: `127.0.0.1:${server.address().port}` })}\n`);
});
