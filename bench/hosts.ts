/**
 * How fast backfillers work through repos of many hosts, each with its limit, and what it costs:
 * `node bench/hosts.ts [--hosts 10,5000] [--limit 20] [--records spread] [--backfillers 1] [--seconds 20]`,
 * one run after another where several numbers of hosts are given. `--records 3` makes all repos equal.
 * `--queue 1000000` tells instead what so many queued requests cost in Redis.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'
import { environment } from '../shared/config.ts'
import { encodeRequest } from '../shared/events.ts'
import { startManyHosts } from '../simulator/many-hosts.ts'
import { findPlaces } from '../start/places.ts'
import { startRedis } from '../start/redis.ts'

const { values } = parseArgs({
  options: {
    hosts: { type: 'string', default: '5000' },
    limit: { type: 'string', default: '20' },
    records: { type: 'string', default: 'spread' },
    backfillers: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '20' },
    latency: { type: 'string', default: '50' },
    queue: { type: 'string' },
  },
})
const limit = Number(values.limit)
/** How many of a hundred repos have so many records: many small ones, 415 on the average. */
const spread = [
  [35, 1],
  [30, 10],
  [20, 60],
  [10, 400],
  [4, 3_000],
  [1, 24_000],
] as const
const accounts = 2_000_000
const warmUpMs = 5_000
const queued = 20_000
const digits = 'abcdefghijklmnopqrstuvwxyz234567'

interface Answer {
  served: number
  refused: number
  twice: number
  cpuSeconds: number
}

if (process.send !== undefined) await simulate(Number(values.hosts))
else if (values.queue !== undefined) await withRedis((redis) => weigh(redis, Number(values.queue)))
else {
  for (const hosts of values.hosts.split(',').map(Number)) {
    await withRedis((redis, url, children) => measure(hosts, redis, url, children))
  }
}

/** Accounts of every size follow each other closely. */
function recordsOf(account: number): number {
  if (values.records !== 'spread') return Number(values.records)
  let place = Math.imul(account, 2_654_435_761) >>> 0
  place = (place / 2 ** 32) * 100
  for (const [share, records] of spread) {
    if (place < share) return records
    place -= share
  }
  return 0
}

async function simulate(hosts: number): Promise<void> {
  const many = await startManyHosts({
    ...{ hosts, accounts, perSecond: limit, latencyMs: Number(values.latency), recordsOf },
  })
  const sum = (counts: Uint32Array) => counts.reduce((total, count) => total + count, 0)
  process.on('message', () =>
    process.send?.({
      served: sum(many.served),
      refused: sum(many.refused),
      twice: many.given.filter((count) => count > 1).length,
      cpuSeconds: (process.cpuUsage().user + process.cpuUsage().system) / 1e6,
    } satisfies Answer),
  )
  process.send?.({ url: many.url })
}

async function withRedis(
  use: (redis: Redis, url: string, children: ChildProcess[]) => Promise<void>,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  const places = await findPlaces(environment)
  await using server = await startRedis({ places, dir: join(folder, 'redis') })
  const redis = new Redis(server.url)
  const children: ChildProcess[] = []
  try {
    await use(redis, server.url, children)
  } finally {
    redis.disconnect()
    for (const child of children) child.kill('SIGKILL')
    await rm(folder, { recursive: true, force: true })
  }
}

async function measure(
  hosts: number,
  redis: Redis,
  redisUrl: string,
  children: ChildProcess[],
): Promise<void> {
  const args = [...process.argv.slice(2), '--hosts', String(hosts)]
  const simulator = fork(fileURLToPath(import.meta.url), args)
  children.push(simulator)
  const [{ url }] = (await once(simulator, 'message')) as [{ url: string }]
  const count = async () => {
    simulator.send('count')
    const [answer] = (await once(simulator, 'message')) as [Answer]
    return answer
  }
  const stop = new AbortController()
  const feeding = feed(redis, stop.signal)
  const workers = await Promise.all(
    Array.from({ length: Number(values.backfillers) }, (_, number) =>
      startBackfiller(children, { redis: redisUrl, plc: url, number }),
    ),
  )
  await new Promise((resolve) => setTimeout(resolve, warmUpMs))
  const [before, cpuBefore] = [await count(), await sumsOf(workers)]
  const started = performance.now()
  await new Promise((resolve) => setTimeout(resolve, Number(values.seconds) * 1_000))
  const [after, cpu] = [await count(), await sumsOf(workers)]
  const seconds = (performance.now() - started) / 1_000
  const served = after.served - before.served
  const share = served / seconds / (hosts * limit)
  const used = cpu.seconds - cpuBefore.seconds
  const records = cpu.records - cpuBefore.records
  const percent = (cpuSeconds: number) => `${((cpuSeconds / seconds) * 100).toFixed(0)} %`
  console.log(
    [
      `${hosts} hosts of ${limit}/s, ${workers.length} backfillers`,
      `${(served / seconds).toFixed(0)} repos/s, ${(share * 100).toFixed(1)} % of the limits`,
      `${(records / seconds).toFixed(0)} records/s`,
      `${after.refused - before.refused} refused (429), ${after.twice} repos done twice`,
      `${await redis.xlen('repo_backfill_dlq')} set aside`,
      `${((used / served) * 1e6).toFixed(0)} µs of CPU a repo, ${percent(used)} of a core`,
      `${(cpu.bytes / workers.length / 1e6).toFixed(0)} MB RSS each`,
      `the hosts took ${percent(after.cpuSeconds - before.cpuSeconds)}`,
    ].join('; '),
  )
  stop.abort()
  await feeding
}

/** Keeps requests waiting, and the output empty. */
async function feed(redis: Redis, signal: AbortSignal): Promise<void> {
  let next = 0
  while (!signal.aborted) {
    const room = queued - (await redis.xlen('repo_backfill'))
    const pipeline = redis.pipeline()
    for (let number = 0; number < room; number += 1) {
      pipeline.xadd('repo_backfill', '*', ...encodeRequest({ did: didOf(next++ % accounts) }))
    }
    await pipeline.exec()
    await redis.xtrim('firehose_backfill', 'MAXLEN', 0)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** As the simulator has them. */
function didOf(account: number): string {
  let text = ''
  for (let rest = account; text.length < 24; rest = Math.floor(rest / 32)) {
    text = digits[rest % 32] + text
  }
  return `did:plc:${text}`
}

async function startBackfiller(
  children: ChildProcess[],
  { redis, plc, number }: { redis: string; plc: string; number: number },
): Promise<string> {
  const main = fileURLToPath(new URL('../backfiller/main.ts', import.meta.url))
  const child = spawn(process.execPath, [main], {
    env: {
      REDIS_URL: redis,
      PLC_URL: plc,
      ALLOW_PRIVATE_HOSTS: 'true',
      BACKFILLER_CONSUMER: `bench${number}`,
      BACKFILLER_METRICS_PORT: '0',
      LOG_LEVEL: 'warn',
    },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  children.push(child)
  const [{ listening }] = (await once(child, 'message')) as [{ listening: number }]
  return `http://127.0.0.1:${listening}/metrics`
}

async function sumsOf(pages: readonly string[]) {
  const sums = { seconds: 0, bytes: 0, records: 0 }
  for (const page of pages) {
    const text = await (await fetch(page)).text()
    const read = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? 0)
    sums.seconds += read('process_cpu_seconds_total')
    sums.bytes += read('process_resident_memory_bytes')
    sums.records += read('backfiller_records_extracted_total')
  }
  return sums
}

async function weigh(redis: Redis, requests: number): Promise<void> {
  const used = async () => Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1])
  const before = await used()
  for (let from = 0; from < requests; from += 10_000) {
    const pipeline = redis.pipeline()
    for (let number = from; number < Math.min(requests, from + 10_000); number += 1) {
      const request = { did: didOf(number), host: 'https://bsky.network', rev: '3lzzzzzzzzz2a' }
      pipeline.xadd('repo_backfill', '*', ...encodeRequest({ ...request, reason: 'bulk' }))
    }
    await pipeline.exec()
  }
  const bytes = (await used()) - before
  console.log(
    `${requests} queued requests: ${(bytes / 1e6).toFixed(0)} MB of Redis, ${(bytes / requests).toFixed(0)} B each`,
  )
}
