/** Accounts that are back: their repos are asked for anew, beside the batches. */
import type { Redis } from 'ioredis'
import { type Sql, schemaName } from '../shared/postgres.ts'
import { redisFailure } from '../shared/redis.ts'
import { retryTransient, sleep } from '../shared/retry.ts'
import { requestRepos } from '../shared/streams/requests.ts'
import { resyncKind } from './accounts.ts'

const page = 100
const everyMs = 5_000

/** Appends the requests that batches and purges have wished for, until the signal aborts. */
export async function keepAskingForRepos(
  options: { redis: Redis; sql: Sql; schema: string },
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      const asked = await retryTransient(() => askForRepos(options), { signal })
      if (asked < page) await sleep(everyMs, signal)
    } catch (error) {
      // The wishes stand in Postgres until Redis is back.
      if (!signal.aborted && redisFailure(error) === 'fault') throw error
      await sleep(everyMs, signal)
    }
  }
}

/** Appends some requests and ends their wishes, in this order: a request may stand twice, none is lost. */
export async function askForRepos(options: {
  redis: Redis
  sql: Sql
  schema: string
}): Promise<number> {
  const { redis, sql } = options
  const table = `"${schemaName(options.schema)}".reconcile`
  const wished = await sql.unsafe<{ key: string }[]>(
    `select key from ${table} where kind = $1 order by key limit ${page}`,
    [resyncKind],
  )
  await requestRepos(
    redis,
    wished.map(({ key: did }) => ({ did, reason: 'resync' })),
  )
  await sql.unsafe(`delete from ${table} where kind = $1 and key = any($2::text[])`, [
    resyncKind,
    wished.map(({ key }) => key),
  ])
  return wished.length
}
