/** An ingester in a process of its own, that follows a replayed file into a Redis of its own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { environment } from '../shared/config.ts'
import { leanIngester } from '../shared/lean.ts'
import type { DidDocument } from '../simulator/documents.ts'
import { startNetwork } from '../simulator/network.ts'
import { findPlaces } from '../start/places.ts'
import { freePort } from '../start/process.ts'
import { startRedis } from '../start/redis.ts'
import { firstSeq } from './replay.ts'

export interface FollowingOptions {
  /** A file of `bench/commits.ts`. */
  path: string
  /** Frames a second; 0: as many as are read. */
  rate: number
  rounds?: number
  /** Of each round; all without it. */
  frames?: number
  /** A file of frames that are sent before, as fast as they are read. */
  first?: string
  /** Done before the ingester starts. */
  prepare?: (redis: Redis) => Promise<void>
  /** More settings of the ingester. */
  env?: Record<string, string>
}

/** What a process has used so far. */
export interface Usage {
  at: number
  /** Seconds of CPU. */
  main: number
  threads: number
  redis: number
  replay: number
}

export interface Following extends AsyncDisposable {
  redis: Redis
  redisPid: number
  /** Frames of a round. */
  frames: number
  /** Frames that are durable. */
  done(): Promise<number>
  usage(): Promise<Usage>
  /** Resident megabytes. */
  memory(): number
  metric(name: string): Promise<number>
  /** When each frame of the last round was sent. */
  readonly sentAt: Promise<number[]>
}

export async function startFollowing(options: FollowingOptions): Promise<Following> {
  const { path, rate, rounds = 1, frames = 0, first, prepare, env = {} } = options
  const resources = new AsyncDisposableStack()
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  resources.defer(() => rm(folder, { recursive: true, force: true }))
  const places = await findPlaces(environment)
  const server = await startRedis({ places, dir: folder, port: await freePort(), args: [] })
  resources.defer(() => server.stop())
  const network = resources.use(await startNetwork())
  for (const document of documentsOf(path)) network.plc.serve(document)
  const redis = new Redis(server.url)
  resources.defer(() => redis.disconnect())
  await prepare?.(redis)
  const program = [path, String(rate), String(rounds), String(frames)]
  const replay = fork(['bench/replay.ts', ...program, ...(first === undefined ? [] : [first])], {})
  resources.defer(() => ended(replay))
  const [{ address, messages }] = (await once(replay, 'message')) as [
    { address: AddressInfo; messages: number },
  ]
  const sentAt = once(replay, 'message').then(([{ sentAt }]) => sentAt as number[])
  sentAt.catch(() => {})
  const host = `127.0.0.1:${address.port}`
  const child = fork([...leanIngester.flags, 'ingester/main.ts'], {
    ...leanIngester.env,
    REDIS_URL: server.url,
    REDIS_MEMORY_LIMIT_BYTES: String(8e9),
    PLC_URL: network.plc.url,
    INGESTER_RELAY_HOSTS: `ws://${host}`,
    INGESTER_MODE: 'firehose',
    INGESTER_COLLECTIONS: '*',
    INGESTER_HIGH_WATER_MARK: '100000000',
    METRICS_PORT: '0',
    LOG_LEVEL: 'warn',
    ALLOW_PRIVATE_HOSTS: 'true',
    ...env,
  })
  resources.defer(() => ended(child))
  const [{ listening }] = (await once(child, 'message')) as [{ listening: number }]
  const pid = child.pid ?? 0
  return {
    redis,
    redisPid: Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1]),
    frames: messages,
    sentAt,
    async done() {
      const cursor = await redis.get(`firehose_live:cursor:${host}`)
      return cursor === null ? 0 : Number(cursor) - firstSeq + 1
    },
    async usage() {
      const cpu = await redis.info('cpu')
      const part = (name: string) => Number(new RegExp(`${name}:([\\d.]+)`).exec(cpu)?.[1])
      const { main, threads } = await cpuOf(pid)
      const sender = await cpuOf(replay.pid ?? 0)
      const at = performance.now() / 1_000
      return {
        ...{ at, main, threads, redis: part('used_cpu_user') + part('used_cpu_sys') },
        replay: sender.main + sender.threads,
      }
    },
    memory: () =>
      Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1_000,
    async metric(name) {
      const page = await (await fetch(`http://127.0.0.1:${listening}/metrics`)).text()
      const lines = page.split('\n').filter((line) => line.match(`^${name}[{ ]`))
      return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

export function documentsOf(path: string): DidDocument[] {
  return JSON.parse(readFileSync(`${path}.json`, 'utf8')) as DidDocument[]
}

/** Waits until so many frames are durable. */
export async function reached(following: Following, frames: number): Promise<void> {
  while ((await following.done()) < frames) await sleep(10)
}

export function fork(args: readonly string[], env: Record<string, string>): ChildProcess {
  return spawn(process.execPath, args, {
    env: { ...env, PATH: String(environment['PATH']) },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
}

export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  await once(child, 'exit')
}

const ticksASecond = 100

/** Seconds of CPU of the thread that runs the event loop, and of all others (Linux). */
async function cpuOf(pid: number): Promise<{ main: number; threads: number }> {
  const tasks = await readdir(`/proc/${pid}/task`)
  const times = await Promise.all(
    tasks.map(async (task) => {
      const stat = await readFile(`/proc/${pid}/task/${task}/stat`, 'utf8').catch(() => '')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / ticksASecond
    }),
  )
  const main = times[tasks.indexOf(String(pid))] ?? 0
  return { main, threads: times.reduce((sum, time) => sum + time, 0) - main }
}
