/** Whether the database is one that we may write: it has what we need beside the AppView's tables. */
import { type Sql, schemaName } from '../shared/postgres.ts'

const needed = ['record_tombstone', 'repo_sync', 'reconcile', 'account_event', 'position'] as const

/** Throws an Error that says what is missing and what to do about it. */
export async function requireTables(sql: Sql, schema: string): Promise<void> {
  const found = await sql.unsafe<{ name: string }[]>(
    `select table_name as name from information_schema.tables where table_schema = $1
     union all
     select table_name || '.' || column_name from information_schema.columns
     where table_schema = $1 and table_name = 'record' and column_name = 'rev'`,
    [schemaName(schema)],
  )
  const names = new Set(found.map(({ name }) => name))
  if (!names.has('record')) {
    throw new Error(`the schema "${schema}" holds no index yet: run \`sluice migrate\` first`)
  }
  const missing = [...needed, 'record.rev'].filter((name) => !names.has(name))
  if (missing.length === 0) return
  throw new Error(
    `the schema "${schema}" lacks ${missing.join(', ')}: run \`sluice migrate --adopt\` first`,
  )
}
