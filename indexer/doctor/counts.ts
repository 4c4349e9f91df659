/**
 * Counters that differ from a recount of the rows. Comparing is one statement: rows and counters
 * change in one transaction, so what differs is wrong. Setting it right locks the counters, in order
 * and last, as the indexers do, and counts in a later statement, which sees what they committed.
 */
import type { Transaction } from '../../shared/postgres.ts'
import type { Collection, Count } from '../collection.ts'
import { compareText } from '../fold.ts'
import { quoted } from '../write.ts'
import { distinctPage, type PageOfRows, pageOf, type Turn, type Walk } from './walk.ts'

type Counted = Count & { rows: string }

const keyOf = { post_agg: 'uri', profile_agg: 'did' } as const

/** A walk over each table of counters, and one for the keys of each counter, which may have no row. */
export function walkCounts(collections: readonly Collection[]): Walk[] {
  const counters = collections.flatMap(({ rows }) => [
    ...(rows?.counts ?? []).map((count) => ({ ...count, rows: rows?.table ?? '' })),
    ...(rows?.children ?? []).flatMap(({ table, counts = [] }) =>
      counts.map((count) => ({ ...count, rows: table })),
    ),
  ])
  const all = (table: Count['table']) => counters.filter((counter) => counter.table === table)
  const stored = (Object.keys(keyOf) as Count['table'][]).map((table) => {
    const key = keyOf[table]
    return walk(`counts of ${table}`, table, all(table), async (sql, { after, size }) => {
      const place = { table, key: [key], what: '0', size }
      const page = await pageOf<Record<string, string>>(sql, place, after)
      return { ...page, rows: page.rows.map((row) => String(row[key])) }
    })
  })
  const missing = counters.map((counter) =>
    walk(
      `keys of ${counter.column}`,
      counter.rows,
      all(counter.table),
      async (sql, { after, size }) => {
        const place = { table: counter.rows, column: counter.key, size }
        const page = await distinctPage(sql, place, after)
        return { ...page, rows: await without(sql, counter.table, page.rows) }
      },
    ),
  )
  return [...stored, ...missing]
}

function walk(
  name: string,
  table: string,
  counters: readonly Counted[],
  keysFrom: (sql: Transaction, turn: Turn) => Promise<PageOfRows<string>>,
): Walk {
  return {
    name,
    table,
    page: async (sql, turn) => {
      const { rows: keys, after } = await keysFrom(sql, turn)
      const wrong = await miscounted(sql, counters, keys)
      if (turn.repair && wrong.length > 0) await recount(sql, counters, wrong)
      return { after, seen: keys.length, found: { counts: wrong.length } }
    },
  }
}

async function without(sql: Transaction, table: Count['table'], keys: readonly string[]) {
  const found = await sql.unsafe<{ key: string }[]>(
    `select k.key from unnest($1::text[]) as k(key)
     where not exists (select from ${table} a where a.${keyOf[table]} = k.key)`,
    [keys as string[]],
  )
  return found.map(({ key }) => key)
}

const recounted = ({ rows, key, unless }: Counted, at: string) =>
  `(select count(*) from ${quoted(rows)} c where c.${quoted(key)} = ${at}
    ${unless === undefined ? '' : `and c.${quoted(unless)} is not true`})`

async function miscounted(
  sql: Transaction,
  counters: readonly Counted[],
  keys: readonly string[],
): Promise<string[]> {
  const [counter] = counters
  if (counter === undefined || keys.length === 0) return []
  const { table } = counter
  const differs = counters.map(
    (one) => `coalesce(a.${quoted(one.column)}, 0) <> ${recounted(one, 'k.key')}`,
  )
  const found = await sql.unsafe<{ key: string }[]>(
    `select k.key from unnest($1::text[]) as k(key) left join ${table} a on a.${keyOf[table]} = k.key
     where ${differs.join(' or ')}`,
    [keys as string[]],
  )
  return found.map(({ key }) => key).sort(compareText)
}

async function recount(
  sql: Transaction,
  counters: readonly Counted[],
  keys: readonly string[],
): Promise<void> {
  const table = counters[0]?.table ?? 'post_agg'
  const key = keyOf[table]
  // The update locks the row, as a counting transaction would, and changes nothing.
  await sql.unsafe(
    `insert into ${table} as a (${key}) select unnest($1::text[])
     on conflict (${key}) do update set ${key} = a.${key}`,
    [keys as string[]],
  )
  const set = counters.map((one) => `${quoted(one.column)} = ${recounted(one, `a.${key}`)}`)
  await sql.unsafe(`update ${table} a set ${set.join(', ')} where a.${key} = any($1::text[])`, [
    keys as string[],
  ])
}
