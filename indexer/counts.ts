/** Counters: the deltas of the rows that really came and went, added once, at the end. */
import type { Transaction } from '../shared/postgres.ts'
import type { Collection, Count } from './collection.ts'
import { compareText } from './fold.ts'
import { columnar, quoted, type Returned } from './write.ts'

/** The key of each aggregate table, in the order in which the tables are locked. */
const tables = { post_agg: 'uri', profile_agg: 'did' } as const
type Table = keyof typeof tables

/** Deltas by table, key and column. */
export class Deltas {
  readonly #byTable: Record<Table, Map<string, Record<string, number>>> = {
    post_agg: new Map(),
    profile_agg: new Map(),
  }

  /** Counts rows in (`by` 1) or out (`by` -1). */
  add(counts: readonly Count[] | undefined, rows: readonly Returned[], by: 1 | -1): void {
    for (const { table, column, key, unless } of counts ?? []) {
      for (const row of rows) {
        const at = row[key]
        if (typeof at !== 'string' || (unless !== undefined && row[unless] === true)) continue
        const deltas = this.#byTable[table].get(at) ?? {}
        deltas[column] = (deltas[column] ?? 0) + by
        this.#byTable[table].set(at, deltas)
      }
    }
  }

  /** The deltas of a table that are not all zero, sorted by key. */
  of(table: Table): readonly (readonly [string, Readonly<Record<string, number>>])[] {
    return [...this.#byTable[table]]
      .filter(([, deltas]) => Object.values(deltas).some((delta) => delta !== 0))
      .sort(([a], [b]) => compareText(a, b))
  }
}

/** The counters that the table of collections feeds, by aggregate table. */
export function countersOf(collections: readonly Collection[]): Record<Table, string[]> {
  const counts = collections.flatMap(({ rows }) => [
    ...(rows?.counts ?? []),
    ...(rows?.children ?? []).flatMap((child) => child.counts ?? []),
  ])
  const columnsOf = (table: Table) => [
    ...new Set(counts.filter((count) => count.table === table).map((count) => count.column)),
  ]
  return { post_agg: columnsOf('post_agg'), profile_agg: columnsOf('profile_agg') }
}

/**
 * Adds the deltas: one statement a table, keys in order, so that no two transactions deadlock. It
 * belongs last before the commit, so that the rows of famous posts are held shortest.
 */
export async function addCounts(
  sql: Transaction,
  deltas: Deltas,
  counters: Record<Table, readonly string[]>,
): Promise<void> {
  for (const table of Object.keys(tables) as Table[]) {
    const rows = deltas.of(table)
    if (rows.length === 0) continue
    const key = tables[table]
    const columns = counters[table]
    const values = columns.map((name) => `coalesce(r.${quoted(name)}::bigint, 0)`)
    const sums = columns.map(
      (name) => `${quoted(name)} = a.${quoted(name)} + excluded.${quoted(name)}`,
    )
    const { relation, parameters } = columnar(
      [key, ...columns],
      rows.map(([at, delta]) => ({ [key]: at, ...delta })),
    )
    await sql.unsafe(
      `insert into ${table} as a (${[key, ...columns].map(quoted).join(', ')})
       select r.${key}, ${values.join(', ')} from ${relation}
       on conflict (${key}) do update set ${sums.join(', ')}`,
      parameters,
    )
  }
}
