/** The position of each upstream in Postgres, from which it is followed when Redis is lost whole. */
import type { Redis } from 'ioredis'
import { crashPoint } from '../shared/crash-point.ts'
import type { Sql } from '../shared/postgres.ts'
import { schemaName } from '../shared/postgres.ts'
import { redisFailure } from '../shared/redis.ts'
import { retryTransient, sleep } from '../shared/retry.ts'
import { passedMark } from '../shared/streams/marks.ts'
import { type GroupState, readState } from '../shared/streams/state.ts'

export interface PositionOptions {
  redis: Redis
  sql: Sql
  schema: string
  stream: string
  group: string
  everyMs: number
  signal: AbortSignal
}

/** Stores, every few seconds, the newest mark below what the group has still to acknowledge. */
export async function keepPosition(options: PositionOptions): Promise<void> {
  const { everyMs, signal } = options
  while (!signal.aborted) {
    await sleep(everyMs, signal)
    try {
      await retryTransient(() => storePosition(options), { signal })
    } catch (error) {
      // While Redis is away the position stands; at the stop it is as good as a few seconds ago.
      if (!signal.aborted && redisFailure(error) === 'fault') throw error
    }
  }
}

/** Stores the position once; returns the id of the mark, or null when there is none yet. */
export async function storePosition(options: Omit<PositionOptions, 'everyMs' | 'signal'>) {
  const { redis, sql, schema, stream, group } = options
  const state = await groupState(redis, stream, group)
  const mark = state === null ? null : await passedMark(redis, stream, state)
  if (mark === null) return null
  crashPoint('indexer.before-position')
  for (const [host, seq] of Object.entries(mark.positions)) {
    if (!/^\d{1,18}$/.test(seq)) continue
    await sql.unsafe(
      `insert into "${schemaName(schema)}".position as p (host, stream, "group", seq, "entryId", "updatedAt")
       values ($1, $2, $3, $4::text::bigint, $5, $6)
       on conflict (host, stream, "group") do update
         set seq = excluded.seq, "entryId" = excluded."entryId", "updatedAt" = excluded."updatedAt"
         where p.seq <> excluded.seq`,
      [host, stream, group, seq, mark.id, new Date().toISOString()],
    )
  }
  crashPoint('indexer.position-stored')
  return mark.id
}

/** Null when the stream or the group is not there. */
export async function groupState(
  redis: Redis,
  stream: string,
  group: string,
): Promise<GroupState | null> {
  const { groups } = await readState(redis, stream)
  return groups.find(({ name }) => name === group) ?? null
}
