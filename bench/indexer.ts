/**
 * How many events a second the indexer applies to Postgres, and what each costs: a mix like the
 * network's, in batches of several sizes. `node bench/indexer.ts [events] [database url]`.
 */
import { pino } from 'pino'
import { migrate } from '../migrations/migrate.ts'
import { connectPostgres } from '../shared/postgres.ts'
import { measure, type Run, withPostgres } from './engine.ts'
import { history } from './mix.ts'

const schema = 'bsky'
const count = Number(process.argv[2] ?? 30_000)
const runs: Run[] = [
  { batchSize: 100, transactions: 1 },
  { batchSize: 50, transactions: 2 },
  { batchSize: 500, transactions: 1 },
  { batchSize: 500, transactions: 2 },
  { batchSize: 500, transactions: 3 },
  { batchSize: 2_000, transactions: 2 },
]

await withPostgres(process.argv[3], async (databaseUrl) => {
  await migrate({ databaseUrl, schema })
  await using sql = connectPostgres({ databaseUrl, poolSize: 4, log: pino({ level: 'silent' }) })
  const results: Awaited<ReturnType<typeof measure>>[] = []
  for (const [index, run] of runs.entries()) {
    results.push(await measure(sql, schema, [...history(count, index * count)], run))
  }
  console.table(results)
})
