/** A stream and its groups at one moment. */
import type { Redis } from 'ioredis'
import { script } from './script.ts'

const state = script('state.lua')

export interface GroupState {
  name: string
  pending: number
  lastDelivered: string
  /** Entries not yet delivered; null where Redis can't tell without counting. */
  lag: number | null
  /** The id of the oldest pending entry. */
  oldestPending: string | null
}

export interface StreamState {
  length: number
  entriesAdded: number
  lastId: string
  groups: readonly GroupState[]
}

type Reply = [number, number, string, [string, number, string, number | null, string | null][]]

/** Reads it atomically; a stream that is not there is an empty one. */
export async function readState(redis: Redis, stream: string): Promise<StreamState> {
  const [length, entriesAdded, lastId, groups] = (await state(redis, [stream], [])) as Reply
  return {
    length,
    entriesAdded,
    lastId,
    groups: groups.map(([name, pending, lastDelivered, lag, oldestPending]) => ({
      name,
      pending,
      lastDelivered,
      lag,
      oldestPending,
    })),
  }
}

const countPage = 1_000

/**
 * The group's entries not yet acknowledged. Where Redis gives no lag (something was deleted that
 * the group has not read), counts, but no further than to `enough`.
 */
export async function unacknowledged(
  redis: Redis,
  stream: string,
  group: GroupState,
  enough: number,
): Promise<number> {
  if (group.lag !== null) return group.pending + group.lag
  let total = group.pending
  let after = group.lastDelivered
  while (total < enough) {
    const page = await redis.xrange(stream, `(${after}`, '+', 'COUNT', countPage)
    total += page.length
    const last = page.at(-1)
    if (last === undefined || page.length < countPage) break
    after = last[0]
  }
  return total
}

/** Orders entry ids: negative when `a` is older. */
export function compareIds(a: string, b: string): number {
  const [aMs = '', aSeq = ''] = a.split('-')
  const [bMs = '', bSeq = ''] = b.split('-')
  return compareDecimals(aMs, bMs) || compareDecimals(aSeq, bSeq)
}

/** Orders decimal numbers of any length, without leading zeros. */
export function compareDecimals(a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0)
}
