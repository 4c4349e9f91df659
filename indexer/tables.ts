/** Whether the database is one that we may write: it has what we need beside the AppView's tables. */
import { obstacles } from '../migrations/adopt.ts'
import { columnsOf, relationsOf, uniqueKeysOf } from '../migrations/catalogue.ts'
import { migrationFolder, readMigrations } from '../migrations/files.ts'
import { ownColumns, ownTables } from '../migrations/ours.ts'
import { type Sql, schemaName } from '../shared/postgres.ts'

/** Only an operator can mend this; the message says how. */
export class UnfitDatabaseError extends Error {
  override readonly name = 'UnfitDatabaseError'
}

/** Throws an `UnfitDatabaseError` that says what is missing or in the way, and what to do about it. */
export async function requireTables(sql: Sql, schema: string): Promise<void> {
  const relations = await relationsOf(sql, schemaName(schema))
  const columns = await columnsOf(sql, schema)
  if (!relations.includes('record')) {
    throw new UnfitDatabaseError(
      `the schema "${schema}" holds no index yet: run \`sluice migrate\` first`,
    )
  }
  const names = new Set([...relations, ...columns.map(({ table, name }) => `${table}.${name}`)])
  const lacks = (what: readonly string[], command: string) =>
    new UnfitDatabaseError(
      `the schema "${schema}" lacks ${what.join(', ')}: run \`${command}\` first`,
    )
  if (!names.has('sluice_migration')) {
    throw lacks([...ownTables, ...ownColumns].filter(missingIn(names)), 'sluice migrate --adopt')
  }
  const pending = await pendingMigrations(sql, schema)
  const missing = [...ownTables, ...ownColumns].filter(missingIn(names))
  if (pending.length > 0) throw lacks(pending, 'sluice migrate')
  if (missing.length > 0) throw lacks(missing, 'sluice migrate --adopt')
  const isOurs = (name: string) => ownTables.some((own) => own === name)
  const problems = obstacles({
    relations: relations.filter((name) => !isOurs(name)),
    columns,
    uniqueKeys: await uniqueKeysOf(sql, schema),
  })
  if (problems.length === 0) return
  throw new UnfitDatabaseError(
    `the schema "${schema}" is not one that we can write: ${problems.join('; ')}`,
  )
}

const missingIn = (names: ReadonlySet<string>) => (name: string) => !names.has(name)

/** What this version needs and the database has not; a missing index only costs time. */
async function pendingMigrations(sql: Sql, schema: string): Promise<string[]> {
  const ran = await sql.unsafe<{ name: string }[]>(`select name from "${schema}".sluice_migration`)
  const names = new Set(ran.map(({ name }) => name))
  return (await readMigrations(migrationFolder))
    .filter(({ kind, name }) => kind === 'ours' && !names.has(name))
    .map(({ name }) => name)
}
