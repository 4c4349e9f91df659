/** Puts repos whose chain is broken on `repo_backfill`, at most so many a minute, and tells how many wait. */
import type { Redis } from 'ioredis'
import type { Logger } from '../shared/log.ts'
import { redisFailure } from '../shared/redis.ts'
import { sleep } from '../shared/retry.ts'
import { countResyncs, mostResyncs, requestResyncs } from '../shared/streams/resyncs.ts'
import type { IngesterMetrics } from './metrics.ts'

const everyMs = 1_000
/** An alarm when so much of the room for resyncs is taken. */
const alarmShare = 0.8

/** Runs until the signal aborts; while Redis is away or full, they wait. */
export async function keepRequestingResyncs(options: {
  redis: Redis
  perMinute: number
  /** The relay's address, which requests carry. */
  host: string
  signal: AbortSignal
  log: Logger
  metrics: IngesterMetrics
}): Promise<void> {
  const { redis, perMinute, host, signal, log, metrics } = options
  let waited = false
  let alarmed = false
  while (!signal.aborted) {
    try {
      const { requested, waiting } = await requestResyncs(redis, { perMinute, host })
      const underWay = await countResyncs(redis)
      metrics.resyncsRequested.inc(requested)
      metrics.resyncsWaiting.set(waiting)
      metrics.resyncs.set(underWay)
      if (waiting > 0 && !waited) log.warn({ count: waiting, perMinute }, 'resyncs wait their turn')
      waited = waiting > 0
      const alarm = underWay >= alarmShare * mostResyncs
      if (alarm && !alarmed)
        log.error({ count: underWay, mostResyncs }, 'the room for resyncs ends')
      alarmed = alarm
    } catch (error) {
      if (!signal.aborted && redisFailure(error) === 'fault') throw error
    }
    await sleep(everyMs, signal)
  }
}
