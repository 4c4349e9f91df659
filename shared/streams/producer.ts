/** Appends batches to one stream, in order, each exactly once as far as Redis itself remembers. */
import type { Redis } from 'ioredis'
import type { Logger } from 'pino'
import type { StreamMetrics } from './metrics.ts'

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
  /** From `takeFence`; one serves all producers of a process. */
  fence?: Fence
  highWater: HighWater
  /** The groups that count: `namedGroups`. */
  groups: readonly string[]
  signal: AbortSignal
  log: Logger
  metrics: StreamMetrics
}

export interface Batch {
  /** Each entry is its fields: name, value, name, value. */
  entries: readonly (readonly string[])[]
  /** Written with the entries, atomically. */
  cursor?: string
  /** If given and no longer `producer.epoch`, nothing is appended: `RewoundError`. */
  epoch?: number
}

export interface Producer {
  /**
   * Resolves when the entries and the cursor are in Redis. Waits at the high-water mark, while Redis
   * is full and while it is away. An empty batch only checks the fence and whether Redis has gone
   * back: call it when idle. Calls are served one after the other, in order.
   * Throws `FencedError`, `RewoundError`, or the signal's reason.
   */
  append(batch: Batch): Promise<void>
  /** The cursor as stored, the highest of its variants; null when there is none. Never null for an error. */
  cursor(): Promise<string | null>
  /** How many times Redis was found to have gone back. What spans several appends compares it. */
  readonly epoch: number
}

/** Takes the fence: whoever had it is refused from now on. */
export async function takeFence(_redis: Redis, _key: string): Promise<Fence> {
  throw new Error('not yet')
}

/** Opens a producer; reads which cursor variants exist. Waits while Redis is away. */
export async function createProducer(_options: ProducerOptions): Promise<Producer> {
  throw new Error('not yet')
}
