/** Whoever sends without an end is left at a bound: every reader of what strangers send, at one such host. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { WebSocketServer } from 'ws'
import { createFetcher } from '../backfiller/fetch.ts'
import { collectionPage } from '../cli/repos-by-collection.ts'
import { askHost } from '../indexer/hosted.ts'
import { fetchHosts } from '../ingester/host-page.ts'
import { fetchPage } from '../ingester/repo-page.ts'
import { openSocket } from '../ingester/socket.ts'
import { createIdentity } from '../shared/identity.ts'
import { fetchExport } from '../shared/identity-export.ts'
import { createFetch } from '../shared/identity-fetch.ts'

const { signal } = new AbortController()
const did = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const chunk = Buffer.alloc(64 * 1024, ' ')
/** What may lie in the buffers of both ends. */
const buffers = 12e6

let sent = 0
let closed: Promise<void>
let close: () => void
let host: string
const server = createServer((request, response) => {
  request.resume()
  response.writeHead(200)
  response.on('close', () => close())
  const more = () => {
    let room = true
    while (room && !response.destroyed) {
      sent += chunk.length
      room = response.write(chunk)
    }
  }
  response.on('drain', more)
  more()
})
const sockets = new WebSocketServer({ server })
sockets.on('connection', (socket) => {
  socket.on('error', () => {})
  socket.on('close', () => close())
  // One message in fragments that do not end.
  const more = () => {
    if (socket.readyState !== socket.OPEN) return
    sent += chunk.length
    socket.send(chunk, { fin: false }, more)
  }
  more()
})
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(() => {
  sockets.close()
  server.closeAllConnections()
  server.close()
})
beforeEach(() => {
  sent = 0
  ;({ promise: closed, resolve: close } = Promise.withResolvers<void>())
})

const identity = () =>
  createIdentity({
    ...{ plcUrl: `http://${host}`, handleResolver: `http://${host}`, allowPrivateHosts: true },
    ...{ timeoutMs: 60_000, maxEntries: 1, ttlMs: 1_000 },
  })

const readers: Readonly<Record<string, [bound: number, read: () => Promise<unknown>]>> = {
  'a list of hosts': [
    4e6,
    async () => {
      for await (const _ of fetchHosts(`http://${host}`, signal));
    },
  ],
  'a list of repos': [
    8e6,
    () => fetchPage({ http: `http://${host}`, cursor: null, limit: 1, signal }),
  ],
  'a list of repos with a collection': [
    8e6,
    () => collectionPage(`http://${host}`, 'app.bsky.feed.post', null, signal),
  ],
  "a directory's log": [16e6, () => fetchExport({ plcUrl: `http://${host}`, after: null, signal })],
  'a DID document': [256 * 1024, () => identity().resolve(did)],
  'the DID of a handle': [256 * 1024, () => identity().resolveHandle('alice.test')],
  'whether a host has an account': [
    256 * 1024,
    async () => {
      const account = { resolve: async () => ({ pds: `http://${host}` }) }
      const { fetch } = createFetch({ trusted: [], allowPrivateHosts: true, signal })
      const options = { identity: account, fetch, timeoutMs: 60_000 }
      const hosted = await askHost(options as unknown as Parameters<typeof askHost>[0], did, signal)
      if (hosted === 'unsure') throw new Error('nobody could be asked')
    },
  ],
  'a repo': [
    1e6,
    async () => {
      const options = { timeoutMs: 60_000, maxBytes: 1e6, userAgent: 'test' }
      using fetcher = createFetcher({ ...options, allowPrivateHosts: true })
      const asking = { signal, heard: () => {}, slow: () => {} }
      const { body } = await fetcher.fetchRepo(`http://${host}`, did, asking)
      for await (const _ of body);
    },
  ],
  'a message of a relay or labeler': [
    64e6,
    async () => {
      const options = { idleTimeoutMs: 60_000, onPressure: () => {} }
      using socket = await openSocket({ url: `ws://${host}`, signal, ...options })
      if ((await socket.next()) === null) throw new Error(socket.ended ?? 'it has not ended')
    },
  ],
}

test.each(Object.entries(readers))('%s without an end is left at its bound', async (_, reader) => {
  const [bound, read] = reader
  await expect(read()).rejects.toThrow()
  await closed
  expect(sent).toBeGreaterThan(bound / 2)
  expect(sent).toBeLessThan(bound + buffers)
})
