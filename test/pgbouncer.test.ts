/** Behind pgbouncer in transaction mode all is as without it: migrations, frames, repos, and its restart. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { corpusDocuments, corpusFrames } from './corpus.ts'
import { env } from './env.ts'
import { eventually, type Pipeline, type RunningWorker, startPipeline } from './pipeline.ts'
import { carOf, completeRepos, documentOf } from './recorded-repos.ts'
import { type Pgbouncer, startPgbouncer } from './servers/pgbouncer.ts'
import { testDatabase } from './servers/postgres.ts'
import { tablesOf } from './tables.ts'

vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 })
const settings = {
  // Small batches: many transactions, so that a restart meets some.
  INGESTER_BATCH_SIZE: '5',
  INDEXER_BATCH_SIZE: '10',
  INDEXER_CONCURRENCY: '20',
  INDEXER_COLLECTIONS: '*',
  BACKFILLER_COLLECTIONS: '*',
  INGESTER_MODE: 'firehose',
  // Handles resolve beside the batches: when is not part of the comparison.
  ENABLE_DID_RESOLUTION: 'false',
}
const repos = completeRepos.filter(({ records }) => records < 300)

let pgbouncer: Pgbouncer
beforeAll(async () => {
  pgbouncer = await startPgbouncer(inject('servers').databaseUrl)
})
afterAll(async () => {
  await pgbouncer[Symbol.asyncDispose]()
})

test('pgbouncer gives neighbouring transactions of one client different sessions', async () => {
  await using database = await testDatabase()
  const sessions = new Set<number>()
  const sql = postgres(pgbouncer.through(database.url), { max: 4, prepare: false })
  const session = async () => (await sql<{ pid: number }[]>`select pg_backend_pid() as pid`)[0]?.pid
  // Four at once, so that the pool has several sessions to choose from.
  await Promise.all(Array.from({ length: 4 }, () => sql`select pg_sleep(0.05)`))
  for (let turn = 0; turn < 8; turn += 1) sessions.add((await session()) ?? 0)
  await sql.end()
  expect(sessions.size).toBeGreaterThan(1)
})

test('of several processes that migrate at once by way of pgbouncer each migration is run by one', async () => {
  await using database = await testDatabase({ migrated: false })
  const url = pgbouncer.through(database.url)
  const outputs = await Promise.all(Array.from({ length: 4 }, () => migrateBeside(url)))
  expect(outputs.map(({ code }) => code)).toEqual([0, 0, 0, 0])
  const ran = outputs.flatMap(({ text }) => [...text.matchAll(/"migration":"([\w.]+)"/g)])
  const ledger = await database.sql`select name from sluice_migration order by name`
  expect(ledger.length).toBeGreaterThan(3)
  expect(ran.map(([, name]) => name).sort()).toEqual(ledger.map(({ name }) => name))
})

describe('the recorded frames and repos', () => {
  let direct: Pipeline
  let pooled: Pipeline

  beforeAll(async () => {
    direct = await startPipeline()
    pooled = await startPipeline({ servers: { workersDatabaseUrl: pgbouncer.through } })
  })
  afterAll(async () => {
    await pooled[Symbol.asyncDispose]()
    await direct[Symbol.asyncDispose]()
  })

  test('make the same rows by way of pgbouncer, though it restarts in the middle', async () => {
    await using expected = direct
    await serve(expected)
    await feed(expected)
    await expected.start('indexer', settings)
    await drained(expected)

    await serve(pooled)
    await feed(pooled)
    await slowTransactions(pooled)
    const indexer = await pooled.start('indexer', settings)
    await restartWhileApplying(indexer)
    await restartWhileApplying(indexer)
    await pooled.sql`drop trigger slow on record`
    await drained(pooled)
    expect(await pgbouncer.transactions()).toBeGreaterThan(20)
    expect(await tablesOf(pooled.sql)).toEqual(await tablesOf(expected.sql))
    expect((await pooled.sql`select 1 from record`).length).toBeGreaterThan(98)
    for (const stream of ['firehose_live', 'firehose_backfill', 'repo_backfill']) {
      expect(await pooled.redis.exists(`${stream}_dlq`)).toBe(0)
    }
  })

  /** Restarts it while a transaction is open, and waits until the indexer has felt it and goes on. */
  async function restartWhileApplying(indexer: RunningWorker): Promise<void> {
    const felt = () => indexer.output().split('batch failed, again soon').length
    const before = felt()
    const applying = async () => (await left()) < leftThen && (await inTransaction()) > 0
    await expect.poll(applying, fast).toBe(true)
    await pgbouncer.restart()
    await expect.poll(felt, fast).toBeGreaterThan(before)
    leftThen = await left()
    expect(leftThen).toBeGreaterThan(0)
  }

  /** Since the last restart something has been applied when less than this is left. */
  let leftThen = Number.POSITIVE_INFINITY

  /** Transactions of the indexer that are in their slow trigger at this moment. */
  async function inTransaction(): Promise<number> {
    const rows = await pooled.sql`
      select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`
    return rows.length
  }

  const fast = { timeout: 30_000, interval: 5 }
  const left = async () =>
    (await pooled.left('firehose_live', 'firehose_group')) +
    (await pooled.left('firehose_backfill', 'firehose_group'))
})

async function serve({ network }: Pipeline): Promise<void> {
  const [pds] = network.pds
  for (const document of corpusDocuments()) network.plc.serve(document, { pds: pds.url })
  for (const repo of repos) {
    network.plc.serve(documentOf(repo), { pds: pds.url })
    await pds.serveCar(repo.did, carOf(repo))
  }
}

/** Brings frames and repos onto the streams; nobody reads them yet. */
async function feed(pipeline: Pipeline): Promise<void> {
  const { network, redis } = pipeline
  await pipeline.start('ingester', settings)
  await pipeline.start('backfiller', settings)
  for (const { did } of repos) await redis.xadd('repo_backfill', '*', ...encodeRequest({ did }))
  await network.relay.play(corpusFrames())
  const cursor = `firehose_live:cursor:${network.relay.host}`
  await eventually(() => redis.get(cursor), String(network.relay.lastSeq))
  await pipeline.drained('repo_backfill', 'repo_backfill_group')
}

async function drained(pipeline: Pipeline): Promise<void> {
  await pipeline.drained('firehose_live', 'firehose_group')
  await pipeline.drained('firehose_backfill', 'firehose_group')
}

/** Makes every transaction of the indexer last, so that a restart finds it in the middle of one. */
async function slowTransactions({ sql }: Pipeline): Promise<void> {
  await sql.unsafe(`
    create function bsky.slow() returns trigger language plpgsql as
      $$ begin perform pg_sleep(0.1); return null; end $$;
    create trigger slow after insert or update or delete on bsky.record
      for each statement execute function bsky.slow()`)
}

async function migrateBeside(databaseUrl: string): Promise<{ code: number; text: string }> {
  const main = fileURLToPath(new URL('../cli/main.ts', import.meta.url))
  const child = spawn(process.execPath, [main, 'migrate'], {
    env: { PATH: env['PATH'] ?? '', DATABASE_URL: databaseUrl, LOG_LEVEL: 'info' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  const collect = (data: Buffer) => {
    text += data.toString()
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)
  const [code] = await once(child, 'close')
  return { code: Number(code), text }
}
