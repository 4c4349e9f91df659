/** Tells the ingester's ledger of resyncs which repos have been applied whole. */
import type { Redis } from 'ioredis'
import type { Event } from '../shared/events.ts'
import { throughOutages } from '../shared/redis.ts'
import type { Outcome } from '../shared/streams/consumer.ts'
import { endResyncs, settleResyncs } from '../shared/streams/resyncs.ts'

/**
 * To be called when the transaction of a batch has committed, before it is acknowledged, so that a
 * redelivery tells it again. A snapshot that was set aside ends its resync too: a later break asks anew.
 */
export async function settleSnapshots(
  redis: Redis,
  events: readonly Event[],
  outcomes: readonly Outcome[],
  signal: AbortSignal,
): Promise<void> {
  const whole = events.flatMap((event, index) =>
    event.type === 'repo' && event.complete !== undefined
      ? [{ did: event.did, rev: event.rev, isAside: typeof outcomes[index] === 'object' }]
      : [],
  )
  if (whole.length === 0) return
  const aside = whole.filter(({ isAside }) => isAside).map(({ did }) => did)
  const there = whole.filter(({ isAside }) => !isAside)
  await throughOutages(() => settleResyncs(redis, there), signal)
  await throughOutages(() => endResyncs(redis, aside), signal)
}
