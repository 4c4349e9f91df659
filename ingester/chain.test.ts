/** Chains, gaps and positions of a whole ingester, on a simulated network and a real Redis. */
import { describe, expect, test } from 'vitest'
import { decodeRequest } from '../shared/events.ts'
import { type Gap, readGaps } from '../shared/streams/gaps.ts'
import { resyncsKey } from '../shared/streams/names.ts'
import { wantResyncs } from '../shared/streams/resyncs.ts'
import type { Account } from '../simulator/account.ts'
import { steppedClock } from '../simulator/clock.ts'
import { messageFrame } from '../simulator/frames.ts'
import { type NetworkOptions, startNetwork } from '../simulator/network.ts'
import { patience, startIngester, testRoom } from './testing.ts'
import { createWindow } from './window.ts'

async function aRoom(options: NetworkOptions = {}) {
  const room = await testRoom(await startNetwork(options))
  const { redis, network } = room
  return Object.assign(room, {
    async requests() {
      const entries = await redis.xrange('repo_backfill', '-', '+')
      return entries.map(([, fields]) => decodeRequest(fields))
    },
    /** Repos whose resync was ever wanted, for as long as nothing ends one. */
    wanted: () => redis.hlen('ingester:resyncs'),
    gaps: () => readGaps(redis),
    /** What an older worker does: it appends without chain states, and sets its cursor. */
    async olderWorker(cursor: string) {
      const { lastSeq } = network.relay
      const event = JSON.stringify({ type: 'identity', seq: lastSeq, did: 'did:plc:older' })
      await redis.multi().xadd('firehose_live', '*', 'event', event).set(cursor, lastSeq).exec()
    },
  })
}

const post = { $type: 'app.bsky.feed.post', text: 'hi', createdAt: '2026-01-01T00:00:00.000Z' }
const write = (account: Account) => account.create('app.bsky.feed.post', post)

async function writeAll(accounts: readonly Account[], times = 3) {
  for (let time = 0; time < times; time++) for (const account of accounts) await write(account)
}

/** Commits that the relay does not hear of. */
async function writeUnheard(account: Account) {
  account.quiet = true
  await write(account)
  account.quiet = false
}

const lowestRev = '2222222222222'

const isOpen = ({ closed_at }: Gap) => closed_at === null

describe('no chain is broken', () => {
  test.each([
    ['the TypeScript one', (host: string) => `firehose_live:cursor:${host}`],
    ['the Rust one', (_: string, url: string) => `firehose_live:cursor:${url}`],
  ])(
    'by taking over a live stream from an older worker, %s, nor by a rollback and forward again',
    async (_, keyOf) => {
      await using room = await aRoom()
      const { network, redis } = room
      const { relay } = network
      const key = keyOf(relay.host, relay.url)
      const accounts = await Promise.all(Array.from({ length: 5 }, () => network.account()))
      await writeAll(accounts)
      await room.olderWorker(key)
      for (const phase of ['take over', 'forward again'] as const) {
        await using ingester = startIngester(room.env)
        await writeAll(accounts)
        await room.caughtUp()
        const links = (judgement: string) =>
          ingester.metric('ingester_chain_links_total', { judgement })
        await expect.poll(() => links('continued'), patience).toBe(10)
        expect(await links('start'), phase).toBe(5)
        expect(await links('broken'), phase).toBe(0)
        await ingester.stop()
        await writeAll(accounts)
        await room.olderWorker(key)
      }
      expect(await room.wanted()).toBe(0)
      expect(await redis.exists('repo_backfill')).toBe(0)
      const from = expect.stringMatching(/^\d+$/)
      expect(await room.gaps()).toMatchObject([
        { reason: 'epoch', host: relay.host, from, to: from },
      ])
    },
  )

  test('by a restart, or by the replay of a position', async () => {
    await using room = await aRoom()
    const account = await room.network.account()
    for (let run = 0; run < 3; run++) {
      await using _ = startIngester(room.env)
      await writeAll([account])
      await room.caughtUp()
    }
    expect(await room.wanted()).toBe(0)
    expect(await room.gaps()).toEqual([])
  })
})

test('of three relays with different lags, the same commit becomes one set of events', async () => {
  await using room = await aRoom({ relays: [{ lagMs: 30 }, {}, { lagMs: 100 }] })
  const { network, redis } = room
  const hosts = network.relays.map(({ url }) => url).join(',')
  await using ingester = startIngester({ ...room.env, INGESTER_RELAY_HOSTS: hosts })
  const accounts = await Promise.all(Array.from({ length: 4 }, () => network.account()))
  await writeAll(accounts, 5)
  for (const relay of network.relays) {
    await relay.caughtUp()
    const cursor = () => redis.get(`firehose_live:cursor:${relay.host}`)
    await expect.poll(cursor, patience).toBe(String(relay.lastSeq))
  }
  const revs = (await room.events()).flatMap((event) => ('rev' in event ? [event.rev] : []))
  expect(revs).toHaveLength(20)
  expect(new Set(revs).size).toBe(20)
  const duplicates = () => ingester.metric('ingester_chain_links_total', { judgement: 'duplicate' })
  await expect.poll(duplicates, patience).toBeGreaterThanOrEqual(40)
  expect(await room.wanted()).toBe(0)
  for (const { host } of network.relays) {
    expect(await ingester.metric('ingester_source_lag_seconds', { host })).toBeGreaterThan(0)
  }
})

describe('a repo is requested, once,', () => {
  test('when a commit does not follow the one before; its events flow all the same', async () => {
    await using room = await aRoom()
    const [account, other] = [await room.network.account(), await room.network.account()]
    await using _ = startIngester(room.env)
    await writeAll([account, other])
    await writeUnheard(account)
    await writeAll([account, other])
    await writeUnheard(account)
    await writeAll([account])
    await room.caughtUp()
    const { did } = account
    const request = { did, reason: 'resync', host: room.network.relay.url, active: true }
    await expect.poll(room.requests, patience).toMatchObject([request])
    expect((await room.events()).filter(({ type }) => type === 'create')).toHaveLength(15)
    await room.redis.xadd('repo_backfill', '*', 'repo', '{}') // nothing comes behind it
    await writeAll([account])
    await room.caughtUp()
    expect(await room.redis.xlen('repo_backfill')).toBe(2)
  })

  test('also when none of the ops is in scope', async () => {
    await using room = await aRoom()
    const account = await room.network.account()
    await using _ = startIngester({ ...room.env, INGESTER_COLLECTIONS: 'app.bsky.feed.like' })
    await writeAll([account])
    await writeUnheard(account)
    await writeAll([account])
    await expect.poll(room.requests, patience).toHaveLength(1)
  })

  test('when a #sync has another tree; with the same one only the rev moves', async () => {
    await using room = await aRoom()
    const account = await room.network.account()
    await using ingester = startIngester(room.env)
    await writeAll([account])
    await account.resign()
    await room.network.emitSync(account.did)
    await room.caughtUp()
    expect(await room.wanted()).toBe(0)
    await writeUnheard(account)
    await room.network.emitSync(account.did)
    await expect.poll(room.requests, patience).toMatchObject([{ did: account.did }])
    const broken = { judgement: 'broken' }
    expect(await ingester.metric('ingester_chain_links_total', broken)).toBe(1)
  })
})

test('resyncs above the bound of a minute wait and are told; when the room for them ends there is an alarm', async () => {
  await using room = await aRoom()
  const { redis } = room
  const repos = ['a', 'b', 'c', 'd'].map((name) => ({ did: `did:plc:${name}`, rev: lowestRev }))
  await wantResyncs(redis, repos)
  await using ingester = startIngester({ ...room.env, INGESTER_RESYNC_PER_MINUTE: '1' })
  const said = (words: string) => ingester.log.find(({ msg }) => msg.includes(words))
  await expect.poll(() => said('resyncs wait'), patience).toMatchObject({ level: 'warn' })
  // One a minute, and two minutes may be touched.
  expect((await room.requests()).length).toBeLessThanOrEqual(2)
  const fill = `for n = 1, 400000 do redis.call('HSET', KEYS[1], n, '${lowestRev} r') end`
  await redis.eval(fill, 1, resyncsKey)
  await expect.poll(() => said('room for resyncs ends'), patience).toMatchObject({ level: 'error' })
  expect(await ingester.metric('ingester_resyncs')).toBeGreaterThan(400_000)
})

describe('a gap is in the ledger until a pass over the list of repos has closed it:', () => {
  test('what a relay no longer had; repos that are behind what is listed are requested', async () => {
    await using room = await aRoom()
    const { network } = room
    const [missed, silent] = [await network.account(), await network.account()]
    {
      await using _ = startIngester(room.env)
      await writeAll([missed, silent])
      await room.caughtUp()
    }
    const from = await room.cursor()
    await writeUnheard(missed)
    network.relay.restart(1_000)
    await network.account()
    await using _ = startIngester(room.env)
    await room.caughtUp()
    const gap = { reason: 'outdated-cursor', host: network.relay.host, from, to: '1000' }
    expect(await room.gaps()).toMatchObject([gap])
    const closed = async () => (await room.gaps()).filter(isOpen)
    await expect.poll(closed, patience).toEqual([])
    await expect.poll(room.requests, patience).toMatchObject([{ did: missed.did }])
    expect(await room.wanted()).toBe(1)
  })

  test('a frame that nobody can decode', async () => {
    await using room = await aRoom()
    const account = await room.network.account()
    await using _ = startIngester(room.env)
    await room.caughtUp()
    const from = await room.cursor()
    await room.network.relay.play([Buffer.from('not a frame')])
    await writeAll([account])
    await room.caughtUp()
    const to = String(Number(from) + 1)
    expect(await room.gaps()).toMatchObject([{ reason: 'frame', from, to }])
  })
})

describe('positions', () => {
  test('one flipped far ahead moves nothing past true frames', async () => {
    await using room = await aRoom()
    const account = await room.network.account()
    await using ingester = startIngester(room.env)
    const { relay } = room.network
    const { lastSeq } = relay
    const { did } = account
    const frame = (seq: number) =>
      messageFrame('#account', { seq, did, time: '2026-01-01T00:00:00.000Z', active: true })
    await relay.play([frame(2 ** 40 + lastSeq + 1), frame(lastSeq + 2), frame(lastSeq + 3)])
    await expect.poll(room.cursor, patience).toBe(String(lastSeq + 3))
    expect(await ingester.metric('ingester_doubted_positions_total', { claim: 'held' })).toBe(1)
    expect(await ingester.metric('ingester_refused_total')).toBe(0)
  })

  test('the incident "cursor = 1": a position far below is refused, the stored one stays', async () => {
    await using room = await aRoom({ relay: { firstSeq: 5_000 } })
    const account = await room.network.account()
    await using ingester = startIngester(room.env)
    await room.caughtUp()
    const { did } = account
    const before = await room.cursor()
    const fields = { seq: 1, did, time: '2026-01-01T00:00:00.000Z', active: true }
    await room.network.relay.play([messageFrame('#account', fields)])
    const refused = () => ingester.metric('ingester_refused_total', { reason: 'seq-back' })
    await expect.poll(refused, patience).toBe(1)
    expect(await room.cursor()).toBe(before)
  })

  test.each([
    ['oldest', 2],
    ['live', 1],
  ])('without one, INGESTER_START=%s decides; it is never asked again', async (start, heard) => {
    await using room = await aRoom()
    const { network } = room
    const account = await network.account()
    await write(account)
    const posts = async () => (await room.events()).filter(({ type }) => type === 'create').length
    {
      await using _ = startIngester({ ...room.env, INGESTER_START: start })
      await network.relay.subscribed()
      await write(account)
      await room.caughtUp()
      expect(await posts()).toBe(heard)
    }
    await write(account)
    await using _ = startIngester({ ...room.env, INGESTER_START: 'live' })
    await room.caughtUp()
    expect(await posts()).toBe(heard + 1)
  })

  test('without one, the hint at the start says how to get it back from Postgres', async () => {
    await using room = await aRoom()
    await using ingester = startIngester(room.env)
    await room.network.account()
    await room.caughtUp()
    expect(ingester.log.some(({ msg }) => msg.includes('sluice resume --from-postgres'))).toBe(true)
  })
})

test('a local clock that is 10 minutes slow stops reading with the reason, and refuses nothing', async () => {
  const ahead = steppedClock(Date.now() + 10 * 60_000, 1, 7)
  await using room = await aRoom({ clock: ahead })
  const { network } = room
  const accounts = await Promise.all(Array.from({ length: 4 }, () => network.account()))
  await writeAll(accounts, 55)
  await using ingester = startIngester(room.env)
  const said = () => ingester.log.find(({ msg }) => msg.includes('reading stops'))
  await expect.poll(said, patience).toMatchObject({ level: 'error' })
  await expect.poll(() => Object.values(ingester.problems()).join(), patience).toContain('clock')
  expect(await ingester.metric('ingester_refused_total')).toBe(0)
  expect(Number(await room.cursor())).toBeLessThan(network.relay.lastSeq)
})

test('of two ingesters on one relay the older stops with a clear message, and nothing stands twice', async () => {
  await using room = await aRoom()
  const account = await room.network.account()
  const old = startIngester(room.env)
  await writeAll([account])
  await room.caughtUp()
  await using young = startIngester(room.env)
  await writeAll([account])
  await expect(old.ended).rejects.toThrow(/holds the fence/)
  await writeAll([account])
  await room.caughtUp()
  expect((await room.events()).filter(({ type }) => type === 'create')).toHaveLength(9)
  expect(await room.wanted()).toBe(0)
  expect(young.problems()).toEqual({})
})

test('an event at a low rate waits for no clock: an idle socket closes its batch', async () => {
  const never = 2 ** 31 - 1
  const window = createWindow<string, number>(
    { count: 10, bytes: 10 },
    new AbortController().signal,
  )
  void window.push(Promise.resolve('event'), { bytes: 1, key: null, mark: 7 })
  const limits = { most: 500, bytes: 10, waitMs: never, idleMs: never }
  expect(await window.take(limits)).toEqual({ results: ['event'], mark: 7 })
})
