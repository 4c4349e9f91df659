/** Walking a table in the order of its key, a page at a time: what every check of the doctor is made of. */
import type { Sql, Transaction } from '../../shared/postgres.ts'
import type { ApplyOptions } from '../apply.ts'
import type { Key } from '../rules/keys.ts'
import { quoted } from '../write.ts'

/** One look at a page. */
export interface Page {
  /** Where the next page begins; null after the last one. */
  after: string | null
  seen: number
  /** How much was wrong, by kind. */
  found: Readonly<Record<string, number>>
  /** What the rules have to look at once the page is committed. */
  left?: readonly Key[]
}

/** What is to be looked at. */
export interface Turn {
  /** The page after this place; '' is the beginning. */
  after: string
  size: number
  /** Whether what is found is healed. */
  repair: boolean
}

/** A walk through what one table holds. */
export interface Walk {
  /** Of its own: the name under which it is continued. */
  name: string
  /** The table, for an estimate of how long it takes. */
  table: string
  page: (sql: Transaction, turn: Turn) => Promise<Page>
}

/** What walks are made for. */
export interface Patient {
  apply: ApplyOptions
  /** The columns of the database's own tables: others may have added some, or lack some. */
  columns: readonly { table: string; name: string; generated: boolean }[]
}

export interface PageOfRows<R> {
  rows: readonly R[]
  after: string | null
}

/** The next rows of a table in the order of its key: the columns of the key and `what` else. */
export async function pageOf<R extends object>(
  sql: Transaction | Sql,
  from: { table: string; key: readonly string[]; what: string; join?: string; size: number },
  after: string,
): Promise<PageOfRows<R>> {
  const { table, key, what, join = '', size } = from
  const keys = key.map((column) => `t.${quoted(column)}`)
  const values = key.map((_, index) =>
    table === 'notification' ? '$1::bigint' : `$${index + 1}::text`,
  )
  const condition = after === '' ? '' : `where (${keys.join(', ')}) > (${values.join(', ')})`
  const rows = await sql.unsafe<(R & Record<string, unknown>)[]>(
    `select ${keys.join(', ')}, ${what} from ${quoted(table)} t ${join} ${condition}
     order by ${keys.join(', ')} limit ${size}`,
    after === '' ? [] : (JSON.parse(after) as string[]),
  )
  const last = rows.at(-1)
  const more = rows.length === size && last !== undefined
  return { rows, after: more ? JSON.stringify(key.map((column) => String(last[column]))) : null }
}

/** The next distinct values of an indexed column, found without reading every row. */
export async function distinctPage(
  sql: Transaction,
  from: { table: string; column: string; size: number },
  after: string,
): Promise<PageOfRows<string>> {
  const { table, column, size } = from
  const next = (than: string) =>
    `select n.${quoted(column)} as key from ${quoted(table)} n
     where n.${quoted(column)} > ${than} order by n.${quoted(column)} limit 1`
  const rows = await sql.unsafe<{ key: string }[]>(
    `with recursive k as ((${next('$1')}) union all
       select (${next('k.key')}) from k where k.key is not null)
     select key from k where key is not null limit ${size}`,
    [after],
  )
  const keys = rows.map(({ key }) => key)
  return { rows: keys, after: keys.length === size ? (keys.at(-1) ?? null) : null }
}
