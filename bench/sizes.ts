/**
 * What a million events leave in each table: rows, and bytes of the table and of its indexes.
 * `node bench/sizes.ts [events]`; applied to an empty database, then told per million.
 */
import { pino } from 'pino'
import { migrate } from '../migrations/migrate.ts'
import { connectPostgres } from '../shared/postgres.ts'
import { measure, shipped, withPostgres } from './engine.ts'
import { history, smallWorld } from './mix.ts'

const schema = 'bsky'
const log = pino({ level: 'silent' })
const count = Number(process.argv[2] ?? 300_000)
const million = 1e6 / count
const megabytes = (bytes: unknown) => Math.round((Number(bytes) * million) / 1e5) / 10

await withPostgres(undefined, async (databaseUrl) => {
  await migrate({ databaseUrl, schema, log })
  await using sql = connectPostgres({ databaseUrl, poolSize: shipped.transactions + 2, log })
  // As many accounts and posts for an event as there are in a network of some days.
  const world = { ...smallWorld, accounts: count / 20, posts: count / 4 }
  await measure(sql, schema, [...history(count, 0, world)], shipped)
  await sql.unsafe('vacuum analyze')
  const rows = await sql<{ name: string; rows: number; table: number; indexes: number }[]>`
    select relname as name, reltuples::bigint as rows,
      pg_table_size(oid) as "table", pg_indexes_size(oid) as indexes
    from pg_class where relnamespace = 'bsky'::regnamespace and relkind = 'r' and reltuples > 0
    order by pg_total_relation_size(oid) desc`
  const shown = rows.map(({ name, rows, table, indexes }) => ({
    table: name,
    'rows / million events': Math.round(rows * million),
    'MB of the table': megabytes(table),
    'MB of its indexes': megabytes(indexes),
    'bytes a row': Math.round((table + indexes) / rows),
  }))
  const total = rows.reduce((sum, { table, indexes }) => sum + table + indexes, 0)
  console.table(shown)
  console.log(`${count} events; all tables: ${megabytes(total)} MB a million events`)
})
