/** For tests: an ingester in this process, on a simulated network and a Redis of its own. */

import { expect } from 'vitest'
import { readConfig } from '../shared/config.ts'
import { decodeEvent, type Event } from '../shared/events.ts'
import { createLog } from '../shared/log.ts'
import { createHealth, createRegistry } from '../shared/metrics.ts'
import { type TestRedis, testRedis } from '../test/servers/redis.ts'
import { runIngester } from './ingester.ts'
import { options } from './options.ts'

export interface LogLine {
  level: string
  msg: string
  [field: string]: unknown
}

export interface RunningIngester extends AsyncDisposable {
  readonly log: readonly LogLine[]
  /** The sum of a metric over the labels that have these values. */
  metric(name: string, labels?: Record<string, string>): Promise<number>
  /** Why it is not ready; empty when it is. */
  problems(): Record<string, string>
  /** Aborts its signal and waits until it has ended; throws what it ended with. */
  stop(): Promise<void>
  /** Resolves when it has ended; throws what it ended with. */
  readonly ended: Promise<void>
}

/** Starts an ingester with these settings; disposing stops it. */
export function startIngester(env: Record<string, string>): RunningIngester {
  const log: LogLine[] = []
  const write = (line: string) => void log.push(JSON.parse(line) as LogLine)
  const registry = createRegistry('ingester')
  const health = createHealth()
  const stopping = new AbortController()
  const config = readConfig(options, { ALLOW_PRIVATE_HOSTS: 'true', ...env })
  const logger = createLog('ingester', 'debug', { write })
  const worker = { config, log: logger, signal: stopping.signal, registry, health }
  const ended = runIngester(worker)
  ended.catch(() => {}) // whoever waits for it gets the error
  const stop = async () => {
    stopping.abort()
    await ended
  }
  return {
    log,
    ended,
    stop,
    problems: () => health.problems(),
    async metric(name, labels = {}) {
      const found = await registry.getSingleMetric(name)?.get()
      if (found === undefined) throw new Error(`no metric ${name}`)
      const fits = (have: Record<string, unknown>) =>
        Object.entries(labels).every(([key, value]) => have[key] === value)
      return found.values
        .filter((value) => fits(value.labels))
        .reduce((sum, { value }) => sum + value, 0)
    },
    [Symbol.asyncDispose]: () => stop().catch(() => {}),
  }
}

export const patience = { timeout: 20_000, interval: 20 }

/** The part of a simulated network that is needed here. */
interface Network extends AsyncDisposable {
  plc: { url: string }
  relay: { url: string; host: string; lastSeq: number }
}

export interface TestRoom<N extends Network> extends AsyncDisposable {
  network: N
  redis: TestRedis['redis']
  /** Settings of an ingester that follows the network's relay, all collections. */
  env: Record<string, string>
  /** What is on `firehose_live`. */
  events(): Promise<Event[]>
  /** The relay's stored position. */
  cursor(): Promise<string | null>
  /** Resolves when all that the relay has sent is durable. */
  caughtUp(): Promise<void>
}

/** A network, which it takes over, and an empty Redis. */
export async function testRoom<N extends Network>(network: N): Promise<TestRoom<N>> {
  const resources = new AsyncDisposableStack()
  resources.use(network)
  const { redis, url } = resources.use(await testRedis())
  const cursor = () => redis.get(`firehose_live:cursor:${network.relay.host}`)
  return {
    network,
    redis,
    env: {
      REDIS_URL: url,
      PLC_URL: network.plc.url,
      INGESTER_RELAY_HOSTS: network.relay.url,
      INGESTER_MODE: 'firehose',
      INGESTER_COLLECTIONS: '*',
    },
    async events() {
      const entries = await redis.xrange('firehose_live', '-', '+')
      return entries.map(([, fields]) => decodeEvent(fields))
    },
    cursor,
    caughtUp: () => expect.poll(cursor, patience).toBe(String(network.relay.lastSeq)),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}
