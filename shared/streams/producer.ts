/** Appends batches to one stream, in order, each exactly once as far as Redis itself remembers. */
import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { Logger } from 'pino'
import { crashPoint } from '../crash-point.ts'
import { settled, throughOutages } from '../redis.ts'
import { sleep } from '../retry.ts'
import { type Judgement, judgements, type PlacedLink, packLinks } from './chain.ts'
import type { StreamMetrics } from './metrics.ts'
import { chainKey, fenceKey, gapsKey, resyncsKey, resyncsWaitingKey, sessionKey } from './names.ts'
import { mostResyncs } from './resyncs.ts'
import { createRoom } from './room.ts'
import { script } from './script.ts'
import { compareDecimals } from './state.ts'

/** A newer worker holds the fence: this one must end. */
export class FencedError extends Error {
  override name = 'FencedError'
}

/**
 * Redis has gone back: what was believed durable is not. The source resumes after `cursor` (null:
 * none is stored); a producer without a cursor makes again whatever was being made.
 */
export class RewoundError extends Error {
  override name = 'RewoundError'
  readonly cursor: string | null
  constructor(stream: string, cursor: string | null) {
    super(`${stream} has gone back`)
    this.cursor = cursor
  }
}

/** A right to append, lost as soon as another process takes it. */
export interface Fence {
  readonly key: string
  readonly token: string
}

export interface HighWater {
  /** Entries not yet acknowledged by the slowest group of `groups`. */
  length: number
  /** Share of `maxmemory` (or of `memoryLimitBytes`, where Redis has none). */
  memoryRatio: number
  memoryLimitBytes?: number | null
}

export interface ProducerOptions {
  /** Without offline queue and resending: `connectRedis`. May be shared. */
  redis: Redis
  stream: string
  cursor?: {
    key: string
    variants?: readonly string[]
    /** `seq` is decimal and only goes forward; `opaque` is just set. */
    kind: 'seq' | 'opaque'
  }
  /** Keeps the chain of each repo beside the cursor; what is not above its rev is not appended. */
  chain?: {
    /** The source, as the ledger of gaps names it. */
    host: string
    /** Most resyncs under way at once. */
    most?: number
  }
  /** From `takeFence`; one serves all producers of a process. */
  fence?: Fence
  highWater: HighWater
  /** The groups that count: `namedGroups`. */
  groups: readonly string[]
  signal: AbortSignal
  log: Logger
  metrics: StreamMetrics
}

/** The fields of an entry: name, value, name, value. */
export type Entry = readonly (string | Buffer)[]

export interface Batch {
  entries: readonly Entry[]
  /** Written with the entries, atomically. */
  cursor?: string
  /** When the event at the cursor was, RFC 3339. */
  time?: string | null
  /** Of the commits among the entries, in order; for a producer with a chain. */
  links?: readonly PlacedLink[]
  /** If given and no longer `producer.epoch`, nothing is appended: `RewoundError`. */
  epoch?: number
}

/** What the script found of the links of a batch. Nothing is known of one whose reply was lost. */
export interface Appended {
  counts: Partial<Record<Judgement, number>>
  /** Whose chain is broken. */
  broken: readonly string[]
}

export interface Producer {
  /**
   * Resolves when the entries and the cursor are in Redis. Waits at the high-water mark, while Redis
   * is full and while it is away. An empty batch only checks the fence and whether Redis has gone
   * back: call it when idle. Calls are served one after the other, in order.
   * Throws `FencedError`, `RewoundError`, or the signal's reason.
   */
  append(batch: Batch): Promise<Appended>
  /** The cursor as stored, the highest of its variants; null when there is none. Never null for an error. */
  cursor(): Promise<string | null>
  /** How many times Redis was found to have gone back. What spans several appends compares it. */
  readonly epoch: number
}

const append = script('append.lua')
const fence = script('fence.lua')
const epochOf = script('epoch.lua')

/** Longer than a reply can be lost: a session that expired looks like a Redis that has gone back. */
const sessionSeconds = 7 * 24 * 3_600
const pollMs = 100

/** Takes the fence: whoever had it is refused from now on. Waits while Redis is away or full. */
export async function takeFence(
  redis: Redis,
  signal: AbortSignal,
  key: string = fenceKey,
): Promise<Fence> {
  await settled(redis, signal)
  const token = await throughOutages(() => fence(redis, [key], [randomUUID()]), signal)
  return { key, token: String(token) }
}

/** Opens a producer; reads which cursor variants exist. Waits while Redis is away or full. */
export async function createProducer(options: ProducerOptions): Promise<Producer> {
  const { redis, stream, cursor, fence, chain, highWater, groups, signal, log, metrics } = options
  const room = createRoom({ redis, stream, groups, highWater, log })
  const wait = createWait(options)
  await settled(redis, signal)
  const cursorKeys = await existingKeys(options)
  const chainKeys = chain === undefined ? [] : [chainKey, resyncsKey, resyncsWaitingKey, gapsKey]
  const fixedKeys = [...(fence === undefined ? [] : [fence.key]), ...cursorKeys, ...chainKeys]
  const most = chain === undefined ? '' : (chain.most ?? mostResyncs)
  let session = randomUUID()
  let number = 0
  let epoch = 0
  let last: Promise<unknown> = Promise.resolve()

  /** One call of the script, repeated until Redis has answered it. */
  const send = async ({ entries, cursor: value, time, links = [] }: Batch): Promise<Reply> => {
    const kind = value === undefined ? '' : (cursor?.kind ?? '')
    const keys = [stream, sessionKey(stream, session), ...fixedKeys]
    const head = [number + 1, sessionSeconds, fence?.token ?? '', cursorKeys.length]
    const position = [kind, value ?? '', time ?? '']
    const packed = links.length === 0 ? '' : packLinks(links)
    const source = [chain?.host ?? '', new Date().toISOString()]
    const fields = entries.flatMap((entry) => [entry.length, ...entry])
    return (await throughOutages(
      () => append(redis, keys, [...head, ...position, most, packed, ...source, ...fields]),
      signal,
      wait.because,
    )) as Reply
  }

  /** A session is written before the cursor is read, so that no loss falls between the two. */
  const open = async () => {
    session = randomUUID()
    number = 0
    const [answer, holder] = await send({ entries: [] })
    if (answer === 'fenced') throw new FencedError(`${stream}: ${holder} holds the fence`)
    number = 1
    if (chain !== undefined && cursor !== undefined) await beginEpoch(chain.host, cursor)
  }

  /** Where the stored cursor is not the one that was written beside the chain states, those count as absent. */
  const beginEpoch = async (
    host: string,
    { key, variants = [] }: NonNullable<ProducerOptions['cursor']>,
  ) => {
    const keys = [chainKey, gapsKey, key, ...variants]
    const args = [host, stream, new Date().toISOString()]
    const reply = await throughOutages(() => epochOf(redis, keys, args), signal, wait.because)
    const [epoch, from, to] = reply as [number, string?, string?]
    if (from === undefined) return
    log.warn({ host, stream, epoch, from, to }, 'another worker has moved the cursor: a new epoch')
  }

  const readCursor = async (): Promise<string | null> => {
    if (cursor === undefined) return null
    const keys = [cursor.key, ...(cursor.variants ?? [])]
    const values = await throughOutages(() => redis.mget(keys), signal, wait.because)
    return highestCursor(values, cursor.kind)
  }

  const appendNow = async (batch: Batch): Promise<Appended> => {
    if (batch.cursor !== undefined && cursor === undefined)
      throw new TypeError(`${stream}: a cursor was given to a producer that has none`)
    if (batch.entries.length > 0) await waitForRoom()
    if (batch.epoch !== undefined && batch.epoch !== epoch)
      throw new RewoundError(stream, await readCursor())
    const [answer, detail, counts = [], broken = []] = await send(batch)
    wait.over()
    switch (answer) {
      case 'fenced':
        throw new FencedError(`${stream}: ${detail} holds the fence`)
      case 'rewound': {
        epoch += 1
        metrics.rewound.inc({ stream })
        await open()
        const resumeAfter = await readCursor()
        log.warn({ stream, lastId: detail, cursor: resumeAfter }, 'redis has gone back')
        throw new RewoundError(stream, resumeAfter)
      }
      case 'again':
        log.info({ stream, lastId: detail }, 'a batch whose reply was lost had been appended')
        break
      default:
    }
    const { entries, links = [] } = batch
    if (entries.length > 0 || links.length > 0 || batch.cursor !== undefined) number += 1
    room.appended(batch.entries)
    const found = Object.fromEntries(judgements.map((name, index) => [name, counts[index] ?? 0]))
    const dropped = found['dropped-entries'] ?? 0
    metrics.appended.inc({ stream }, batch.entries.length - dropped)
    return { counts: found, broken }
  }

  const waitForRoom = async () => {
    for (;;) {
      const lacking = await throughOutages(() => room.lacks(), signal, wait.because)
      if (lacking === null) return
      wait.because(lacking)
      await sleep(pollMs, signal)
      signal.throwIfAborted()
    }
  }

  await open()
  crashPoint('producer.opened', stream)
  wait.over()
  return {
    append(batch) {
      const mine = last.then(() => appendNow(batch))
      last = mine.catch(() => {})
      return mine
    },
    cursor: readCursor,
    get epoch() {
      return epoch
    },
  }
}

/** The keys that the cursor is written to: ours, and every variant that is there now. */
async function existingKeys({ redis, cursor, signal }: ProducerOptions): Promise<string[]> {
  if (cursor === undefined) return []
  const variants = cursor.variants ?? []
  if (variants.length === 0) return [cursor.key]
  const values = await throughOutages(() => redis.mget([...variants]), signal)
  return [cursor.key, ...variants.filter((_, index) => values[index] !== null)]
}

/** Of a seq the highest; of an opaque cursor, which has no order, the first that is there. */
function highestCursor(values: (string | null)[], kind: 'seq' | 'opaque'): string | null {
  const there = values.filter((value) => value !== null)
  if (kind === 'opaque') return there[0] ?? null
  return there
    .filter((value) => /^\d+$/.test(value))
    .reduce<string | null>((best, value) => {
      const plain = value.replace(/^0+(?=\d)/, '')
      return best === null || compareDecimals(plain, best) > 0 ? plain : best
    }, null)
}

type Reply = [answer: string, detail: string, counts?: number[], broken?: string[]]
type Reason = 'length' | 'memory' | 'full' | 'away'

/** Says once when waiting begins, why, and when it is over. */
function createWait({ stream, log, metrics }: ProducerOptions) {
  let reason: Reason | null = null
  return {
    because(now: Reason) {
      if (now === reason) return
      if (reason !== null) metrics.waiting.set({ stream, reason }, 0)
      reason = now
      metrics.waiting.set({ stream, reason }, 1)
      log.info({ stream, reason }, 'appending waits')
    },
    over() {
      if (reason === null) return
      metrics.waiting.set({ stream, reason }, 0)
      log.info({ stream, reason }, 'appending goes on')
      reason = null
    },
  }
}
