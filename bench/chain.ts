/** What the chain states cost: µs of the client's and of Redis's CPU a commit, and bytes of Redis a repo. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Redis } from 'ioredis'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { environment } from '../shared/config.ts'
import { connectRedis, settled } from '../shared/redis.ts'
import { linkOf } from '../shared/repo/cid.ts'
import { tidOf } from '../shared/repo/tid.ts'
import { chainBucketBits, type Link, type PlacedLink, placeOf } from '../shared/streams/chain.ts'
import { streamMetrics } from '../shared/streams/metrics.ts'
import { createProducer, type Producer } from '../shared/streams/producer.ts'
import { findPlaces } from '../start/places.ts'
import { freePort } from '../start/process.ts'
import { startRedis } from '../start/redis.ts'

const batchSize = 500
const batches = 300
/** Accounts that write in turn. */
const writers = 2_000
/** The mean of the network: 577 bytes with its field. */
const event = JSON.stringify({ type: 'create', text: 'x'.repeat(540) })

const tree = linkOf(Buffer.from('tree'))
const didOf = (n: number) => `did:plc:${String(n).padStart(24, 'a')}`
const bucketOf = (n: number) => placeOf(didOf(n)).bucket

const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
const places = await findPlaces(environment)
const server = await startRedis({ places, dir: folder, port: await freePort(), args: [] })
const log = pino({ level: 'silent' })
const redis = connectRedis({ redisUrl: server.url, log })
const { signal } = new AbortController()
try {
  await settled(redis, signal)
  await measure('MULTI of XADDs and SET', plain)
  await measure('the script without links', await throughProducer(false))
  await measure('the script with chain states', await throughProducer(true))
  await fill()
  await measure('the same among 50 million repos', await throughProducer(true))
  await measure('the same, each a duplicate', await throughProducer(true, true))
  await measureMemory(200_000, 'as the first 200,000 of the network', (n) => bucketOf(n))
  await measureMemory(1_000_000, 'as the first million of the network', (n) => bucketOf(n))
  await measureMemory(
    200_000,
    'as densely as 50 million',
    (n) => n % Math.round(2 ** chainBucketBits / 250),
  )
} finally {
  redis.disconnect()
  await server.stop()
  await rm(folder, { recursive: true, force: true })
}

type Append = (number: number) => Promise<unknown>

async function plain(number: number): Promise<void> {
  const multi = redis.multi()
  for (let n = 0; n < batchSize; n++) multi.xadd('firehose_live', '*', 'event', event)
  multi.set('cursor', number)
  await multi.exec()
}

async function throughProducer(withLinks: boolean, repeated = false): Promise<Append> {
  const producer: Producer = await createProducer({
    redis,
    stream: 'firehose_live',
    cursor: { key: 'cursor', kind: 'seq' },
    ...(withLinks ? { chain: { host: 'bench' } } : {}),
    highWater: { length: 1e9, memoryRatio: 1, memoryLimitBytes: 1e12 },
    groups: [],
    signal,
    log,
    metrics: streamMetrics(new Registry(), 'bench'),
  })
  const entries = Array.from({ length: batchSize }, () => ['event', event])
  return async (number) => {
    const from = repeated ? 0 : number * batchSize
    const links = Array.from({ length: batchSize }, (_, n) => linkAt(from + n))
    await producer.append({ entries, cursor: String(number), ...(withLinks ? { links } : {}) })
  }
}

/** The commits of each account follow each other. */
function linkAt(n: number): PlacedLink {
  const round = Math.floor(n / writers)
  const link: Link = {
    kind: 'commit',
    did: didOf(n % writers),
    rev: tidOf(1e15 + round + 1),
    since: tidOf(1e15 + round),
    prevData: tree,
    data: tree,
    proven: true,
    doubtful: false,
  }
  return { link, before: 0, own: 1 }
}

async function measure(name: string, append: Append): Promise<void> {
  for (let number = 1; number <= 20; number++) await append(number)
  await redis.del('firehose_live:marks')
  const redisBefore = await redisCpu(redis)
  const before = process.cpuUsage()
  const began = performance.now()
  for (let number = 21; number <= 20 + batches; number++) await append(number)
  const seconds = (performance.now() - began) / 1_000
  const { user, system } = process.cpuUsage(before)
  const commits = batches * batchSize
  const client = ((user + system) / commits).toFixed(1)
  const inRedis = (((await redisCpu(redis)) - redisBefore) / commits).toFixed(1)
  const rate = Math.round(commits / seconds)
  console.log(`${name.padEnd(32)} client ${client} µs, Redis ${inRedis} µs, ${rate} commits/s`)
  await redis.flushall()
}

/** Gives the hashes of the writers as many states as they hold at 50 million repos. */
async function fill(): Promise<void> {
  for (let writer = 0; writer < writers; writer++) {
    const key = `ingester:chain:${bucketOf(writer)}`
    const fields = Array.from({ length: Math.round(50e6 / 2 ** chainBucketBits) }, (_, n) => [
      Buffer.from(placeOf(`${writer} ${n}`).field, 'hex'),
      Buffer.alloc(19),
    ])
    await redis.hset(key, ...fields.flat())
  }
}

/** µs of CPU that Redis has used. */
async function redisCpu(redis: Redis): Promise<number> {
  const info = await redis.info('cpu')
  const field = (name: string) => Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(info)?.[1])
  return (field('used_cpu_user') + field('used_cpu_sys')) * 1e6
}

async function measureMemory(
  repos: number,
  name: string,
  bucket: (n: number) => number,
): Promise<void> {
  await redis.flushall()
  const before = await used()
  const state = Buffer.alloc(19, 0xaa)
  for (let n = 0; n < repos; ) {
    const pipeline = redis.pipeline()
    for (const end = Math.min(repos, n + 10_000); n < end; n++) {
      const field = Buffer.from(placeOf(didOf(n)).field, 'hex')
      pipeline.hset(`ingester:chain:${bucket(n)}`, field, state)
    }
    await pipeline.exec()
  }
  const bytes = ((await used()) - before) / repos
  console.log(
    `${repos} repos, ${name}: ${bytes.toFixed(0)} bytes each (${2 ** chainBucketBits} hashes)`,
  )
}

async function used(): Promise<number> {
  return Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1])
}
