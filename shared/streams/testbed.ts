/** What the tests of streams share: a producer and consumers on a real Redis, and a wire to cut. */
import { connect, createServer, type Server, type Socket } from 'node:net'
import { Writable } from 'node:stream'
import type { Redis } from 'ioredis'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { expect } from 'vitest'
import { type Connection, connectRedis } from '../redis.ts'
import { type Consumer, consume, type Entry, type Outcome } from './consumer.ts'
import { streamMetrics } from './metrics.ts'
import { consumerKey } from './names.ts'
import { createProducer, type Producer, type ProducerOptions } from './producer.ts'

export const stream = 's'
export const group = 'g'

export interface LogLine {
  msg: string
  [field: string]: unknown
}

export interface Testbed extends AsyncDisposable {
  redis: Connection
  log: pino.Logger
  /** Every line logged so far. */
  lines: LogLine[]
  registry: Registry
  metrics: ReturnType<typeof streamMetrics>
  signal: AbortSignal
  producer(options?: Partial<ProducerOptions>): Promise<Producer>
  consumer(options?: Partial<Consumer<string>>): RunningConsumer
  /** The value of a metric, by its labels; undefined when it has none. */
  metric(name: string, labels?: Record<string, string>): Promise<number | undefined>
}

export interface RunningConsumer {
  /** The events applied, in order; those of one batch together. */
  batches: string[][]
  /** The entries given to `apply`, failed calls included. */
  tries: Entry<string>[][]
  seen(): string[]
  stop(): Promise<void>
  ended: Promise<void>
}

/** Everything runs until the testbed is disposed, which waits for it. */
export function testbed(redisUrl: string): Testbed {
  const lines: LogLine[] = []
  const log = pino(
    { level: 'debug' },
    new Writable({
      write(chunk: Buffer, _encoding, done) {
        lines.push(JSON.parse(chunk.toString()) as LogLine)
        done()
      },
    }),
  )
  const stop = new AbortController()
  const running: Promise<unknown>[] = []
  const registry = new Registry()
  const metrics = streamMetrics(registry, 'test')
  const redis = connectRedis({ redisUrl, log })
  const base = { redis, stream, signal: stop.signal, log, metrics }
  return {
    redis,
    log,
    lines,
    registry,
    metrics,
    signal: stop.signal,
    producer: (options = {}) =>
      createProducer({
        ...base,
        groups: [group],
        highWater: { length: 1_000_000, memoryRatio: 1 },
        ...options,
      }),
    consumer(options = {}) {
      const own = new AbortController()
      const batches: string[][] = []
      const tries: Entry<string>[][] = []
      const apply = options.apply ?? (async (entries) => entries.map(() => 'applied'))
      const ended = consume<string>({
        ...base,
        group,
        name: 'one',
        batchSize: 10,
        concurrency: 1,
        decode: (fields) => fields[1] ?? '',
        streamGroups: new Map(),
        deadLetterMaxLength: 1_000,
        minIdleMs: 60_000,
        ...options,
        signal: AbortSignal.any([stop.signal, own.signal]),
        apply: async (entries, signal): Promise<readonly Outcome[]> => {
          tries.push([...entries])
          const outcomes = await apply(entries, signal)
          batches.push(entries.map(({ event }) => event))
          return outcomes
        },
      })
      const settled = ended.catch(() => {})
      running.push(settled)
      return {
        batches,
        tries,
        seen: () => batches.flat(),
        ended,
        stop: async () => {
          own.abort()
          await ended
        },
      }
    },
    async metric(name, labels = {}) {
      const metric = await registry.getSingleMetric(`test_${name}`)?.get()
      return metric?.values.find((value) =>
        Object.entries(labels).every(
          ([label, wanted]) => (value.labels as Record<string, unknown>)[label] === wanted,
        ),
      )?.value
    },
    async [Symbol.asyncDispose]() {
      stop.abort()
      await Promise.all(running)
      redis.disconnect()
    },
  }
}

/** Waits until the value is as expected: long, because only a failure takes that long. */
export function eventually<T>(value: () => T) {
  return expect.poll(value, { timeout: 25_000, interval: 20 })
}

/** Entries with one field each. */
export function events(...names: (string | number)[]): string[][] {
  return names.map((name) => ['event', String(name)])
}

/** Whole numbers from one to another, both included. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index)
}

/** The events on the stream now. */
export async function onStream(redis: Redis, key = stream): Promise<string[]> {
  return (await redis.xrange(key, '-', '+')).map(([, fields]) => fields[1] ?? '')
}

/** Reads as a consumer of ours would that then dies: all of it stays pending. */
export async function readAndDie(redis: Redis, name: string, count: number): Promise<string[]> {
  await redis.set(consumerKey(stream, group, name), 'died')
  return readAndStay(redis, name, count)
}

/** Reads as an older worker would. */
export async function readAndStay(redis: Redis, name: string, count: number): Promise<string[]> {
  const reply = await redis.xreadgroup(
    ...(['GROUP', group, name] as const),
    ...(['COUNT', count] as const),
    ...(['STREAMS', stream, '>'] as const),
  )
  return (reply?.[0]?.[1] ?? []).map(([id]) => id)
}

/** How many entries the group has pending. */
export async function pending(redis: Redis, name = group): Promise<number> {
  return Number(((await redis.xpending(stream, name)) as [number])[0])
}

/** A wire to Redis that can lose the replies to what was sent. */
export interface Wire extends AsyncDisposable {
  url: string
  /** The reply to the next request that holds these bytes is lost, and the connection with it. */
  loseReply(toWhat: string): void
  /** How many replies were lost. */
  lost: number
}

/** Listens on a port of its own and passes everything on to the Redis at `redisUrl`. */
export async function wireTo(redisUrl: string): Promise<Wire> {
  const target = new URL(redisUrl)
  const sockets = new Set<Socket>()
  let losing: string | null = null
  const wire = { lost: 0 }
  const server: Server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname)
    let doomed = false
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        client.destroy()
        upstream.destroy()
        sockets.delete(socket)
      })
    }
    client.on('data', (data) => {
      if (losing !== null && data.includes(losing)) {
        losing = null
        doomed = true
      }
      upstream.write(data)
    })
    upstream.on('data', (data) => {
      if (!doomed) return void client.write(data)
      wire.lost += 1
      client.destroy()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return Object.assign(wire, {
    url: `redis://127.0.0.1:${port}${target.pathname}`,
    loseReply(toWhat: string) {
      losing = toWhat
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  })
}
