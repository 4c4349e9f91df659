/** The chain of each repo as the appending script keeps it, on a real Redis. */
import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { settled } from '../redis.ts'
import { linkOf } from '../repo/cid.ts'
import { tidOf } from '../repo/tid.ts'
import { chainBucketBits, type Link, packLinks, placeOf, readRevs } from './chain.ts'
import { readGaps } from './gaps.ts'
import { createProducer, FencedError, RewoundError, takeFence } from './producer.ts'
import {
  endResyncs,
  requestResyncs,
  settleResyncs,
  type WholeRepo,
  wantResyncs,
} from './resyncs.ts'
import { events, group, onStream, range, stream, type Testbed, testbed, wireTo } from './testbed.ts'

const cursor = { key: 'c', variants: ['c:raw'], kind: 'seq' } as const
const chain = { host: 'relay' }

/** Commit `n` of a repo, which follows the one before; its tree is named by its number. */
function commit(did: string, n: number, changes: Partial<Link> = {}): Link {
  return {
    kind: 'commit',
    did,
    rev: revOf(n),
    since: revOf(n - 1),
    prevData: treeOf(n - 1),
    data: treeOf(n),
    proven: true,
    doubtful: false,
    ...changes,
  }
}

const revOf = (n: number) => tidOf(1_700_000_000_000_000 + n)
const treeOf = (n: number) => linkOf(Buffer.from(`tree ${n}`))

async function aSource(bed: Testbed, options: { key?: string; most?: number } = {}) {
  const { key = 'c', most } = options
  const producer = await bed.producer({
    cursor: { ...cursor, key },
    chain: { ...chain, ...(most === undefined ? {} : { most }) },
  })
  let seq = Number((await producer.cursor()) ?? 0)
  return {
    producer,
    /** Appends each commit with one entry that names it. */
    async send(...links: Link[]) {
      seq += links.length
      const placed = links.map((link) => ({ link, before: 0, own: 1 }))
      const entries = events(...links.map(nameOf))
      return producer.append({ entries, links: placed, cursor: String(seq) })
    },
  }
}

const nameOf = ({ did, rev }: Link) => `${did} ${range(0, 99).find((n) => revOf(n) === rev)}`
const legacy = { prevData: null, proven: false }
const a = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const b = 'did:web:b.example'

async function aBed() {
  const server = await testRedis()
  const bed = testbed(server.url)
  await settled(bed.redis, bed.signal)
  const resources = new AsyncDisposableStack()
  resources.use(server)
  resources.use(bed)
  return { server, bed, [Symbol.asyncDispose]: () => resources.disposeAsync() }
}

const requests = async (bed: Testbed) =>
  (await onStream(bed.redis, 'repo_backfill')).map((text) => JSON.parse(text) as WholeRepo)

test('no state is a start, and what follows it continues: nothing is asked for', async () => {
  await using room = await aBed()
  const { send } = await aSource(room.bed)
  const found = await send(commit(a, 7), commit(b, 3), commit(a, 8), commit(a, 9))
  expect(found.counts).toMatchObject({ start: 2, continued: 2, broken: 0, duplicate: 0 })
  expect(await readRevs(room.bed.redis, [a, 'did:plc:other', b])).toEqual([
    revOf(9),
    null,
    revOf(3),
  ])
  expect(await room.bed.redis.exists('ingester:resyncs')).toBe(0)
})

test('a rev that is not above the last one is dropped, whichever relay is first', async () => {
  await using room = await aBed()
  const first = await aSource(room.bed, { key: 'c1' })
  const second = await aSource(room.bed, { key: 'c2' })
  await first.send(commit(a, 1), commit(a, 2))
  await second.send(commit(a, 1), commit(a, 2), commit(a, 3))
  const found = await first.send(commit(a, 3), commit(a, 4))
  expect(found.counts).toMatchObject({ duplicate: 1, 'dropped-entries': 1, continued: 1 })
  expect(await onStream(room.bed.redis)).toEqual([1, 2, 3, 4].map((n) => `${a} ${n}`))
  expect(await room.bed.redis.mget('c1', 'c2')).toEqual(['4', '3'])
})

test('what a relay that lags has still to tell of before the start of a repo is no duplicate', async () => {
  await using room = await aBed()
  const ahead = await aSource(room.bed, { key: 'c1' })
  const behind = await aSource(room.bed, { key: 'c2' })
  await ahead.send(commit(a, 3), commit(a, 4))
  const found = await behind.send(commit(a, 1), commit(a, 2), commit(a, 3), commit(a, 4))
  expect(found.counts).toMatchObject({ earlier: 2, duplicate: 2, 'dropped-entries': 2, broken: 0 })
  expect(await onStream(room.bed.redis)).toEqual([3, 4, 1, 2].map((n) => `${a} ${n}`))
  expect((await ahead.send(commit(a, 5))).counts).toMatchObject({ continued: 1 })
  expect(
    await room.bed.redis.ttl((await room.bed.redis.keys('*:starts:*'))[0] ?? ''),
  ).toBeGreaterThan(0)
})

test('a duplicate in the batch of its first copy is dropped, and costs no neighbour its entries', async () => {
  await using room = await aBed()
  const { producer } = await aSource(room.bed)
  const placed = [
    { link: commit(a, 1), before: 1, own: 2 },
    { link: commit(a, 1), before: 0, own: 2 },
    { link: commit(b, 1), before: 1, own: 0 },
    { link: commit(b, 2), before: 0, own: 1 },
  ]
  const entries = events('account', 'a1', 'a2', 'again', 'again', 'identity', 'b', 'last')
  await producer.append({ entries, links: placed, cursor: '9' })
  const expected = ['account', 'a1', 'a2', 'identity', 'b', 'last']
  expect(await onStream(room.bed.redis)).toEqual(expected)
})

test.each([
  ['since names another rev', { since: revOf(1) }],
  ['prevData names another tree', { prevData: treeOf(1) }],
  ['since is missing', { since: null }],
])(
  'a commit whose %s breaks the chain: its events flow, its repo is read whole',
  async (_, part) => {
    await using room = await aBed()
    const { send } = await aSource(room.bed)
    await send(commit(a, 1), commit(a, 2))
    const found = await send(commit(a, 3, part), commit(a, 4))
    expect(found).toMatchObject({ counts: { broken: 1, continued: 1 }, broken: [a] })
    expect(await onStream(room.bed.redis)).toHaveLength(4)
    expect(await room.bed.redis.hgetall('ingester:resyncs')).toEqual({ [a]: `${revOf(3)} w` })
  },
)

test('a chain that began without prevData is taken by its since alone, and is unproven from then on', async () => {
  await using room = await aBed()
  const { send } = await aSource(room.bed)
  const found = await send(commit(a, 1, legacy), commit(a, 2, legacy), commit(a, 3), commit(b, 1))
  expect(found.counts).toMatchObject({ start: 2, continued: 2, unproven: 3, broken: 0 })
  expect((await send(commit(a, 4, legacy))).counts).toMatchObject({ continued: 1, unproven: 1 })
  expect((await send(commit(a, 6, legacy))).counts).toMatchObject({ broken: 1 })
})

test('without prevData each commit breaks a chain that had it: a relay may have left ops out', async () => {
  await using room = await aBed()
  const { send } = await aSource(room.bed)
  const found = await send(commit(a, 1), commit(a, 2, legacy), commit(a, 3, legacy), commit(a, 4))
  expect(found.counts).toMatchObject({ start: 1, broken: 2, continued: 1, unproven: 0 })
  expect(await room.bed.redis.hgetall('ingester:resyncs')).toEqual({ [a]: `${revOf(3)} w` })
})

test('a #sync of the same tree moves the rev, of another one asks for the repo, of a new repo starts', async () => {
  await using room = await aBed()
  const { send } = await aSource(room.bed)
  const sync = { kind: 'sync', since: null, prevData: null } as const
  const found = await send(commit(a, 1), commit(a, 5, { ...sync, data: treeOf(1) }))
  expect(found.counts).toMatchObject({ start: 1, moved: 1, broken: 0 })
  expect(await readRevs(room.bed.redis, [a])).toEqual([revOf(5)])
  expect((await send(commit(a, 6, sync))).counts).toMatchObject({ broken: 1 })
  expect((await send(commit(b, 6, sync), commit(b, 7))).counts).toMatchObject({
    start: 1,
    broken: 0,
  })
  expect(await room.bed.redis.hkeys('ingester:resyncs')).toEqual([a])
})

test('what nobody could verify hides nothing: a verified commit below it is appended', async () => {
  await using room = await aBed()
  const { send } = await aSource(room.bed)
  await send(commit(a, 1), commit(a, 90, { doubtful: true, since: revOf(1), prevData: treeOf(1) }))
  const found = await send(commit(a, 2))
  expect(found.counts).toMatchObject({ broken: 1, duplicate: 0 })
  expect(await onStream(room.bed.redis)).toEqual([`${a} 1`, `${a} 90`, `${a} 2`])
  expect((await send(commit(a, 3))).counts).toMatchObject({ continued: 1 })
})

test('what nobody could verify is vouched for by the same commit, or by the next one', async () => {
  await using room = await aBed()
  const { send } = await aSource(room.bed)
  await send(commit(a, 1), commit(a, 2, { doubtful: true }), commit(b, 2, { doubtful: true }))
  const found = await send(commit(a, 2), commit(b, 3))
  expect(found.counts).toMatchObject({ duplicate: 1, continued: 1, broken: 0 })
  expect((await send(commit(a, 2), commit(b, 2))).counts).toMatchObject({ duplicate: 2 })
})

test('a batch whose reply was lost leaves states, entries and cursor as one append does', async () => {
  await using server = await testRedis()
  await using wire = await wireTo(server.url)
  await using bed = testbed(wire.url)
  const { send } = await aSource(bed)
  await send(commit(a, 1))
  wire.loseReply(`${a} 2`)
  await send(commit(a, 2))
  expect(wire.lost).toBe(1)
  expect((await send(commit(a, 3))).counts).toMatchObject({ continued: 1, broken: 0 })
  expect(await onStream(server.redis)).toEqual([1, 2, 3].map((n) => `${a} ${n}`))
})

test('a Redis that has gone back has states and cursor of one moment: what is read again continues', async () => {
  await using room = await aBed()
  const { redis } = room.bed
  const { producer, send } = await aSource(room.bed)
  await send(commit(a, 1))
  const keys = (await redis.keys('*')).filter((key) => !key.includes(':producer:'))
  const dumps = await Promise.all(keys.map((key) => redis.dumpBuffer(key)))
  await send(commit(a, 2), commit(a, 3))
  await redis.flushdb()
  for (const [index, dump] of dumps.entries()) await redis.restore(keys[index] ?? '', 0, dump ?? '')
  await expect(send(commit(a, 4))).rejects.toThrow(RewoundError)
  expect(await producer.cursor()).toBe('1')
  const again = await aSource(room.bed)
  const found = await again.send(commit(a, 2), commit(a, 3), commit(a, 4))
  expect(found.counts).toMatchObject({ continued: 3, broken: 0, duplicate: 0 })
  expect(await readGaps(redis)).toEqual([])
})

test('of two ingesters the newer one appends; what the older had appended is not repeated', async () => {
  await using room = await aBed()
  const { redis, signal } = room.bed
  const open = async () =>
    room.bed.producer({ cursor, chain, fence: await takeFence(redis, signal) })
  const old = await open()
  const batch = (n: number) => ({
    entries: events(`${a} ${n}`),
    links: [{ link: commit(a, n), before: 0, own: 1 }],
    cursor: String(n),
  })
  await old.append(batch(1))
  const young = await open()
  await expect(old.append(batch(2))).rejects.toThrow(FencedError)
  await young.append(batch(1))
  await young.append(batch(2))
  expect(await onStream(redis)).toEqual([`${a} 1`, `${a} 2`])
  expect(await redis.exists('ingester:resyncs')).toBe(0)
})

test('a start on a live stream, also after older workers, begins an epoch and opens no gap', async () => {
  await using room = await aBed()
  await room.bed.redis.set('c:raw', '500')
  const { send, producer } = await aSource(room.bed)
  expect(await producer.cursor()).toBe('500')
  expect((await send(commit(a, 50))).counts).toMatchObject({ start: 1 })
  expect(await readGaps(room.bed.redis)).toEqual([])
  expect(await room.bed.redis.hget('ingester:chain', 'epoch')).toBe('1')
})

test.each([
  ['c', 'the TypeScript one'],
  ['c:raw', 'the Rust one'],
])(
  'when an older worker has moved the cursor %s (%s), older states count as absent',
  async (key) => {
    await using room = await aBed()
    const { redis } = room.bed
    {
      const { send } = await aSource(room.bed)
      await send(commit(a, 1), commit(b, 1))
    }
    await redis.set(key, '70')
    const { send } = await aSource(room.bed)
    expect(await readRevs(redis, [a])).toEqual([null])
    const found = await send(commit(a, 30), commit(b, 40), commit(a, 31))
    expect(found.counts).toMatchObject({ start: 2, continued: 1, broken: 0 })
    expect(await redis.exists('ingester:resyncs')).toBe(0)
    const [gap, ...more] = await readGaps(redis)
    expect(gap).toMatchObject({
      reason: 'epoch',
      host: 'relay',
      from: '2',
      to: '70',
      closed_at: null,
    })
    expect(more).toEqual([])
    await aSource(room.bed)
    expect(await readGaps(redis)).toHaveLength(1)
  },
)

test('a cursor that somebody set back begins an epoch too: what is read again is appended again', async () => {
  await using room = await aBed()
  const { send } = await aSource(room.bed)
  await send(commit(a, 1), commit(a, 2))
  await room.bed.redis.set('c', '1')
  const again = await aSource(room.bed)
  await again.send(commit(a, 2))
  expect(await onStream(room.bed.redis)).toEqual([1, 2, 2].map((n) => `${a} ${n}`))
})

test('a repo is requested once while its resync is under way, however often its chain breaks', async () => {
  await using room = await aBed()
  const { redis } = room.bed
  const { send } = await aSource(room.bed)
  const turn = () => requestResyncs(redis, { perMinute: 1_000, host: 'https://relay' })
  await send(commit(a, 1), commit(a, 5), commit(a, 9))
  expect(await turn()).toEqual({ requested: 1, waiting: 0 })
  await send(commit(a, 13), commit(a, 14))
  await turn()
  expect(await requests(room.bed)).toMatchObject([
    { did: a, rev: revOf(9), reason: 'resync', host: 'https://relay', active: true },
  ])
})

test('a whole repo below the wanted rev is not enough: it waits again, and ends at that rev', async () => {
  await using room = await aBed()
  const { redis } = room.bed
  const { send } = await aSource(room.bed)
  const turn = () => requestResyncs(redis, { perMinute: 1_000, host: 'https://relay' })
  await send(commit(a, 1), commit(a, 5))
  await turn()
  await send(commit(a, 9))
  await settleResyncs(redis, [{ did: a, rev: revOf(5) }])
  await settleResyncs(redis, [{ did: a, rev: revOf(5) }])
  expect(await turn()).toEqual({ requested: 1, waiting: 0 })
  await settleResyncs(redis, [{ did: a, rev: revOf(12) }])
  expect(await redis.exists('ingester:resyncs', 'ingester:resyncs:waiting')).toBe(0)
  expect(await requests(room.bed)).toHaveLength(2)
  await send(commit(a, 20))
  await turn()
  expect(await requests(room.bed)).toHaveLength(3)
})

test('a repo that is gone frees its place', async () => {
  await using room = await aBed()
  await wantResyncs(room.bed.redis, [{ did: a, rev: revOf(1) }])
  await endResyncs(room.bed.redis, [a, b])
  expect(await room.bed.redis.exists('ingester:resyncs')).toBe(0)
  expect((await requestResyncs(room.bed.redis, { perMinute: 9, host: '' })).requested).toBe(0)
  expect(await requests(room.bed)).toEqual([])
})

test('in a minute so many are requested, the others wait in their order, over restarts', async () => {
  await using room = await aBed()
  const { redis } = room.bed
  const repos = range(1, 50).map((n) => ({ did: `did:plc:${n}`, rev: revOf(n) }))
  await wantResyncs(redis, repos)
  // Two minutes at most can be touched here; one allows 20.
  const limits = { perMinute: 20, host: '' }
  const first = await requestResyncs(redis, limits)
  const second = await requestResyncs(redis, limits)
  const requested = first.requested + second.requested
  expect([20, 40]).toContain(requested)
  expect(second.waiting).toBe(50 - requested)
  const dids = (await requests(room.bed)).map(({ did }) => did)
  expect(dids).toEqual(repos.slice(0, requested).map(({ did }) => did))
})

test('at the bound of resyncs the state stays behind, so that the next commit asks again', async () => {
  await using room = await aBed()
  const { redis } = room.bed
  const { send } = await aSource(room.bed, { most: 1 })
  await send(commit(a, 1), commit(b, 1))
  const found = await send(commit(a, 5), commit(b, 5))
  expect(found.counts).toMatchObject({ broken: 2, 'held-back': 1 })
  expect(await readRevs(redis, [a, b])).toEqual([revOf(5), revOf(1)])
  expect(await readGaps(redis)).toMatchObject([{ reason: 'resyncs', from: null, closed_at: null }])
  await endResyncs(redis, [a])
  expect((await send(commit(b, 6))).counts).toMatchObject({ broken: 1, 'held-back': 0 })
  expect(await redis.hkeys('ingester:resyncs')).toEqual([b])
  expect(await onStream(redis)).toEqual([`${a} 1`, `${b} 1`, `${a} 5`, `${b} 5`, `${b} 6`])
})

test('what waits for its turn is not lost to a Redis that is full', async () => {
  await using room = await aBed()
  const { redis } = room.bed
  await wantResyncs(redis, [{ did: a, rev: revOf(1) }])
  const last = '18446744073709551615'
  // No id is left: the append fails where it fails when Redis is full.
  await redis.xadd('repo_backfill', `${last}-${last}`, 'repo', '{}')
  await expect(requestResyncs(redis, { perMinute: 9, host: '' })).rejects.toThrow('ERR')
  expect(await redis.lrange('ingester:resyncs:waiting', 0, -1)).toEqual([a])
})

test('a source without a chain appends as ever', async () => {
  await using room = await aBed()
  const { redis, signal, log, metrics } = room.bed
  const highWater = { length: 10, memoryRatio: 1 }
  const options = { redis, stream, groups: [group], highWater, signal, log, metrics }
  const producer = await createProducer(options)
  await producer.append({ entries: events(1) })
  expect(await redis.keys('ingester:*')).toEqual([])
})

test('a state takes less than 100 bytes of Redis, at the density that is planned for', async () => {
  await using room = await aBed()
  const { redis } = room.bed
  const repos = 50_000
  // So many buckets hold so many of 50 million repos; bytes are what Redis itself counts for the keys.
  const buckets = Math.round((repos / 50e6) * 2 ** chainBucketBits)
  const state = Buffer.alloc(19, 0xaa)
  const pipeline = redis.pipeline()
  for (let n = 0; n < repos; n++) {
    const { field } = placeOf(`did:plc:${n}`)
    pipeline.hset(`ingester:chain:${n % buckets}`, Buffer.from(field, 'hex'), state)
  }
  await pipeline.exec()
  let bytes = 0
  for (let bucket = 0; bucket < buckets; bucket++) {
    const usage = await redis.call('MEMORY', 'USAGE', `ingester:chain:${bucket}`, 'SAMPLES', '0')
    bytes += Number(usage)
  }
  expect(bytes / repos).toBeLessThan(50)
})

test('links are packed as the script unpacks them, whatever the length of a DID', () => {
  const long = `did:web:${'a'.repeat(1_000)}.example`
  expect(packLinks([{ link: commit(long, 1), before: 0, own: 0 }])).toHaveLength(
    53 + 14 + long.length,
  )
})
