/** The pass over a relay's list of repos that closes its gaps. */
import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { settled } from '../shared/redis.ts'
import { linkOf } from '../shared/repo/cid.ts'
import { tidOf, tidTime } from '../shared/repo/tid.ts'
import { type GapReason, openGap, readGaps } from '../shared/streams/gaps.ts'
import { gapPassKey } from '../shared/streams/names.ts'
import { testbed } from '../shared/streams/testbed.ts'
import { startNetwork } from '../simulator/network.ts'
import { testRedis } from '../test/servers/redis.ts'
import { keepClosingGaps } from './gap-pass.ts'
import { parseHost } from './host.ts'
import { createMetrics } from './metrics.ts'
import { patience } from './testing.ts'

const stream = 'firehose_live'

/** A relay whose repos have one commit each, of which we hold the given states. */
async function aRoom(accounts: number) {
  const resources = new AsyncDisposableStack()
  const network = resources.use(await startNetwork())
  const { redis, url } = resources.use(await testRedis())
  const bed = resources.use(testbed(url))
  await settled(bed.redis, bed.signal)
  const host = parseHost(network.relay.url)
  const stop = new AbortController()
  resources.defer(() => stop.abort())
  const repos = []
  for (let n = 0; n < accounts; n++) {
    const { did, rev } = await network.account()
    repos.push({ did, rev: rev ?? '' })
  }
  const progress = { time: null as number | null, asked: 0 }
  const producer = await bed.producer({
    cursor: { key: 'c', kind: 'seq' },
    chain: { host: host.name },
  })
  return {
    redis,
    network,
    repos,
    progress,
    /** Holds a state of the repo at this rev, or some seconds before. */
    async hold({ did, rev }: { did: string; rev: string }, secondsBefore = 0) {
      const held = tidOf(Math.round(tidTime(rev) * 1_000) - secondsBefore * 1e6, 0)
      const link = {
        ...{ kind: 'sync' as const, did, since: null, prevData: null, proven: true },
        ...{ data: linkOf(Buffer.from(did)), doubtful: false },
        rev: secondsBefore === 0 ? rev : held,
      }
      await producer.append({ entries: [], links: [{ link, before: 0, own: 0 }] })
    },
    gap: (reason: GapReason, since: string | null) =>
      openGap(redis, { host: host.name, stream, reason, from: '5', to: '9', since }),
    run: () =>
      keepClosingGaps({
        redis: bed.redis,
        host,
        stream,
        progress: () => {
          progress.asked += 1
          return progress.time
        },
        signal: stop.signal,
        log: bed.log,
        metrics: createMetrics(new Registry()),
        waits: { lookEveryMs: 20, pauseMs: 1, pollMs: 20 },
      }),
    wanted: () => redis.hkeys('ingester:resyncs'),
    open: async () => (await readGaps(redis)).filter(({ closed_at }) => closed_at === null),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

test('repos that are behind what is listed are wanted, those that are not are left alone', async () => {
  await using room = await aRoom(4)
  const [same, behind, written, silent] = room.repos
  if (!same || !behind || !written || !silent) throw new Error('four repos')
  await room.hold(same)
  await room.hold(behind, 60)
  // The two others have no state; their revs are of this minute, and only one gap can have hidden them.
  await room.gap('outdated-cursor', new Date(tidTime(written.rev) - 1_000).toISOString())
  room.progress.time = Number.MAX_SAFE_INTEGER
  void room.run()
  await expect.poll(room.open, patience).toEqual([])
  expect((await room.wanted()).toSorted()).toEqual(
    [behind, written, silent].map(({ did }) => did).toSorted(),
  )
})

test('what was silent since the gap began has missed nothing', async () => {
  await using room = await aRoom(3)
  const later = new Date(tidTime(room.repos.at(-1)?.rev ?? '') + 3_600_000).toISOString()
  await room.gap('frame', later)
  room.progress.time = Number.MAX_SAFE_INTEGER
  void room.run()
  await expect.poll(room.open, patience).toEqual([])
  expect(await room.wanted()).toEqual([])
})

test('after an epoch repos without a state are not wanted: older workers read them', async () => {
  await using room = await aRoom(3)
  await room.gap('epoch', '2026-01-01T00:00:00.000Z')
  room.progress.time = Number.MAX_SAFE_INTEGER
  void room.run()
  await expect.poll(room.open, patience).toEqual([])
  expect(await room.wanted()).toEqual([])
})

test('what is listed and still on its way is not behind: our position must have passed it', async () => {
  await using room = await aRoom(1)
  const [repo] = room.repos
  if (repo === undefined) throw new Error('one repo')
  await room.hold(repo, 60)
  await room.gap('outdated-cursor', null)
  void room.run()
  // It has seen that the repo is behind, and waits.
  await expect.poll(() => room.progress.asked, patience).toBeGreaterThan(1)
  await room.hold(repo)
  room.progress.time = Number.MAX_SAFE_INTEGER
  await expect.poll(room.open, patience).toEqual([])
  expect(await room.wanted()).toEqual([])
})

test('a pass goes on from the page where it stood', async () => {
  await using room = await aRoom(3)
  for (const repo of room.repos) await room.hold(repo, 60)
  const url = `${room.network.relay.url}/xrpc/com.atproto.sync.listRepos?limit=1`
  const { cursor } = (await (await fetch(url)).json()) as { cursor: string }
  await room.gap('outdated-cursor', null)
  const began_at = new Date().toISOString()
  const pass = JSON.stringify({ began_at, since: null, cursor, pages: 1 })
  await room.redis.set(gapPassKey(room.network.relay.host), pass)
  room.progress.time = Number.MAX_SAFE_INTEGER
  void room.run()
  await expect.poll(room.open, patience).toEqual([])
  expect((await room.wanted()).toSorted()).toEqual(
    room.repos
      .slice(1)
      .map(({ did }) => did)
      .toSorted(),
  )
  expect(await room.redis.exists(gapPassKey(room.network.relay.host))).toBe(0)
})

test('a relay whose list can not be had leaves its gaps open', async () => {
  await using room = await aRoom(1)
  const fault = room.network.relay.fault(
    { method: 'com.atproto.sync.listRepos' },
    { kind: 'status', status: 500 },
  )
  await room.gap('outdated-cursor', null)
  void room.run()
  await expect.poll(() => fault.fired, patience).toBeGreaterThan(1)
  expect(await room.open()).toHaveLength(1)
})
