/** A backfiller at work in this process, on a simulated network and a real Redis. */

import type { Redis } from 'ioredis'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { expect, vi } from 'vitest'
import { runBackfiller } from '../backfiller/backfiller.ts'
import { options } from '../backfiller/options.ts'
import { readConfig } from '../shared/config.ts'
import { encodeRequest, type PutEvent, type RepoEvent } from '../shared/events.ts'
import { createHealth } from '../shared/metrics.ts'
import { type Network, startNetwork } from '../simulator/network.ts'
import { carOf, documentOf, type RecordedRepo } from './recorded-repos.ts'
import { testRedis } from './servers/redis.ts'

export interface Room extends AsyncDisposable {
  network: Network
  redis: Redis
  /** The environment of the backfillers started here. */
  env: Record<string, string>
  start: (env?: Record<string, string>) => Promise<Running>
  /** Lets the network know a recorded repo: its DID document, and its CAR or another one. */
  serve: (repo: RecordedRepo, car?: Uint8Array, pds?: 0 | 1) => Promise<void>
  /** Puts a request on the stream and gives its id. */
  ask: (did: string, more?: { notBefore?: string }) => Promise<string>
  /** Resolves when nothing is waiting or pending. */
  done: () => Promise<void>
  events: () => Promise<(PutEvent | RepoEvent)[]>
  deadLetters: () => Promise<Record<string, string>[]>
  ledger: () => Promise<Record<string, string>>
}

export interface Running {
  stop: () => Promise<void>
  /** The names of all its metrics. */
  names: () => string[]
  metric: (name: string, labels?: Record<string, string>) => Promise<number>
}

const patience = { timeout: 20_000, interval: 20 }

export async function startRoom(): Promise<Room> {
  const resources = new AsyncDisposableStack()
  const network = resources.use(await startNetwork({ pds: 2 }))
  const { redis, url } = resources.use(await testRedis())
  const env = {
    REDIS_URL: url,
    PLC_URL: network.plc.url,
    ALLOW_PRIVATE_HOSTS: 'true',
    BACKFILLER_CONSUMER: 'backfiller1',
    BACKFILLER_COLLECTIONS: '*',
    BACKFILLER_RETRY_INITIAL_BACKOFF_MS: '10',
    BACKFILLER_RETRY_MAX_BACKOFF_MS: '50',
  }
  return {
    network,
    redis,
    env,
    async start(more = {}) {
      const running = run({ ...env, ...more })
      resources.defer(running.stop)
      return running
    },
    async serve(repo, car = carOf(repo), which = 0) {
      const pds = network.pds[which] ?? network.pds[0]
      network.plc.serve(documentOf(repo), { pds: pds.url })
      await pds.serveCar(repo.did, car)
    },
    async ask(did, more = {}) {
      const id = await redis.xadd('repo_backfill', '*', ...encodeRequest({ did, ...more }))
      return String(id)
    },
    done: () => vi.waitFor(async () => expect(await left(redis)).toBe(0), patience),
    async events() {
      const entries = await redis.xrange('firehose_backfill', '-', '+')
      return entries.map(([, fields]) => JSON.parse(fields[1] ?? ''))
    },
    async deadLetters() {
      const entries = await redis.xrange('repo_backfill_dlq', '-', '+')
      return entries.map(([, fields]) => toObject(fields))
    },
    ledger: () => redis.hgetall('repo_backfill:ledger:repo_backfill_group'),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

function run(env: Record<string, string>): Running {
  const controller = new AbortController()
  const registry = new Registry()
  const worker = {
    config: readConfig(options, env),
    log: pino({ level: 'silent' }),
    signal: controller.signal,
    registry,
    health: createHealth(),
  }
  const ended = runBackfiller(worker)
  // Until it is awaited a failure is only kept; `stop` throws it.
  ended.catch(() => {})
  return {
    async stop() {
      controller.abort()
      await ended
    },
    names: () => registry.getMetricsAsArray().map(({ name }) => name),
    async metric(name, labels = {}) {
      const found = await registry.getSingleMetric(name)?.get()
      const isMeant = (value: { labels: object }) =>
        Object.entries(labels).every(([key, text]) => Reflect.get(value.labels, key) === text)
      return (found?.values ?? []).filter(isMeant).reduce((sum, { value }) => sum + value, 0)
    },
  }
}

/** Requests that have no outcome yet: what is acknowledged is deleted, one group reading alone. */
async function left(redis: Redis): Promise<number> {
  return redis.xlen('repo_backfill')
}

function toObject(fields: string[]): Record<string, string> {
  const object: Record<string, string> = {}
  for (let at = 0; at + 1 < fields.length; at += 2) object[fields[at] ?? ''] = fields[at + 1] ?? ''
  return object
}
