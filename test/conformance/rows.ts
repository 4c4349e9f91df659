/** Two databases row by row: what one has and the other has not. */
import type { Sql } from 'postgres'

export type Row = Readonly<Record<string, unknown>>

/** A row that only one side has, or a column in which the two sides differ. */
export type RowDifference =
  | { kind: 'only ours'; table: string; ours: Row }
  | { kind: 'only theirs'; table: string; theirs: Row }
  | { kind: 'column'; table: string; column: string; ours: Row; theirs: Row }

export interface TableResult {
  table: string
  /** Rows of ours. */
  rows: number
  differences: readonly RowDifference[]
}

export interface Side {
  sql: Sql
  schema: string
}

/** What tells rows apart where the primary key is a serial number. */
const keys: Readonly<Record<string, readonly string[]>> = {
  notification: ['recordUri', 'did', 'reason', 'reasonSubject'],
}

/** Compares these tables; a column that only ours has is not looked at. */
export async function compareTables(
  ours: Side,
  theirs: Side,
  tables: readonly string[],
): Promise<TableResult[]> {
  const results: TableResult[] = []
  for (const table of tables) {
    const key = keys[table] ?? (await primaryKey(theirs, table))
    const columns = await columnsOf(theirs, table)
    const compared = columns.filter((column) => !(table in keys && column === 'id'))
    const own = await rowsByKey(ours, table, key)
    const other = await rowsByKey(theirs, table, key)
    const differences = [...new Set([...own.keys(), ...other.keys()])].flatMap((at) =>
      compareRows(table, compared, own.get(at), other.get(at)),
    )
    results.push({ table, rows: own.size, differences })
  }
  return results
}

function compareRows(
  table: string,
  columns: readonly string[],
  ours: Row | undefined,
  theirs: Row | undefined,
): RowDifference[] {
  if (ours === undefined)
    return theirs === undefined ? [] : [{ kind: 'only theirs', table, theirs }]
  if (theirs === undefined) return [{ kind: 'only ours', table, ours }]
  return columns
    .filter((column) => JSON.stringify(ours[column]) !== JSON.stringify(theirs[column]))
    .map((column) => ({ kind: 'column', table, column, ours, theirs }))
}

/** Every row under its key; of rows under the same key, each has a number of its own. */
async function rowsByKey(
  { sql, schema }: Side,
  table: string,
  key: readonly string[],
): Promise<Map<string, Row>> {
  const rows = await sql<{ row: Row }[]>`
    select to_jsonb(t) as row from ${sql(schema)}.${sql(table)} t order by to_jsonb(t)::text`
  const found = new Map<string, Row>()
  for (const { row } of rows) {
    const at = JSON.stringify(key.map((column) => row[column]))
    let number = 0
    while (found.has(`${at}#${number}`)) number++
    found.set(`${at}#${number}`, row)
  }
  return found
}

export async function tablesOf({ sql, schema }: Side): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select table_name as name from information_schema.tables
    where table_schema = ${schema} and table_type = 'BASE TABLE' order by 1`
  return rows.map(({ name }) => name)
}

async function columnsOf({ sql, schema }: Side, table: string): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select column_name as name from information_schema.columns
    where table_schema = ${schema} and table_name = ${table} order by ordinal_position`
  return rows.map(({ name }) => name)
}

async function primaryKey({ sql, schema }: Side, table: string): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select a.attname as name from pg_index i
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
    where i.indisprimary and i.indrelid = ${`"${schema}"."${table}"`}::regclass`
  return rows.map(({ name }) => name)
}
