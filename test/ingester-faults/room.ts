/** An ingester that follows a living network while something fails, and the judge of what it appends. */
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { expect } from 'vitest'
import { type RunningIngester, startIngester } from '../../ingester/testing.ts'
import { decodeRequest } from '../../shared/events.ts'
import { redisPlace } from '../../shared/redis.ts'
import { cursorKeys, resyncsKey, streams } from '../../shared/streams/names.ts'
import { createWorld, type World, type WorldOptions } from '../../simulator/living.ts'
import { type Network, type NetworkOptions, startNetwork } from '../../simulator/network.ts'
import type { Relay } from '../../simulator/relay.ts'
import { startSampler } from './sampler.ts'
import { createTold, parse } from './told.ts'

export const patience = { timeout: 40_000, interval: 20 }

export interface FaultRoom extends AsyncDisposable {
  readonly network: Network
  readonly world: World
  readonly redis: Redis
  /** What an ingester of all relays is told. */
  readonly environment: Readonly<Record<string, string>>
  /** Starts an ingester of all relays, beside those that run. */
  start(env?: Record<string, string>): RunningIngester
  /** The stored position of a relay, by default the first. */
  cursor(relay?: Relay): Promise<number>
  /** Lives on for so many steps. */
  live(steps: number): Promise<void>
  /** Lives on for as long as the work lasts, and a little longer. */
  liveDuring(work: () => Promise<void>): Promise<void>
  /** Resolves when some of what is told from now on is durable. */
  progress(): Promise<void>
  /** Resolves when all that these relays have told, by default all, is durable. */
  caughtUp(relays?: readonly Relay[]): Promise<void>
  /**
   * Waits until all is durable and compares the stream with what the network has told: nothing is
   * lost, nothing is there twice, each repo's order is kept, and at no moment that was looked at was
   * a position ahead of the stream. What is not there must be of a repo that is to be read whole;
   * gives these, each asked for once at most, whose number is for the caller to judge.
   */
  judge(): Promise<string[]>
}

export interface FaultRoomOptions {
  redisUrl: string
  /** What the ingester is told instead. */
  throughUrl?: string
  network?: NetworkOptions
  world?: WorldOptions
  /** Between two steps of the network's life, in milliseconds; default 6. */
  restMs?: number
  /** By what address the ingester knows a host; default its own. */
  named?: (url: string) => string
  /** Numbers of the relays that tell the truth in order: what their positions cover must be there. Default all. */
  honest?: readonly number[]
}

const stream = streams.live
/** A commit is judged by its account's present key: who changes it waits until all is durable. */
const leftOut = ['signingKey', 'migration', 'deletion'] as const
const restMs = 6

export async function openFaultRoom(options: FaultRoomOptions): Promise<FaultRoom> {
  const resources = new AsyncDisposableStack()
  const told = createTold()
  const network = resources.use(await startNetwork({ onEvent: told.note, ...options.network }))
  const { href, place } = redisPlace(options.redisUrl)
  const redis = new Redis(href, {
    ...place,
    ...{ protocol: 2, maxRetriesPerRequest: null, retryStrategy: () => 20, commandTimeout: 2_000 },
  })
  redis.on('error', () => {})
  resources.defer(() => redis.disconnect())
  const { named = (url) => url } = options
  const keyOf = (relay: Relay) => cursorKeys(stream, named(relay.url)).key
  const honest = network.relays.filter((_, index) => options.honest?.includes(index) ?? true)
  const sampler = resources.use(startSampler(options.redisUrl, honest, keyOf))
  const world = createWorld(network, { web: false, without: leftOut, ...options.world })
  await world.populate({ accounts: 8, older: 0, history: 0 })

  const cursor: FaultRoom['cursor'] = async (relay = network.relay) =>
    Number((await redis.get(keyOf(relay)).catch(() => null)) ?? 0)
  const caughtUp: FaultRoom['caughtUp'] = async (
    relays = honest.length > 0 ? honest : network.relays,
  ) => {
    for (const relay of relays) {
      await relay.caughtUp()
      await expect.poll(() => cursor(relay), patience).toBeGreaterThanOrEqual(relay.lastSeq)
    }
  }
  const environment = {
    REDIS_URL: options.throughUrl ?? options.redisUrl,
    PLC_URL: named(network.plc.url),
    INGESTER_RELAY_HOSTS: network.relays.map(({ url }) => named(url)).join(','),
    INGESTER_MODE: 'firehose',
    INGESTER_COLLECTIONS: '*',
    INGESTER_BATCH_SIZE: '20',
    // What can't be proved must not pass for proved here.
    INGESTER_VERIFY_UNAVAILABLE: 'wait',
  }

  /** A rest after each step, however slow the machine: what follows the network shares its thread. */
  const live = async (steps: number, signal?: AbortSignal) => {
    for (let step = 0; step < steps && signal?.aborted !== true; step += 1) {
      await world.step()
      await delay(options.restMs ?? restMs)
    }
  }
  return {
    network,
    world,
    redis,
    cursor,
    caughtUp,
    environment,
    start: (env = {}) => resources.use(startIngester({ ...environment, ...env })),
    live: (steps) => live(steps),
    async liveDuring(work) {
      const end = new AbortController()
      const life = live(Number.POSITIVE_INFINITY, end.signal)
      await work().finally(() => end.abort())
      await life
      await live(40)
    },
    async progress() {
      const { lastSeq } = network.relay
      await expect.poll(() => cursor(), patience).toBeGreaterThan(lastSeq + 20)
    },
    async judge() {
      await caughtUp()
      const entries = await redis.xrange(stream, '-', '+')
      const resyncs = await redis.hgetall(resyncsKey)
      told.compare(
        entries.map(([, fields]) => parse(fields)),
        resyncs,
      )
      await sampler.stop()
      const requests = await redis.xrange(streams.requests, '-', '+')
      const asked = requests.map(([, fields]) => decodeRequest(fields).did)
      expect(asked.filter((did, at) => asked.indexOf(did) < at || !(did in resyncs))).toEqual([])
      return Object.keys(resyncs)
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}
