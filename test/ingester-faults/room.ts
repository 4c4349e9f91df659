/** An ingester that follows a living network while something fails, and the judge of what it appends. */
import { setTimeout as delay } from 'node:timers/promises'
import type { LexMap } from '@atproto/lex-data'
import { Redis } from 'ioredis'
import { expect } from 'vitest'
import { type RunningIngester, startIngester } from '../../ingester/testing.ts'
import { decodeRequest } from '../../shared/events.ts'
import { cursorKeys, resyncsKey, streams } from '../../shared/streams/names.ts'
import { compareIds } from '../../shared/streams/state.ts'
import { readFrame } from '../../simulator/frames.ts'
import { createWorld, type World, type WorldOptions } from '../../simulator/living.ts'
import { type Network, type NetworkOptions, startNetwork } from '../../simulator/network.ts'
import type { Relay } from '../../simulator/relay.ts'

export const patience = { timeout: 15_000, interval: 20 }

/**
 * Of what a relay makes up about accounts. Nobody signs such a thing: it comes through, for the indexer
 * to ask the account's host about, and must stop no commit.
 */
export const forgedTime = '2020-01-01T00:00:00.000Z'

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
const sampleEveryMs = 15

export async function openFaultRoom(options: FaultRoomOptions): Promise<FaultRoom> {
  const resources = new AsyncDisposableStack()
  const told = createTold()
  const network = resources.use(await startNetwork({ onEvent: told.note, ...options.network }))
  const redis = new Redis(options.redisUrl, {
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

/** An event as it stands on the stream. */
interface Wire {
  type: string
  did: string
  time: string
  [field: string]: unknown
}

function parse(fields: readonly string[]): Wire {
  return JSON.parse(fields[fields.indexOf('event') + 1] ?? 'null') as Wire
}

const isHint = ({ type }: Wire): boolean => type === 'account' || type === 'identity'

/** What makes an event on the stream the one that it is: of a hint all that it says. */
function nameOf(event: Wire): string {
  const { type, did, active, status, handle, rev, collection, rkey, cid = '' } = event
  if (type === 'account') return `${did} account ${active} ${status}`
  if (type === 'identity') return `${did} identity ${handle}`
  return `${did} ${rev} ${type} ${collection}/${rkey} ${cid}`
}

/** The names of the events that a message becomes. */
function namesOf(type: string, body: LexMap): string[] {
  const did = String(body['did'] ?? body['repo'])
  const { active, status = null, handle, rev } = body
  if (type === '#account') return [`${did} account ${active} ${status}`]
  if (type === '#identity') return [`${did} identity ${handle}`]
  if (type !== '#commit') return []
  const ops = body['ops'] as { action: string; path: string; cid: unknown }[]
  return ops.map(({ action, path, cid }) => `${did} ${rev} ${action} ${path} ${cid ?? ''}`)
}

/** What the network told its relays, and the comparison with what became of it. */
function createTold() {
  const commits = new Map<string, string[]>()
  const hints = new Map<string, string[]>()
  const note = (type: string, body: LexMap) => {
    const did = String(body['did'] ?? body['repo'])
    addTo(type === '#commit' ? commits : hints, did, ...namesOf(type, body))
  }
  return {
    note,
    /** `resyncs`: the rev by DID that a repo must reach when it is read whole. */
    compare(events: readonly Wire[], resyncs: Readonly<Record<string, string>>) {
      const found = new Map<string, string[]>()
      const heard = new Map<string, Wire[]>()
      for (const event of events) {
        if (event.time === forgedTime) continue
        if (isHint(event)) addTo(heard, event.did, event)
        else addTo(found, event.did, nameOf(event))
      }
      for (const [did, all] of commits) {
        const list = found.get(did) ?? []
        const there = new Set(list)
        const restored = (name: string) => revOf(name) <= (resyncs[did] ?? '')
        expect(
          all.filter((name) => !there.has(name) && !restored(name)),
          `lost`,
        ).toEqual([])
        expect(list, `order of ${did}`).toEqual(all.filter((name) => there.has(name)))
        found.delete(did)
      }
      expect([...found.values()]).toEqual([])
      // A hint may come twice: whoever applies them takes the newest, whatever came how often.
      for (const [did, said] of hints) {
        const list = (heard.get(did) ?? []).toSorted(byTime)
        expect(new Set(list.map(nameOf)), did).toEqual(new Set(said))
        for (const type of ['account', 'identity']) {
          const newest = list.findLast((hint) => hint.type === type)
          expect(newest && nameOf(newest)).toBe(said.findLast((name) => name.includes(` ${type} `)))
        }
      }
    },
  }
}

function addTo<T>(lists: Map<string, T[]>, key: string, ...values: T[]): void {
  const list = lists.get(key) ?? []
  list.push(...values)
  if (list.length > 0) lists.set(key, list)
}

function byTime(a: Wire, b: Wire): number {
  return a.time < b.time ? -1 : a.time > b.time ? 1 : 0
}

/** Of the name of a commit's event. */
function revOf(name: string): string {
  return name.split(' ')[1] ?? ''
}

/** Looks again and again, at positions and stream at one moment, whether what a position covers is there. */
function startSampler(redisUrl: string, relays: readonly Relay[], keyOf: (relay: Relay) => string) {
  const redis = new Redis(redisUrl, { protocol: 2, retryStrategy: () => 20, commandTimeout: 1_000 })
  redis.on('error', () => {})
  const followed = relays.map(createFollowed)
  const present = new Set<string>()
  let last = '0-0'
  let samples = 0
  let stopped = false
  let broken: string | null = null

  const sample = async () => {
    const transaction = redis.multi().xinfo('STREAM', stream).xrange(stream, `(${last}`, '+')
    transaction.hkeys(resyncsKey)
    for (const relay of relays) transaction.get(keyOf(relay))
    const replies = await transaction.exec().catch(() => null)
    const [info, entries, resyncs, ...cursors] = replies?.map(([, reply]) => reply) ?? []
    if (!Array.isArray(info) || !Array.isArray(entries)) return
    if (compareIds(String(info[info.indexOf('last-generated-id') + 1]), last) < 0) {
      // Redis has gone back: what it holds now is looked at from its beginning.
      last = '0-0'
      present.clear()
      for (const each of followed) each.again()
      return
    }
    for (const [id, fields] of entries as [string, string[]][]) {
      const event = parse(fields)
      present.add(nameOf(event))
      last = id
    }
    const restored = new Set(resyncs as string[])
    const isLacking = (name: string) =>
      !present.has(name) && !restored.has(name.split(' ')[0] ?? '')
    for (const [index, each] of followed.entries()) {
      const seq = Number(cursors[index] ?? 0)
      const lacking = each.upTo(seq).find(isLacking)
      if (lacking !== undefined) broken ??= `position ${seq} without ${lacking}`
    }
    samples += 1
  }
  const looking = (async () => {
    while (!stopped) {
      await sample()
      await delay(sampleEveryMs)
    }
  })()
  const end = async () => {
    stopped = true
    await looking
    redis.disconnect()
  }
  return {
    /** Throws when a position was ever ahead. */
    async stop() {
      if (!stopped) await sample()
      await end()
      expect(broken).toBe(null)
      expect(samples).toBeGreaterThan(3)
    },
    [Symbol.asyncDispose]: end,
  }
}

/** What a relay has sent, by position. */
function createFollowed(relay: Relay) {
  let at = 0
  const names: { seq: number; name: string }[] = []
  let next = 0
  const readOn = () => {
    const frames = relay.frames()
    for (; at < frames.length; at += 1) {
      const { header, body } = readFrame(frames[at] ?? new Uint8Array()) ?? { header: {}, body: {} }
      for (const name of namesOf(String(header['t']), body)) {
        names.push({ seq: Number(body['seq']), name })
      }
    }
  }
  return {
    /** The events that a position covers and that were not asked for yet. */
    upTo(seq: number): string[] {
      readOn()
      const found: string[] = []
      for (let entry = names[next]; entry && entry.seq <= seq; entry = names[++next]) {
        found.push(entry.name)
      }
      return found
    },
    again() {
      next = 0
    },
  }
}
