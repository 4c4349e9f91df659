/** Dead letters of deleted accounts: thrown away after their rows, by whichever indexer comes first. */
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { schemaName } from '../shared/postgres.ts'
import { redisFailure } from '../shared/redis.ts'
import { retryTransient, sleep } from '../shared/retry.ts'
import { dropLetters, findLetters } from '../shared/streams/dead-letters.ts'
import { lettersKey } from '../shared/streams/names.ts'

/** The kind of row in `reconcile` that names an account whose dead letters are to go. */
export const lettersKind = 'letters'

export interface LettersOptions {
  redis: Redis
  sql: Sql
  schema: string
  /** The dead-letter streams that are looked through. */
  streams: readonly string[]
  /** Where a test may stop the walk: after so many letters were thrown away at once. */
  probe?: (dropped: number) => Promise<void>
  everyMs?: number
}

/** Accounts of one walk: their names are held in memory meanwhile. */
const accountsAtOnce = 10_000
const droppedAtOnce = 500
/** Whoever walks says so again with each portion; one that died is followed after this. */
const turnMs = 60_000

/** Walks while there are deleted accounts, until the signal aborts. */
export async function keepForgettingLetters(
  options: LettersOptions,
  signal: AbortSignal,
): Promise<void> {
  const { everyMs = 60_000 } = options
  while (!signal.aborted) {
    try {
      const done = await retryTransient(() => forgetLetters(options, signal), { signal })
      if (done < accountsAtOnce) await sleep(everyMs, signal)
    } catch (error) {
      // The accounts stand in Postgres until Redis is back.
      if (!signal.aborted && redisFailure(error) === 'fault') throw error
      await sleep(everyMs, signal)
    }
  }
}

/**
 * One walk over the dead letters for all accounts that wait: nothing in Redis finds letters by
 * account, so their number must not count. Who is interrupted, or somebody else's turn, leaves the
 * accounts to the next walk. Gives how many are done with.
 */
export async function forgetLetters(
  { redis, sql, schema, streams, probe }: LettersOptions,
  signal: AbortSignal,
): Promise<number> {
  const table = `"${schemaName(schema)}".reconcile`
  const wanted = await sql.unsafe<{ key: string }[]>(
    `select key from ${table} where kind = $1 order by key limit ${accountsAtOnce}`,
    [lettersKind],
  )
  if (wanted.length === 0) return 0
  if ((await redis.set(lettersKey, '1', 'PX', turnMs, 'NX')) === null) return 0
  const dids = new Set(wanted.map(({ key }) => key))
  for (const stream of streams) {
    let ids: string[] = []
    const drop = async () => {
      const dropped = await dropLetters(redis, stream, ids)
      await probe?.(dropped)
      ids = []
      await redis.pexpire(lettersKey, turnMs)
      signal.throwIfAborted()
    }
    for await (const { id, did } of findLetters(redis, stream, {})) {
      if (dids.has(did)) ids.push(id)
      if (ids.length >= droppedAtOnce) await drop()
    }
    await drop()
  }
  await sql.unsafe(`delete from ${table} where kind = $1 and key = any($2::text[])`, [
    lettersKind,
    [...dids],
  ])
  await redis.del(lettersKey)
  return dids.size
}
