/** Compares the rows of a database with the model, table by table and column by column. */
import type { ISql } from 'postgres'
import { keys, type Model, type Observed } from '../model.ts'
import type { Row } from './records.ts'
import { anything } from './threads.ts'

/** One place where the rows are not what they must be. */
export interface Difference {
  table: string
  /** The values of the key's columns, or `*` for the table as a whole. */
  key: string
  /** The column, or `*` when the whole row is missing or too many. */
  column: string
  expected: unknown
  got: unknown
}

/** The columns that are not compared, each with its reason. All others are, in every table. */
export const exempt: readonly { table: string; column: string; reason: string }[] = [
  // Of the times of one record's rows that of `record` is free, and the others must agree with it.
  { table: 'record', column: 'indexedAt', reason: 'when the event was sent or the repo fetched' },
  { table: 'actor', column: 'indexedAt', reason: 'when the handle was last looked at' },
  { table: 'record_tombstone', column: 'deletedAt', reason: 'when the deletion was applied' },
  { table: 'account_event', column: 'time', reason: 'when the relay sent the event' },
  { table: 'account_event', column: 'seq', reason: 'a position of the relay' },
  { table: 'repo_sync', column: 'snapshotScope', reason: 'what a backfill was told to fetch' },
  { table: 'repo_sync', column: 'snapshotAt', reason: 'when a backfill ended' },
  { table: 'repo_sync', column: 'statusAt', reason: 'when the relay sent the event' },
  { table: 'notification', column: 'id', reason: 'a serial number' },
]

/** The tables that may hold anything, each with its reason. Any other that is not modelled is empty. */
export const exemptTables: Readonly<Record<string, string>> = {
  position: 'where the relays are, for when Redis is lost',
  sluice_migration: 'what was done to the schema',
  kysely_migration: 'what the AppView would do to the schema',
  kysely_migration_lock: 'what the AppView would do to the schema',
  view_param: 'settings that the schema comes with',
}

/** Rows that are left out of the comparison, each kind with its reason. */
const exemptRows: readonly { table: string; reason: string; is: (row: Row) => boolean }[] = [
  {
    table: 'op_thread_reply',
    reason: 'a reply that is deleted, if it was ever seen',
    is: (row) => row['deletedAt'] !== null,
  },
  ...['post_agg', 'profile_agg'].map((table) => ({
    table,
    reason: 'something was counted here once, and nothing is now',
    is: (row: Row) => Object.values(row).every((value) => typeof value === 'string' || value === 0),
  })),
]

/** Every difference between the tables of the schema and the model; none when all is well. */
export async function compareWithModel(
  sql: ISql,
  model: Model,
  schema = 'bsky',
): Promise<Difference[]> {
  const actual = await readTables(sql, schema)
  const expected = model.tables(observe(actual))
  const differences: Difference[] = []
  for (const [table, rows] of actual) {
    if (table in exemptTables) continue
    const modelled = expected.get(table)
    if (modelled !== undefined) differences.push(...compareRows(table, modelled, rows, model))
    else if (rows.length > 0)
      differences.push({ table, key: '*', column: '*', expected: 'no rows', got: rows.length })
  }
  for (const table of expected.keys()) {
    if (actual.has(table)) continue
    differences.push({ table, key: '*', column: '*', expected: 'a table', got: 'none' })
  }
  return differences
}

/** The differences as lines for a person: the first hundred of them. */
export function describeDifferences(differences: readonly Difference[]): string {
  const lines = differences
    .slice(0, 100)
    .map(({ table, key, column, expected, got }) =>
      [`${table} ${key} ${column}`, `  must be ${show(expected)}`, `  and is  ${show(got)}`].join(
        '\n',
      ),
    )
  const more = differences.length - lines.length
  return [...lines, ...(more > 0 ? [`and ${more} more`] : [])].join('\n')
}

async function readTables(sql: ISql, schema: string): Promise<Map<string, Row[]>> {
  const names = await sql<{ name: string }[]>`
    select table_name as name from information_schema.tables
    where table_schema = ${schema} and table_type = 'BASE TABLE' order by 1`
  // One statement for all tables, so that they are seen at one moment.
  const selects = names.map(
    ({ name }) => `select '${name}' as "table", to_jsonb(t) as row from "${schema}"."${name}" t`,
  )
  const tables = new Map<string, Row[]>(names.map(({ name }) => [name, []]))
  const rows = await sql.unsafe<{ table: string; row: Row }[]>(selects.join(' union all '))
  for (const { table, row } of rows) tables.get(table)?.push(row)
  return tables
}

function observe(tables: ReadonlyMap<string, readonly Row[]>): Observed {
  const textsOf = (table: string, key: string, column: string) =>
    new Map(
      (tables.get(table) ?? [])
        .filter((row) => typeof row[column] === 'string')
        .map((row) => [String(row[key]), String(row[column])]),
    )
  return {
    indexedAt: textsOf('record', 'uri', 'indexedAt'),
    snapshotRev: textsOf('repo_sync', 'did', 'snapshotRev'),
  }
}

function compareRows(
  table: string,
  expected: readonly Row[],
  actual: readonly Row[],
  model: Model,
): Difference[] {
  const kinds = exemptRows.filter((kind) => kind.table === table)
  const keyOf = (row: Row) => (keys[table] ?? []).map((column) => row[column]).join(' ')
  const isCompared = (row: Row) => !kinds.some(({ is }) => is(row)) && !model.isFree(table, row)
  const compared = actual.filter(isCompared)
  const left = new Map(compared.map((row) => [keyOf(row), row]))
  const differences: Difference[] = []
  for (const row of expected) {
    if (model.isFree(table, row)) continue
    const key = keyOf(row)
    const got = left.get(key)
    left.delete(key)
    if (got !== undefined) differences.push(...compareColumns(table, key, row, got))
    else if (!kinds.some(({ is }) => is(atLeast(row))))
      differences.push({ table, key, column: '*', expected: row, got: 'no row' })
  }
  for (const [key, got] of left) {
    differences.push({ table, key, column: '*', expected: 'no row', got })
  }
  return differences
}

/** With nothing in the columns that may hold anything. */
function atLeast(row: Row): Row {
  return Object.fromEntries(
    Object.entries(row).map(([column, value]) => [column, value === anything ? 0 : value]),
  )
}

function compareColumns(table: string, key: string, expected: Row, got: Row): Difference[] {
  const differences: Difference[] = []
  for (const column of new Set([...Object.keys(expected), ...Object.keys(got)])) {
    if (exempt.some((entry) => entry.table === table && entry.column === column)) continue
    // What the model does not name is null.
    const [must, is] = [expected[column] ?? null, got[column]]
    if (must === anything || JSON.stringify(must) === JSON.stringify(is)) continue
    differences.push({ table, key, column, expected: must, got: is })
  }
  return differences
}

function show(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value)
}
