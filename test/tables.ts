/** All rows of a run, in a form in which two runs can be compared. */
import type { Sql } from 'postgres'

/** What is newer was written by this run. */
const runStarted = Date.now() - 1_000

export type Tables = Record<string, Record<string, unknown>[]>

/** Every row of the tables that the indexer writes, but for what depends on when it ran. */
export async function tablesOf(sql: Sql): Promise<Tables> {
  const names = await sql<{ name: string }[]>`
    select table_name as name from information_schema.tables
    where table_schema = 'bsky' and table_type = 'BASE TABLE' order by 1`
  const tables: Tables = {}
  for (const { name } of names) {
    if (depends.has(name)) continue
    const rows = await sql<{ row: Record<string, unknown> }[]>`
      select to_jsonb(t) as row from ${sql(`bsky.${name}`)} t`
    tables[name] = rows
      .map(({ row }) => withoutTimes(row))
      .sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
  }
  return tables
}

/** Tables about the run itself, not about the network. */
const depends = new Set(['position', 'sluice_migration'])

/** When a repo was fetched or an entry applied: `indexedAt` and what is made of it, and serial numbers. */
function withoutTimes(row: Record<string, unknown>): Record<string, unknown> {
  const rest: Record<string, unknown> = {}
  for (const [column, value] of Object.entries(row)) {
    const isRecent = typeof value === 'string' && Date.parse(value) >= runStarted
    if (!isRecent && column !== 'id') rest[column] = value
  }
  return rest
}
