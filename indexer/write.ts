/** The few set-based statements that every table is written with. */

import type { Transaction } from '../shared/postgres.ts'
import type { Row } from './collection.ts'

/** What a statement returned. */
export type Returned = Readonly<Record<string, unknown>>

/** A name as SQL reads it. Names come from the code, never from upstream. */
export function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

const listed = (names: readonly string[]) => names.map(quoted).join(', ')

/** Rows as a relation that SQL can select from; `jsonColumns` are jsonb, all others text. */
export function relation(columns: readonly string[], jsonColumns: readonly string[] = []): string {
  const typed = columns.map(
    (name) => `${quoted(name)} ${jsonColumns.includes(name) ? 'jsonb' : 'text'}`,
  )
  return `json_to_recordset($1::text::json) as r(${typed.join(', ')})`
}

function wanted(columns: readonly string[] | '*'): string {
  if (columns === '*') return 'returning *'
  return columns.length > 0 ? `returning ${listed(columns)}` : ''
}

export interface Insert {
  table: string
  rows: readonly Row[]
  json?: readonly string[]
  returning?: readonly string[]
  /** What follows `on conflict`; by default such a row is left out. Null: there is none, and looking costs time. */
  onConflict?: string | null
}

/** Inserts rows that all have the columns of the first, and returns what was really inserted. */
export async function insertRows(sql: Transaction, insert: Insert): Promise<readonly Returned[]> {
  const { table, rows, json = [], returning = ['uri'], onConflict = 'do nothing' } = insert
  const [first] = rows
  if (first === undefined) return []
  const columns = Object.keys(first)
  const names = listed(columns)
  return await sql.unsafe(
    `insert into ${quoted(table)} (${names}) select ${names} from ${relation(columns, json)}
     ${onConflict === null ? '' : `on conflict ${onConflict}`} ${wanted(returning)}`,
    [JSON.stringify(rows)],
  )
}

/** Whether a statement failed because its key is another row's. */
export function isTaken(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === '23505'
}

/** Deletes the rows whose `key` is one of `values` and returns these columns of them, or all. */
export async function deleteRows(
  sql: Transaction,
  table: string,
  key: string,
  values: readonly string[],
  returning: readonly string[] | '*' = [key],
): Promise<readonly Returned[]> {
  if (values.length === 0) return []
  return await sql.unsafe(
    `delete from ${quoted(table)} where ${quoted(key)} = any($1::text[]) ${wanted(returning)}`,
    [values as string[]],
  )
}
