// Drives the real clients of Supabase Realtime for the tests in tests/it/supabase.rs.
//
// One process holds any number of clients. Each line on standard input is a command, a JSON object `{"id": 1, "do": "create", ...}`.
// Each line on standard output is a JSON object: an answer, `{"id": 1, "ok": ...}` or `{"id": 1, "error": "..."}`, or something
// that happened, `{"event": "status", ...}`. Commands do not wait for each other. The process ends with its standard input.
//
// `commands` below has every command with its fields.

import { createInterface } from 'node:readline'
import WebSocket from 'ws'

// What the clients print is not part of the conversation.
for (const method of ['debug', 'error', 'info', 'log', 'warn']) {
  console[method] = (...words) => process.stderr.write(`${words.join(' ')}\n`)
}

// With the word `page` on its command line the process has a page around its clients, which is shown, hidden and put away as browsers do
// with theirs. The clients look for it when they are loaded.
const page = process.argv.includes('page') ? new EventTarget() : null
if (page) {
  globalThis.window = page
  globalThis.document = { visibilityState: 'visible' }
}

// How long the changes of a group are gathered before they are reported, in milliseconds: thousands of clients that come back
// within a second are some lines, and who waits for them does not notice.
const GATHERED_MS = 50

// How many clients of a group connect at the same time: fewer than the gateway's backlog of connections.
const BATCH = 100

const report = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

// ---------------------------------------------------------------------------------------------------------------------------------
// What nobody caught.

const uncaught = []

const nobodyCaught = (kind, error) => {
  const text = error?.stack ?? String(error)
  uncaught.push({ kind, error: text })
  report({ event: 'uncaught', kind, error: text })
}
process.on('uncaughtException', (error) => nobodyCaught('exception', error))
process.on('unhandledRejection', (error) => nobodyCaught('rejection', error))

// What a handler throws is lost with the event, as in a browser. Thrown through the socket it would end the socket as well.
const guarded = (handler) =>
  handler &&
  function (...given) {
    try {
      return handler.apply(this, given)
    } catch (error) {
      nobodyCaught('exception', error)
    }
  }

// ---------------------------------------------------------------------------------------------------------------------------------
// The transport: the clients' own on Node 20, with its life and, if asked for, its frames reported.

const base64Of = (bytes) => Buffer.from(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, bytes.byteLength).toString('base64')

const frameOf = (data) => (typeof data === 'string' ? { text: data } : { bytes: base64Of(data) })

const transport = (hear) =>
  class extends WebSocket {
    constructor(address, protocols) {
      super(address, protocols)
      hear({ event: 'socket', state: 'connecting', url: String(address) })
      this.on('open', () => hear({ event: 'socket', state: 'open' }))
      this.on('error', (error) => hear({ event: 'socket', state: 'error', error: error.message }))
      this.on('close', (code, reason) => hear({ event: 'socket', state: 'closed', code, reason: reason.toString() }))
      if (hear.frames) {
        this.on('message', (data, isBinary) => {
          hear({ event: 'frame', from: 'gateway', ...frameOf(isBinary ? data : data.toString()) })
        })
      }
    }
    send(data, ...rest) {
      if (hear.frames) hear({ event: 'frame', from: 'client', ...frameOf(data) })
      return super.send(data, ...rest)
    }
    get onopen() { return super.onopen }
    set onopen(handler) { super.onopen = guarded(handler) }
    get onmessage() { return super.onmessage }
    set onmessage(handler) { super.onmessage = guarded(handler) }
    get onerror() { return super.onerror }
    set onerror(handler) { super.onerror = guarded(handler) }
    get onclose() { return super.onclose }
    set onclose(handler) { super.onclose = guarded(handler) }
  }

// ---------------------------------------------------------------------------------------------------------------------------------
// Clients.

const packages = new Map()

// The exports of one of the packages in package.json.
const load = (name) => {
  if (!packages.has(name)) packages.set(name, import(name))
  return packages.get(name)
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

// Makes a client of realtime-js or of supabase-js. `token` is what its callback answers; without one it has no callback of ours.
const make = async ({ package: name, url, key, options = {}, token }, hear, callback) => {
  const exports = await load(name)
  const realtime = { ...options, transport: transport(hear) }
  const accessToken = token === undefined ? {} : { accessToken: callback }
  if (name.startsWith('realtime-js')) {
    return new exports.RealtimeClient(url, { ...realtime, ...accessToken, params: { apikey: key, ...options.params } })
  }
  const auth = { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false }
  return exports.createClient(url, key, { realtime, ...accessToken, auth })
}

const clients = new Map()

const clientOf = ({ client }) => {
  const found = clients.get(client)
  if (!found) throw new Error(`there is no client ${client}`)
  return found
}

// The part of a client that has the socket.
const realtimeOf = (made) => made.realtime ?? made

const channelOf = (command) => {
  const found = clientOf(command).channels.get(command.channel)
  if (!found) throw new Error(`there is no channel ${command.channel}`)
  return found
}

const bytesOf = (base64) => {
  const bytes = Buffer.from(base64, 'base64')
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
}

// What a command says, be it JSON or bytes.
const payloadOf = ({ payload, bytes }) => (bytes === undefined ? payload : bytesOf(bytes))

// The payload of a broadcast for a line of JSON.
const readable = (payload) =>
  payload instanceof ArrayBuffer || ArrayBuffer.isView(payload) ? { bytes: base64Of(payload) } : { payload }

const subscribe = (made, { channel: name, config, changes = [], broadcasts = [], presence = false, timeoutMs }, hear) => {
  const channel = made.channel(name, ...(config === undefined ? [] : [{ config }]))
  changes.forEach((binding, index) => {
    channel.on('postgres_changes', binding, (payload) => hear({ event: 'change', binding: index, payload }))
  })
  for (const event of broadcasts) {
    channel.on('broadcast', { event }, ({ type: _type, event: of, payload, ...more }) => {
      hear({ event: 'broadcast', of, ...readable(payload), ...more })
    })
  }
  if (presence) {
    channel.on('presence', { event: 'sync' }, () => hear({ event: 'presence', kind: 'sync', state: channel.presenceState() }))
    channel.on('presence', { event: 'join' }, (payload) => hear({ event: 'presence', kind: 'join', payload }))
    channel.on('presence', { event: 'leave' }, (payload) => hear({ event: 'presence', kind: 'leave', payload }))
  }
  channel.on('system', {}, (payload) => hear({ event: 'system', payload }))
  const status = (status, error) => {
    hear({ event: 'status', status, error: error === undefined ? null : String(error?.message ?? error) })
  }
  channel.subscribe(status, ...(timeoutMs === undefined ? [] : [timeoutMs]))
  return channel
}

// ---------------------------------------------------------------------------------------------------------------------------------
// Groups: many clients with a channel each, of which only sums are reported.

const groups = new Map()

class Group {
  constructor(name) {
    this.name = name
    this.members = []
    this.statuses = {}
    this.isReported = true
  }

  // What is to be reported has changed.
  changed() {
    if (!this.isReported) return
    this.isReported = false
    setTimeout(() => {
      this.isReported = true
      report({ event: 'group', ...this.sums() })
    }, GATHERED_MS)
  }

  // `ids`, if given, are what each member should have heard, in that order and nothing else.
  sums(ids) {
    const counts = this.members.map((member) => member.ids.length)
    const sums = {
      group: this.name,
      clients: this.members.length,
      open: this.members.filter((member) => member.isOpen).length,
      subscribed: this.members.filter((member) => member.status === 'SUBSCRIBED').length,
      live: this.members.filter((member) => member.isLive).length,
      statuses: this.statuses,
      changes: counts.reduce((sum, count) => sum + count, 0),
      fewest: counts.length === 0 ? 0 : counts.reduce((a, b) => Math.min(a, b)),
      most: counts.length === 0 ? 0 : counts.reduce((a, b) => Math.max(a, b)),
      doubled: this.members.filter((member) => new Set(member.ids).size < member.ids.length).length,
    }
    if (ids !== undefined) {
      const right = JSON.stringify(ids)
      const wrong = this.members.filter((member) => JSON.stringify(member.ids) !== right)
      Object.assign(sums, { wrong: wrong.length, example: wrong[0]?.ids ?? null })
    }
    return sums
  }

  hear(member, line) {
    switch (line.event) {
      case 'socket':
        if (line.state === 'connecting') return
        member.isOpen = line.state === 'open'
        if (!member.isOpen) member.isLive = false
        break
      case 'status':
        member.status = line.status
        this.statuses[line.status] = (this.statuses[line.status] ?? 0) + 1
        member.answered()
        break
      case 'system':
        member.isLive = line.payload.status === 'ok'
        break
      case 'change':
        member.ids.push(line.payload.new?.id ?? line.payload.old?.id)
        break
      default:
        return
    }
    this.changed()
  }

  async add(command, variant) {
    const member = { ids: [], status: null, isOpen: false, isLive: false, client: null }
    const hasAnswer = new Promise((resolve) => (member.answered = resolve))
    const hear = (line) => this.hear(member, line)
    const merged = { ...command, ...variant }
    member.client = await make(merged, hear, async () => merged.token)
    this.members.push(member)
    if (merged.setAuth !== undefined) await realtimeOf(member.client).setAuth(merged.setAuth)
    subscribe(member.client, merged, hear)
    await hasAnswer
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------
// Commands.

const commands = {
  // {client, package, url, key, options?, token?: {value, delayMs?}, frames?}: makes a client under the name `client`. `url` is the
  // socket's (`ws://.../realtime/v1`) for realtime-js, and the project's (`http://...`) for supabase-js. `options` are those of a
  // RealtimeClient. With `token` the client has an accessToken callback, which answers with the value after the delay.
  // Events: socket (state: connecting with url, open, error with error, closed with code and reason), heartbeat (status), token (the
  // callback was called), and with `frames` each frame (from: client or gateway; text, or bytes in base64).
  async create(command) {
    const { client: name, token = {}, frames = false } = command
    if (clients.has(name)) throw new Error(`there is a client ${name} already`)
    const hear = Object.assign((line) => report({ ...line, client: name }), { frames })
    const entry = { channels: new Map(), token, client: null }
    clients.set(name, entry)
    const heartbeatCallback = (status) => hear({ event: 'heartbeat', status })
    const options = { heartbeatCallback, ...command.options }
    entry.client = await make({ ...command, options }, hear, async () => {
      const { value, delayMs } = entry.token
      hear({ event: 'token' })
      if (delayMs !== undefined) await pause(delayMs)
      return value
    })
    return null
  },

  // {client, value, delayMs?}: what the callback of `create` answers from now on.
  token(command) {
    clientOf(command).token = { value: command.value, delayMs: command.delayMs }
    return null
  },

  // {client, channel, config?, changes?: [binding], broadcasts?: [event], presence?, timeoutMs?}: makes the channel and subscribes.
  // The answer comes at once. Events: status (status, error), change (binding: its index in `changes`, payload), broadcast (of: its event;
  // payload or bytes in base64; meta), presence (kind: sync with state, join or leave with payload), system (payload).
  subscribe(command) {
    const { client, channels } = clientOf(command)
    const { client: name, channel } = command
    channels.set(channel, subscribe(client, command, (line) => report({ ...line, client: name, channel })))
    return null
  },

  // {client, channel}: answers `ok`, `timed out` or `error`.
  unsubscribe: (command) => channelOf(command).unsubscribe(),

  // {client, channel}: answers as `unsubscribe`.
  async removeChannel(command) {
    const { client, channels } = clientOf(command)
    const channel = channelOf(command)
    channels.delete(command.channel)
    return client.removeChannel(channel)
  },

  // {client, token?}: without a token the client asks its callback.
  setAuth: (command) => realtimeOf(clientOf(command).client).setAuth(...(command.token === undefined ? [] : [command.token])),

  // {client, channel, of, payload | bytes, timeoutMs?}: a broadcast. Answers `ok`, `timed out` or `error`.
  send: (command) =>
    channelOf(command).send(
      { type: 'broadcast', event: command.of, payload: payloadOf(command) },
      command.timeoutMs === undefined ? {} : { timeout: command.timeoutMs },
    ),

  // {client, channel, config?, of, payload | bytes}: a broadcast over HTTP; the channel is made if there is none, and not
  // subscribed to. Answers with what the client answers, `{success: true}`.
  httpSend(command) {
    const { client, channels } = clientOf(command)
    const channel = channels.get(command.channel) ?? client.channel(command.channel, { config: command.config ?? {} })
    return channel.httpSend(command.of, payloadOf(command))
  },

  // {client, channel, payload}: answers `ok`, `timed out` or `error`.
  track: (command) => channelOf(command).track(command.payload),

  // {client, channel}: answers as `track`.
  untrack: (command) => channelOf(command).untrack(),

  // {client, channel}: who is there, as the client knows it.
  presenceState: (command) => channelOf(command).presenceState(),

  // {client, code?, reason?}: answers when the client is ready to connect again, which it ignores before.
  async disconnect(command) {
    const realtime = realtimeOf(clientOf(command).client)
    await realtime.disconnect(command.code, command.reason)
    while (realtime.isDisconnecting()) await pause(10)
    return null
  },

  // {client}
  connect(command) {
    realtimeOf(clientOf(command).client).connect()
    return null
  },

  // {to}: what a browser does with the page: `hide` and `show` when its tab goes to the background and comes back, `putAway` and
  // `takeOut` when it is kept for the back button and returned to.
  page({ to }) {
    const events = { hide: 'visibilitychange', show: 'visibilitychange', putAway: 'pagehide', takeOut: 'pageshow' }
    if (to === 'hide') globalThis.document.visibilityState = 'hidden'
    if (to === 'show') globalThis.document.visibilityState = 'visible'
    page.dispatchEvent(new Event(events[to]))
    return null
  },

  // {client}: whether its socket is open, and the states of its channels by name.
  state(command) {
    const { client, channels } = clientOf(command)
    const states = Object.fromEntries([...channels].map(([name, channel]) => [name, channel.state]))
    return { isConnected: realtimeOf(client).isConnected(), channels: states }
  },

  // {client}: leaves all channels, disconnects, and forgets the client.
  async close(command) {
    const { client } = clientOf(command)
    clients.delete(command.client)
    await client.removeAllChannels()
    await realtimeOf(client).disconnect()
    return null
  },

  // {}: what nobody caught since the process began, and how many clients there are.
  stats: () => ({ uncaught, clients: clients.size }),

  // {group, count, package, url, key, options?, token?, setAuth?, channel, config?, changes?, variants?: [...]}: makes so many
  // clients with one channel each, `BATCH` at a time; the answer comes when each has had a status. `token` and `setAuth` are
  // texts here.
  // Member i is made with the fields of `variants[i % variants.length]` on top. Event: group, with the answer of `group`.
  async many(command) {
    const { group: name, count, variants = [{}] } = command
    if (groups.has(name)) throw new Error(`there is a group ${name} already`)
    const group = new Group(name)
    groups.set(name, group)
    for (let made = 0; made < count; made += BATCH) {
      const numbers = Array.from({ length: Math.min(BATCH, count - made) }, (_, index) => made + index)
      await Promise.all(numbers.map((number) => group.add(command, variants[number % variants.length])))
    }
    return group.sums()
  },

  // {group, ids?}: how many `clients` it has, how many sockets are `open`, how many clients are `subscribed`, and how many were told
  // by a system message that they are `live`; how often each of the `statuses` was reported; how many `changes` were heard, and the
  // `fewest` and the `most` by one client; by how many something was `doubled`. With `ids` also how many were `wrong`, in that they
  // heard anything else than these messages in this order, and what one of them heard as an `example`.
  group({ group, ids }) {
    const found = groups.get(group)
    if (!found) throw new Error(`there is no group ${group}`)
    return found.sums(ids)
  },

  // {group}: disconnects all its clients, and forgets them.
  async closeGroup({ group }) {
    const { members } = groups.get(group)
    groups.delete(group)
    await Promise.all(members.map((member) => realtimeOf(member.client).disconnect()))
    return null
  },
}

const obey = async (line) => {
  const command = JSON.parse(line)
  const { id } = command
  try {
    if (!Object.hasOwn(commands, command.do)) throw new Error(`there is no command ${command.do}`)
    report({ id, ok: (await commands[command.do](command)) ?? null })
  } catch (error) {
    report({ id, error: String(error?.message ?? error) })
  }
}

createInterface({ input: process.stdin })
  .on('line', obey)
  .on('close', () => process.exit(0))
