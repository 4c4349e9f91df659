/** The ends of entries: acknowledged, set aside, given back; each counted once in the ledger. */
import type { Redis } from 'ioredis'
import { redisCode } from '../redis.ts'
import { ledgerKey, suspectsKey } from './names.ts'
import { script } from './script.ts'

const acknowledge = script('acknowledge.lua')
const deadLetter = script('dead_letter.lua')
const touch = script('touch.lua')
const suspect = script('suspect.lua')

export interface DeadLetter {
  /** A short phrase from a bounded set: it is a metric label. */
  reason: string
  /** What went wrong, for a person. */
  error: string
  /** Fields beside the contract's, or instead of them: `attempts`, `host`, `first_failed_at`. */
  extra?: Record<string, string>
}

/** Names and values of an entry that its dead letter keeps: Lua takes no more than 8,000 in a call. */
const mostFields = 4_000

/** Where entries end: one group of one stream. */
export interface Place {
  redis: Redis
  stream: string
  group: string
  name: string
  deadLetterStream: string
  deadLetterMaxLength: number
  /** Whether STREAM_GROUPS names no other group here: then what is acknowledged is deleted. */
  alone: boolean
}

/** Acknowledges entries with their outcomes; tells how many were still pending. */
export async function acknowledgeAll(
  place: Place,
  outcomes: readonly (readonly [id: string, outcome: string])[],
): Promise<number> {
  if (outcomes.length === 0) return 0
  const { redis, stream, group, alone } = place
  const keys = [stream, ledgerKey(stream, group), suspectsKey(stream)]
  return Number(await acknowledge(redis, keys, [group, alone ? 1 : 0, ...outcomes.flat()]))
}

/**
 * Sets an entry aside: `done`, `gone` when it was no longer pending, `full` when the dead-letter
 * stream is at its greatest length. Throws OOM when Redis has no memory; the entry is pending then.
 */
export async function setAside(
  place: Place,
  entry: { id: string; fields: readonly string[]; deliveries: number },
  letter: DeadLetter,
): Promise<'done' | 'gone' | 'full'> {
  const { redis, stream, group, name, deadLetterStream, deadLetterMaxLength, alone } = place
  const fields: Record<string, string> = {
    reason: letter.reason,
    attempts: String(entry.deliveries),
    error: letter.error,
    entry: entry.id,
    stream,
    group,
    consumer: name,
    failed_at: new Date().toISOString(),
    ...letter.extra,
  }
  const keys = [stream, ledgerKey(stream, group), deadLetterStream, suspectsKey(stream)]
  const head = [group, alone ? 1 : 0, entry.id, letter.reason, deadLetterMaxLength]
  const args = [
    ...head,
    suspectField(group, entry.id),
    ...entry.fields.slice(0, mostFields),
    ...Object.entries(fields).flat(),
  ]
  try {
    return (await deadLetter(redis, keys, args)) as 'done' | 'gone' | 'full'
  } catch (error) {
    if (redisCode(error) === 'NOGROUP') return 'gone'
    throw error
  }
}

/** Keeps entries from being claimed; tells which of them are no longer ours. */
export async function keepFresh(place: Place, ids: readonly string[]): Promise<string[]> {
  const { redis, stream, group, name } = place
  if (ids.length === 0) return []
  return (await touch(
    redis,
    [stream, ledgerKey(stream, group)],
    [group, name, '', ...ids],
  )) as string[]
}

/** Gives an entry back unhandled: this delivery does not count, and it may be claimed when idle. */
export async function giveBack(place: Place, entry: { id: string; deliveries: number }) {
  const { redis, stream, group, name } = place
  const keys = [stream, ledgerKey(stream, group)]
  try {
    await touch(redis, keys, [group, name, Math.max(0, entry.deliveries - 1), entry.id])
  } catch (error) {
    // After a flush there is nothing left to give it back to.
    if (redisCode(error) !== 'NOGROUP') throw error
  }
}

/** Counts that an entry is about to be opened alone; how often that never ended is one less. */
export async function raiseSuspicion({ redis, stream, group }: Place, id: string) {
  return Number(await suspect(redis, [suspectsKey(stream)], [suspectField(group, id)]))
}

/** The entry was opened alone and nobody died. */
export async function dropSuspicion({ redis, stream, group }: Place, id: string): Promise<void> {
  await redis.hdel(suspectsKey(stream), suspectField(group, id))
}

function suspectField(group: string, id: string): string {
  return `${group}/${id}`
}
