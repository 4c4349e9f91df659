/** Whether a producer may append: by entries that nobody has acknowledged yet, and by Redis bytes. */
import type { Redis } from 'ioredis'
import type { Logger } from 'pino'
import type { HighWater } from './producer.ts'
import { readState, unacknowledged } from './state.ts'

/** Others append to the same Redis, so a measurement is soon old. */
const freshMs = 1_000
/** From this share of a mark on every append is measured: up to eight producers pass it by one each. */
const near = 1 / 8
/** What Redis needs for an entry beside its fields. */
const entryOverheadBytes = 66

export interface Room {
  /** Why an append must wait now, or null. Asks Redis only when what is known is old or near the mark. */
  lacks(): Promise<'length' | 'memory' | null>
  /** Takes note of what was appended since. */
  appended(entries: readonly (readonly (string | Buffer)[])[]): void
}

export function createRoom(options: {
  redis: Redis
  stream: string
  groups: readonly string[]
  highWater: HighWater
  log: Logger
  now?: () => number
}): Room {
  const { redis, stream, groups, highWater, log, now = Date.now } = options
  let entries = 0
  let bytes = 0
  let limitBytes: number | null = null
  let measuredAt = Number.NEGATIVE_INFINITY
  let saidUnbounded = false

  const verdict = () => {
    if (entries >= highWater.length) return 'length'
    return limitBytes !== null && bytes >= limitBytes ? 'memory' : null
  }
  const measure = async () => {
    const [count, memory] = await Promise.all([
      slowest(redis, stream, groups, highWater.length),
      readMemory(redis),
    ])
    entries = count
    bytes = memory.used
    const limit = memory.max > 0 ? memory.max : (highWater.memoryLimitBytes ?? null)
    limitBytes = limit === null ? null : limit * highWater.memoryRatio
    measuredAt = now()
    if (limit !== null || saidUnbounded) return
    saidUnbounded = true
    log.warn({ stream }, 'redis has no maxmemory and REDIS_MEMORY_LIMIT_BYTES is not set')
  }
  return {
    async lacks() {
      const isNear = entries >= highWater.length * near
      if (isNear || verdict() !== null || now() - measuredAt >= freshMs) await measure()
      return verdict()
    },
    appended(batch) {
      entries += batch.length
      for (const fields of batch) {
        bytes += entryOverheadBytes
        for (const field of fields) bytes += field.length
      }
    },
  }
}

/** What the slowest group that counts has not acknowledged; every entry, where there is no group. */
async function slowest(
  redis: Redis,
  stream: string,
  groups: readonly string[],
  enough: number,
): Promise<number> {
  const state = await readState(redis, stream)
  const named = state.groups.filter((group) => groups.includes(group.name))
  if (named.length === 0) return state.length
  let most = 0
  for (const group of named) {
    // A short stream bounds it without counting, and one that only this group reads holds no more.
    const bounded = state.length < enough || state.groups.length === 1
    const count =
      group.lag === null && bounded
        ? state.length
        : await unacknowledged(redis, stream, group, enough)
    most = Math.max(most, count)
  }
  return most
}

/** Bytes as Redis counts them against `maxmemory`, which leaves out its replication buffers. */
export async function readMemory(redis: Redis): Promise<{ used: number; max: number }> {
  const info = await redis.info('memory')
  const field = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0)
  return {
    used: field('used_memory') - field('mem_not_counted_for_evict'),
    max: field('maxmemory'),
  }
}
