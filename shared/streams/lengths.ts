/** How full the streams are and how far behind their groups, as gauges read at each scrape. */
import type { Redis } from 'ioredis'
import { Gauge, type Registry } from 'prom-client'
import { sleep } from '../retry.ts'
import { ledgerBalance } from './ledger.ts'
import { type GroupState, readState } from './state.ts'

/** A scrape answers within that. */
const scrapeMs = 1_000

export interface GroupLength {
  group: string
  /** Entries not yet delivered; null where Redis can't tell without counting. */
  lag: number | null
  pending: number
  /** 0 when nothing is pending. */
  oldestPendingSeconds: number
}

export interface StreamLengths {
  length: number
  groups: GroupLength[]
}

/** Measures one stream; a stream that is not there is an empty one. */
export async function streamLengths(
  redis: Redis,
  stream: string,
  now: () => number = Date.now,
): Promise<StreamLengths> {
  const { length, groups } = await readState(redis, stream)
  return { length, groups: groups.map((group) => groupLength(group, now())) }
}

function groupLength({ name, lag, pending, oldestPending }: GroupState, now: number): GroupLength {
  const since = oldestPending === null ? now : Number(oldestPending.split('-', 1)[0])
  return { group: name, lag, pending, oldestPendingSeconds: Math.max(0, (now - since) / 1_000) }
}

/**
 * Registers the gauges of these streams and their groups. While Redis is away they keep what they
 * had, and `stream_redis_away` of the consumers tells so.
 */
export function registerLengths(options: {
  redis: Redis
  streams: readonly string[]
  registry: Registry
  service: string
}): void {
  const { redis, streams, registry, service } = options
  const gauge = <L extends string>(name: string, help: string, labelNames: readonly L[]) =>
    new Gauge({
      name: `${service}_stream_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect: () => measured(),
    })
  const perGroup = ['stream', 'group'] as const
  const length = gauge('length_entries', 'Entries in the stream.', ['stream'])
  const lag = gauge('lag_entries', 'Entries not yet delivered to the group.', perGroup)
  const pending = gauge('pending_entries', 'Entries delivered and not acknowledged.', perGroup)
  const oldest = gauge('oldest_pending_seconds', 'Age of the oldest pending entry.', perGroup)
  const off = gauge(
    'ledger_off_entries',
    'Entries added less outcomes, pending and lag of the group: 0, or entries went astray.',
    perGroup,
  )

  const measure = async (stream: string) => {
    const state = await streamLengths(redis, stream)
    length.set({ stream }, state.length)
    for (const group of state.groups) {
      const labels = { stream, group: group.group }
      if (group.lag === null) lag.remove(labels)
      else lag.set(labels, group.lag)
      pending.set(labels, group.pending)
      oldest.set(labels, group.oldestPendingSeconds)
      const balance = await ledgerBalance(redis, stream, group.group)
      if (balance === null || balance.off === null) off.remove(labels)
      else off.set(labels, balance.off)
    }
  }
  // All gauges of a scrape wait for one measurement, and none for a Redis that does not answer.
  let measuring: Promise<void> | null = null
  const measured = (): Promise<void> => {
    measuring ??= Promise.race([Promise.allSettled(streams.map(measure)), sleep(scrapeMs)]).then(
      () => {
        measuring = null
      },
    )
    return measuring
  }
}
