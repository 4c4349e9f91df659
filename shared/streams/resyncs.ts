/**
 * Repos that must be read whole again: noted once each, requested at a bounded rate, ended when a
 * whole repo at the wanted rev or later is applied. What waits, and what was requested, is in Redis.
 */
import type { Redis } from 'ioredis'
import { resyncsKey, resyncsMinuteKey, resyncsWaitingKey } from './names.ts'
import { requestStream } from './requests.ts'
import { script } from './script.ts'

const want = script('resync_want.lua')
const turn = script('resync_turn.lua')
const settle = script('resync_settle.lua')

/** Repos whose resync is under way at once: some 70 MB of Redis. Beyond it chain states stay behind. */
export const mostResyncs = 500_000

export interface WholeRepo {
  did: string
  rev: string
}

/** Notes that these repos must be read whole at their rev or later. Gives how many found room, the first ones. */
export async function wantResyncs(
  redis: Redis,
  repos: readonly WholeRepo[],
  most = mostResyncs,
): Promise<number> {
  if (repos.length === 0) return 0
  const args = [most, ...repos.flatMap(({ did, rev }) => [did, rev])]
  return Number(await want(redis, [resyncsKey, resyncsWaitingKey], args))
}

/**
 * To be called after a transaction that applied these whole repos, or found them known, has
 * committed; again after a redelivery is as good. A repo that was wanted at a later rev waits again.
 */
export async function settleResyncs(redis: Redis, repos: readonly WholeRepo[]): Promise<void> {
  if (repos.length === 0) return
  const args = repos.flatMap(({ did, rev }) => [did, rev])
  await settle(redis, [resyncsKey, resyncsWaitingKey], args)
}

/** To be called for requests that ended without a repo: it is gone, or was set aside. A later break asks anew. */
export async function endResyncs(redis: Redis, dids: readonly string[]): Promise<void> {
  if (dids.length === 0) return
  const args = dids.flatMap((did) => [did, ''])
  await settle(redis, [resyncsKey, resyncsWaitingKey], args)
}

/** Requests resyncs that wait, as far as this minute has room for them. */
export async function requestResyncs(
  redis: Redis,
  options: { perMinute: number; host: string },
): Promise<{ requested: number; waiting: number }> {
  const keys = [
    resyncsKey,
    resyncsWaitingKey,
    resyncsMinuteKey,
    await requestStream(redis, 'resync'),
  ]
  const reply = (await turn(redis, keys, [options.perMinute, options.host])) as [number, number]
  return { requested: reply[0], waiting: reply[1] }
}

/** How many repos' resyncs are under way, requested or not. */
export async function countResyncs(redis: Redis): Promise<number> {
  return redis.hlen(resyncsKey)
}
