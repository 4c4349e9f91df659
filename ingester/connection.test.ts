/** The lines of the contract about connections that no other test beside a file shows. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { expect, test } from 'vitest'
import { WebSocketServer } from 'ws'
import { errorFrame } from '../simulator/frames.ts'
import { testRedis } from '../test/servers/redis.ts'
import { createReconnect } from './reconnect.ts'
import { patience, startIngester } from './testing.ts'

type Upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) => void

/** A host that answers upgrades by `upgrade`, else as a web server does, and an ingester that follows it. */
async function following(
  upgrade: Upgrade | null,
  more: Record<string, string> = {},
  scheme = 'ws',
) {
  const resources = new AsyncDisposableStack()
  const asked: string[] = []
  const html = (request: IncomingMessage, response: ServerResponse) => {
    asked.push(request.url ?? '')
    response.writeHead(200, { 'content-type': 'text/html' }).end('<html>')
  }
  const server = createServer(html)
  if (upgrade !== null) {
    server.on('upgrade', (request, socket, head) => {
      asked.push(request.url ?? '')
      socket.on('error', () => {}) // The ingester may leave as it likes.
      upgrade(request, socket, head)
    })
  }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  resources.defer(async () => {
    server.closeAllConnections()
    server.close()
  })
  const { url } = resources.use(await testRedis())
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const relay = `${scheme}://${host}`
  const env = { REDIS_URL: url, INGESTER_RELAY_HOSTS: relay, INGESTER_MODE: 'firehose', ...more }
  const ingester = resources.use(startIngester(env))
  const ended = () => ingester.log.filter(({ reason }) => reason !== undefined)
  return {
    asked,
    ended,
    problems: () => Object.values(ingester.problems()).join(),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

test('a web page in place of a stream is told by its status, and tried again', async () => {
  await using room = await following(null)
  await expect.poll(() => room.asked.length, patience).toBeGreaterThan(1)
  expect(room.ended()[0]).toMatchObject({ reason: 'unreachable', level: 'warn' })
  expect(room.ended()[0]?.['detail']).toContain('the host answers with status 200')
})

test('a redirect is not followed: another host has other positions', async () => {
  await using room = await following((_, socket) => {
    socket.end('HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n')
  })
  await expect.poll(() => room.asked.length, patience).toBeGreaterThan(1)
  expect(room.ended()[0]?.['detail']).toContain('the host answers with status 302')
  expect(room.asked.some((url) => url.startsWith('/elsewhere'))).toBe(false)
})

test('a host without the TLS that was asked for is told, and tried again', async () => {
  await using room = await following(null, {}, 'wss')
  await expect.poll(() => room.ended().length, patience).toBeGreaterThan(1)
  expect(room.ended()[0]).toMatchObject({ reason: 'unreachable' })
  expect(String(room.ended()[0]?.['detail'])).toMatch(/no connection.*(SSL|TLS|EPROTO|packet)/)
})

test('who is told to be too slow stays away for a while', async () => {
  const sockets = new WebSocketServer({ noServer: true })
  await using room = await following((request, socket, head) => {
    sockets.handleUpgrade(request, socket, head, (client) => {
      client.send(errorFrame('ConsumerTooSlow', 'too slow'))
      client.close()
    })
  })
  await expect.poll(() => room.ended().length, patience).toBeGreaterThan(0)
  const [ending] = room.ended()
  expect(ending).toMatchObject({ reason: 'error-frame' })
  expect(Number(ending?.['waitMs'])).toBeGreaterThanOrEqual(5_000)
})

test.each([
  ['live', undefined],
  ['oldest', '0'],
])('without a stored position INGESTER_START=%s asks for cursor %s', async (start, cursor) => {
  await using room = await following((_, socket) => socket.destroy(), { INGESTER_START: start })
  await expect.poll(() => room.asked.length, patience).toBeGreaterThan(0)
  const url = new URL(room.asked[0] ?? '', 'ws://host')
  expect(url.pathname).toBe('/xrpc/com.atproto.sync.subscribeRepos')
  expect(url.searchParams.get('cursor') ?? undefined).toBe(cursor)
})

test('the wait grows with each failure, and starts anew only after a stable minute', () => {
  const bounds = { initialMs: 100, maxMs: 10_000 }
  const waitAfter = createReconnect(bounds)
  const waits = [0, 59_999, 0, 0, 0].map((held) => waitAfter(held, 0))
  for (const [index, wait] of waits.entries()) {
    expect(wait).toBeGreaterThanOrEqual(50 * 2 ** index)
    expect(wait).toBeLessThanOrEqual(100 * 2 ** index)
  }
  for (let failures = 0; failures < 20; failures += 1) waitAfter(0, 0)
  expect(waitAfter(0, 0)).toBeLessThanOrEqual(10_000)
  expect(waitAfter(60_000, 0)).toBeLessThanOrEqual(100)
})

test('a host that asks for a pause has it', () => {
  expect(createReconnect()(0, 30_000)).toBe(30_000)
})
