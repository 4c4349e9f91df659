/** What indexers that keep no revs did to a database since ours left it, and what must be forgotten then. */
import { inTransaction, type Sql, schemaName } from '../shared/postgres.ts'
import { lockRepos } from './repos.ts'

export interface TakeoverOptions {
  sql: Sql
  schema: string
  statementTimeoutMs: number
  signal: AbortSignal
  onProgress?: (repos: number) => void
}

/**
 * Entries are told of some time before they are on a stream; so much earlier than where ours stopped
 * a record may say that it was indexed.
 */
const marginMs = 3_600_000
const pageRepos = 500

/** Repos whose newest commit is another than the one that ours saw: only others can have moved it. */
const moved = `actor_sync a join repo_sync s on s.did = a.did
  where s.rev is not null and a."repoRev" is distinct from s.rev
    and not exists (select from account_purge p where p.did = a.did)`

/** When ours stopped, as `indexedAt` may have it at the earliest; null where ours were never there. */
export async function leftAt(sql: Sql, schema: string): Promise<string | null> {
  const [row] = await sql.unsafe<{ ms: string | null }[]>(
    `select min(split_part("entryId", '-', 1)::bigint)::text as ms from "${schemaName(schema)}".position`,
  )
  const ms = row?.ms ?? null
  return ms === null ? null : new Date(Number(ms) - marginMs).toISOString()
}

/**
 * Sets `record.rev` to null where others may have written the record since: its rev would be that of
 * another content. A null rev is older than any. Returns the number of records.
 */
export async function forgetRevs(options: TakeoverOptions, since: string): Promise<number> {
  const { sql, schema, statementTimeoutMs, signal, onProgress } = options
  let after: string | null = ''
  let repos = 0
  let records = 0
  while (after !== null) {
    signal.throwIfAborted()
    const from: string = after
    const page = await inTransaction(sql, { schema, statementTimeoutMs }, async (tx) => {
      const found = await tx.unsafe<{ did: string }[]>(
        `select a.did from ${moved} and a.did > $1 order by a.did limit ${pageRepos}`,
        [from],
      )
      const dids = found.map(({ did }) => did)
      if (dids.length === 0) return { dids, records: 0 }
      await lockRepos(tx, [], dids)
      const forgotten = await tx.unsafe(
        `update record set rev = null
         where did = any($1::text[]) and rev is not null and "indexedAt" >= $2`,
        [dids, since],
      )
      return { dids, records: forgotten.count }
    })
    repos += page.dids.length
    records += page.records
    onProgress?.(repos)
    after = page.dids.length === pageRepos ? (page.dids.at(-1) ?? null) : null
  }
  return records
}
