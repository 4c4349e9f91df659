/** Several relays of one network: what each of them has, and when; their lists of hosts. */
import { expect, test } from 'vitest'
import { readFrame } from './frames.ts'
import { startNetwork } from './network.ts'
import type { Relay } from './relay.ts'

const post = { text: 'hello', createdAt: '2026-01-01T00:00:00.000Z' }
const collection = 'app.bsky.feed.post'
const revs = (relay: Relay) =>
  relay.frames().flatMap((frame) => {
    const { header, body } = readFrame(frame) ?? { header: {}, body: {} }
    return header['t'] === '#commit' ? [String(body['rev'])] : []
  })

test('each relay has the commits of the hosts that it crawls, and its own positions', async () => {
  await using network = await startNetwork({ pds: 3, relays: [{ pds: [0, 1] }, { pds: [1, 2] }] })
  const made = []
  for (const pds of network.pds) {
    const account = await network.account({ pds })
    await account.create(collection, post)
    made.push(account)
  }
  const [first, second] = network.relays
  const [a, b, c] = made.map(({ rev }) => rev)
  expect(revs(first)).toEqual(expect.arrayContaining([a, b]))
  expect(revs(first)).not.toContain(c)
  expect(revs(second ?? first)).toEqual(expect.arrayContaining([b, c]))
  expect(second?.lastSeq).toBe(10)
})

test('a relay with a lag has the same events later, in the same order', async () => {
  await using network = await startNetwork({ relays: [{}, { lagMs: 100 }] })
  const account = await network.account()
  await account.create(collection, post)
  const [first, second] = network.relays
  expect(second?.frames()).toEqual([])
  await second?.caughtUp()
  expect(second?.frames()).toEqual(first.frames())
})

test('listHosts of a relay gives every host that it crawls once, page by page', async () => {
  await using network = await startNetwork({ pds: 5, relay: { pds: [0, 1, 2, 4] } })
  await network.account({ pds: network.pds[4] ?? network.pds[0] })
  const hosts = []
  let cursor: string | undefined = '0'
  for (let page = 0; page < 5 && cursor !== undefined; page++) {
    const query = `limit=3&cursor=${cursor}`
    const url = `${network.relay.url}/xrpc/com.atproto.sync.listHosts?${query}`
    const body = (await (await fetch(url)).json()) as { cursor?: string; hosts: unknown[] }
    hosts.push(...body.hosts)
    cursor = body.cursor
  }
  const expected = network.pds
    .filter((_, number) => number !== 3)
    .map(({ host }, place) => {
      const last = place === 3
      return { hostname: host, seq: last ? 4 : 0, accountCount: last ? 1 : 0, status: 'active' }
    })
  expect(hosts).toEqual(expected)
})
