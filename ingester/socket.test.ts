import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import { type WebSocket, WebSocketServer } from 'ws'
import { freePort } from '../start/process.ts'
import { openSocket, retryAfter, type SocketOptions } from './socket.ts'

/** A host that gives each connection to `serve`. */
async function aHost(serve: (socket: WebSocket) => void, options: { autoPong?: boolean } = {}) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', ...options })
  server.on('connection', serve)
  await once(server, 'listening')
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      for (const client of server.clients) client.terminate()
      server.close()
      await once(server, 'close')
    },
  }
}

const connect = (url: string, more: Partial<SocketOptions> = {}) =>
  openSocket({
    url,
    signal: new AbortController().signal,
    idleTimeoutMs: 60_000,
    onPressure: () => {},
    ...more,
  })

test('messages come in order, then the reason why it ended', async () => {
  await using host = await aHost((socket) => {
    for (const text of ['a', 'b']) socket.send(Buffer.from(text))
    socket.close(1_001, 'bye')
  })
  using socket = await connect(host.url)
  expect(String(await socket.next())).toBe('a')
  expect(String(await socket.next())).toBe('b')
  expect(await socket.next()).toBe(null)
  expect(socket.ended).toContain('1001, bye')
})

test('a reader that does not read stops the socket, and loses nothing when it does', async () => {
  const message = Buffer.alloc(500_000)
  const sent: WebSocket[] = []
  await using host = await aHost((socket) => {
    sent.push(socket)
    for (let index = 0; index < 200; index++) socket.send(message)
  })
  const pressure: boolean[] = []
  using socket = await connect(host.url, { onPressure: (pressed) => void pressure.push(pressed) })
  await expect.poll(() => pressure).toEqual([true])
  const held = socket.waiting
  expect(held * message.length).toBeLessThan(30_000_000)
  expect(sent[0]?.bufferedAmount).toBeGreaterThan(10_000_000)
  for (let index = 0; index < 200; index++) expect((await socket.next())?.length).toBe(500_000)
  expect(pressure.at(-1)).toBe(false)
})

test('a silent host is given up, one that answers pings is not', async () => {
  await using silent = await aHost(() => {}, { autoPong: false })
  using socket = await connect(silent.url, { idleTimeoutMs: 60 })
  expect(await socket.next()).toBe(null)
  expect(socket.ended).toContain('silent')

  await using quiet = await aHost((socket) => {
    let pings = 0
    socket.on('ping', () => {
      pings += 1
      if (pings === 10) socket.send(Buffer.from('here'))
    })
  })
  using other = await connect(quiet.url, { idleTimeoutMs: 300 })
  expect(String(await other.next())).toBe('here')
})

test('a refused connection tells how long the host asks us to stay away', async () => {
  const server = createServer()
  server.on('upgrade', (_, socket) =>
    socket.end('HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n'),
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await expect(connect(`ws://127.0.0.1:${port}`)).rejects.toMatchObject({ retryAfterMs: 7_000 })
  server.close()
  await once(server, 'close')
})

test('nobody there is an error of the connection, and so is a stop while connecting', async () => {
  const nobody = `ws://127.0.0.1:${await freePort()}`
  await expect(connect(nobody)).rejects.toMatchObject({ name: 'ConnectionError' })
  const stopping = new AbortController()
  stopping.abort()
  await expect(connect(nobody, { signal: stopping.signal })).rejects.toThrow('stopped')
})

test('a stop ends the wait for the next message', async () => {
  await using host = await aHost(() => {})
  const stopping = new AbortController()
  using socket = await connect(host.url, { signal: stopping.signal })
  const next = socket.next()
  stopping.abort()
  expect(await next).toBe(null)
})

test('Retry-After is read in both forms, and bounded', () => {
  const now = Date.parse('2026-01-01T00:00:00Z')
  expect(retryAfter(undefined, now)).toBe(0)
  expect(retryAfter('30', now)).toBe(30_000)
  expect(retryAfter('Thu, 01 Jan 2026 00:01:00 GMT', now)).toBe(60_000)
  expect(retryAfter('nonsense', now)).toBe(0)
  expect(retryAfter('99999999', now)).toBe(15 * 60_000)
})
