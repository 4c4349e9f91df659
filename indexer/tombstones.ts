/** Tombstones that have grown too old go: what is requeued after that becomes a resync. */
import { type Sql, schemaName } from '../shared/postgres.ts'
import { retryTransient, sleep } from '../shared/retry.ts'

const everyMs = 60_000
const page = 5_000
const dayMs = 24 * 3_600_000

/** Deletes tombstones older than so many days, some at a time, until the signal aborts. */
export async function keepTombstonesYoung(
  sql: Sql,
  schema: string,
  days: number,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await sleep(everyMs, signal)
    if (signal.aborted) return
    try {
      await retryTransient(() => expireTombstones(sql, schema, days), { signal })
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }
}

/** Deletes one portion; returns how many went. */
export async function expireTombstones(sql: Sql, schema: string, days: number): Promise<number> {
  const limit = new Date(Date.now() - days * dayMs).toISOString()
  const gone = await sql.unsafe(
    `delete from "${schemaName(schema)}".record_tombstone where uri in (
       select uri from "${schemaName(schema)}".record_tombstone
       where "deletedAt" < $1 order by "deletedAt" limit ${page} for update skip locked)`,
    [limit],
  )
  return gone.count
}
