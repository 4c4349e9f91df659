/** The few set-based statements that every table is written with. */

import { randomUUID } from 'node:crypto'
import type { Transaction } from '../shared/postgres.ts'
import type { Row, Value } from './collection.ts'

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

/** What stands between the values of a column, and for null, unless a value holds them. */
const separator = '\u001f'
const absent = '\u001e'

/**
 * The same in less than half of the time that reading JSON takes: a text for each column, which are the first
 * parameters of the statement. The first column is never null.
 */
export function columnar<C extends string>(
  columns: readonly C[],
  rows: readonly Readonly<Partial<Record<C, Value>>>[],
  jsonColumns: readonly string[] = [],
): { relation: string; parameters: string[] } {
  const texts = columns.map((column) => {
    const isJson = jsonColumns.includes(column)
    return rows.map((row) => textOf(row[column], isJson))
  })
  const [between, none] = texts.some((column) => column.some(holdsMark))
    ? [randomUUID(), randomUUID()]
    : [separator, absent]
  // Without the last one, a single empty text would be read as no value.
  const joined = texts.map((column) => [...column.map((text) => text ?? none), none].join(between))

  const marks = `$${columns.length + 1}, $${columns.length + 2}`
  // In the list of what is selected they are read side by side; in `from` all would be stored first.
  const unnested = columns.map(
    (name, index) => `unnest(string_to_array($${index + 1}, ${marks})) as ${quoted(name)}`,
  )
  const selected = columns.map(
    (name) => `${quoted(name)}${jsonColumns.includes(name) ? `::jsonb as ${quoted(name)}` : ''}`,
  )
  const relation = `(select ${selected.join(', ')} from (select ${unnested.join(', ')}) as u
    where u.${quoted(columns[0] ?? '')} is not null) as r`
  return { relation, parameters: [...joined, between, none] }
}

const holdsMark = (text: string | null) =>
  text !== null && (text.includes(separator) || text === absent)

function textOf(value: Value | undefined, isJson: boolean): string | null {
  if (value === null || value === undefined) return null
  if (isJson) return JSON.stringify(value)
  return typeof value === 'string' ? value : String(value)
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
  /** A key: what has the same one as a row that is there is left out, which costs less than a conflict. */
  unless?: readonly string[]
}

/**
 * A query for the row that has the key of `r`. By the order the planner takes the index of the key, and never another one
 * of its first column, which would be read over and over where many like one post.
 */
export function holding(
  table: string,
  key: readonly string[],
  wanted: readonly string[] = key,
): string {
  const from = key.map((name, at) => `${quoted(name)} ${at === 0 ? '=' : '>='} r.${quoted(name)}`)
  const same = key.map((name) => `t.${quoted(name)} = r.${quoted(name)}`)
  return `select t.* from (select ${listed(wanted)} from ${quoted(table)}
    where ${from.join(' and ')} order by ${listed(key)} limit 1) as t where ${same.join(' and ')}`
}

/** Inserts rows that all have the columns of the first, and returns what was really inserted. */
export async function insertRows(sql: Transaction, insert: Insert): Promise<readonly Returned[]> {
  const {
    table,
    rows,
    json = [],
    returning = ['uri'],
    onConflict = 'do nothing',
    unless = [],
  } = insert
  const [first] = rows
  if (first === undefined) return []
  const columns = Object.keys(first)
  const names = listed(columns)
  const { relation, parameters } = columnar(columns, rows, json)
  const free = unless.length === 0 ? '' : `where not exists (${holding(table, unless)})`
  return await sql.unsafe(
    `insert into ${quoted(table)} (${names}) select ${names} from ${relation} ${free}
     ${onConflict === null ? '' : `on conflict ${onConflict}`} ${wanted(returning)}`,
    parameters,
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
