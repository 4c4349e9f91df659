/** SIGKILL of each worker while it has work in hand, again and again: the rows come out the same. */
import type { Sql, TransactionSql } from 'postgres'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import {
  carBytes,
  completeRepos,
  corpusDocuments,
  documentOf,
  type RecordedRepo,
} from './corpus.ts'
import { sharedFrames } from './data.ts'
import { type Pipeline, type RunningWorker, type Service, startPipeline } from './pipeline.ts'

const kills = 10
/** Small batches, so that there is always something in hand. */
const smallBatches = {
  INGESTER_BATCH_SIZE: '5',
  INDEXER_BATCH_SIZE: '10',
  INDEXER_CONCURRENCY: '20',
  BACKFILLER_CONCURRENCY: '2',
  BACKFILLER_BATCH_SIZE: '20',
  INDEXER_COLLECTIONS: '*',
  BACKFILLER_COLLECTIONS: '*',
}

let pipeline: Pipeline
beforeEach(async () => {
  pipeline = await startPipeline()
})
afterEach(async () => {
  await pipeline[Symbol.asyncDispose]()
})

describe('the recorded frames', () => {
  /** What an undisturbed run leaves in the tables, made once. */
  let undisturbed: Promise<Tables> | undefined

  test('without a kill they make the rows that the other runs are compared with', async () => {
    expect((await cleanRun())['record']?.length).toBe(98)
  })

  test('ten kills of the ingester with frames in hand change no row', async () => {
    await serveFrames()
    await pipeline.start('indexer', smallBatches)
    const playing = pipeline.network.relay.play(frames(), { rate: 15 })
    await killAgainAndAgain('ingester', async () => {
      const { lastSeq } = pipeline.network.relay
      return lastSeq > 0 && (await cursor()) < lastSeq
    })
    await playing
    await framesDrained()
    expect(await tablesOf(pipeline.sql)).toEqual(await cleanRun())
    await nothingIsPending()
  })

  test('ten kills of the indexer with entries in hand change no row', async () => {
    await serveFrames()
    await pipeline.start('ingester', { ...smallBatches, INGESTER_MODE: 'firehose' })
    await pipeline.network.relay.play(frames())
    await expect.poll(cursor, { timeout: 60_000 }).toBe(pipeline.network.relay.lastSeq)
    await killInTheMiddleOfATransaction('firehose_live')
    await framesDrained()
    expect(await tablesOf(pipeline.sql)).toEqual(await cleanRun())
    await nothingIsPending()
  })

  function cleanRun(): Promise<Tables> {
    undisturbed ??= withPipeline(async () => {
      await serveFrames()
      await pipeline.start('ingester', { INGESTER_MODE: 'firehose' })
      await pipeline.start('indexer')
      await pipeline.network.relay.play(frames())
      await framesDrained()
      return tablesOf(pipeline.sql)
    })
    return undisturbed
  }
})

describe('the recorded repos', () => {
  /** Enough of them to be killed in, and few enough to be quick. */
  const repos = completeRepos().filter(({ records }) => records < 1_000)
  let undisturbed: Promise<Tables> | undefined

  test('ten kills of the backfiller with repos in hand change no row', async () => {
    await serveRepos(repos)
    const slow = { kind: 'slow', bytesPerSecond: 100_000 } as const
    const fault = pipeline.network.pds[0].fault({ method: 'com.atproto.sync.getRepo' }, slow, 40)
    await pipeline.start('indexer', smallBatches)
    await request(repos)
    await killAgainAndAgain('backfiller', async () => {
      return (await pipeline.pending('repo_backfill', 'repo_backfill_group')) > 0
    })
    expect(fault.fired).toBeGreaterThan(0)
    fault.clear()
    await reposDrained()
    expect(await tablesOf(pipeline.sql)).toEqual(await cleanRun())
    await nothingIsPending()
  })

  test('ten kills of the indexer with entries in hand change no row', async () => {
    await serveRepos(repos)
    await pipeline.start('backfiller', smallBatches)
    await request(repos)
    await pipeline.drained('repo_backfill', 'repo_backfill_group')
    await killInTheMiddleOfATransaction('firehose_backfill')
    await reposDrained()
    expect(await tablesOf(pipeline.sql)).toEqual(await cleanRun())
    await nothingIsPending()
  })

  function cleanRun(): Promise<Tables> {
    undisturbed ??= withPipeline(async () => {
      await serveRepos(repos)
      await pipeline.start('backfiller', smallBatches)
      await pipeline.start('indexer', smallBatches)
      await request(repos)
      await reposDrained()
      return tablesOf(pipeline.sql)
    })
    return undisturbed
  }
})

/** Runs the work in a pipeline of its own, beside the test's. */
async function withPipeline<T>(work: () => Promise<T>): Promise<T> {
  const before = pipeline
  await using own = await startPipeline()
  pipeline = own
  try {
    return await work()
  } finally {
    pipeline = before
  }
}

function frames(): Uint8Array[] {
  return sharedFrames('firehose/jetstream-corpus/frames.bin')
}

async function serveFrames(): Promise<void> {
  const { plc, pds } = pipeline.network
  for (const document of corpusDocuments()) plc.serve(document, { pds: pds[0].url })
}

async function serveRepos(repos: readonly RecordedRepo[]): Promise<void> {
  const { plc, pds } = pipeline.network
  for (const repo of repos) {
    plc.serve(documentOf(repo), { pds: pds[0].url })
    await pds[0].serveCar(repo.did, carBytes(repo))
  }
}

async function request(repos: readonly RecordedRepo[]): Promise<void> {
  for (const { did } of repos)
    await pipeline.redis.xadd('repo_backfill', '*', ...encodeRequest({ did }))
}

async function cursor(): Promise<number> {
  return Number(
    (await pipeline.redis.get(`firehose_live:cursor:${pipeline.network.relay.host}`)) ?? 0,
  )
}

async function framesDrained(): Promise<void> {
  await expect.poll(cursor, { timeout: 60_000 }).toBe(pipeline.network.relay.lastSeq)
  await pipeline.drained('firehose_live', 'firehose_group')
}

async function reposDrained(): Promise<void> {
  await pipeline.drained('repo_backfill', 'repo_backfill_group')
  await pipeline.drained('firehose_backfill', 'firehose_group')
}

/** Kills the worker ten times while `busy`, which must still hold after the kill; leaves one running. */
async function killAgainAndAgain(service: Service, busy: () => Promise<boolean>): Promise<void> {
  let counted = 0
  for (let attempt = 0; counted < kills && attempt < 5 * kills; attempt += 1) {
    const worker = await startKilled(service)
    await expect.poll(busy, { timeout: 60_000, interval: 5 }).toBe(true)
    await worker.kill()
    if (await busy()) counted += 1
  }
  expect(counted).toBe(kills)
  await startKilled(service)
}

/** Holds the indexer's transaction by a lock, so that every kill finds it in the middle of one. */
async function killInTheMiddleOfATransaction(stream: string): Promise<void> {
  for (let kill = 0; kill < kills; kill += 1) {
    const worker = await startKilled('indexer')
    await pipeline.sql.begin(async (sql) => {
      await sql`lock table record in access exclusive mode`
      await expect.poll(() => waitingForRecord(sql), { timeout: 60_000, interval: 5 }).toBe(true)
      await worker.kill()
      expect(await pipeline.pending(stream, 'firehose_group')).toBeGreaterThan(0)
    })
  }
  await startKilled('indexer')
}

async function waitingForRecord(sql: TransactionSql): Promise<boolean> {
  const rows = await sql`
    select 1 from pg_locks where not granted and relation = 'bsky.record'::regclass`
  return rows.length > 0
}

function startKilled(service: Service): Promise<RunningWorker> {
  const mode: Record<string, string> = service === 'ingester' ? { INGESTER_MODE: 'firehose' } : {}
  return pipeline.start(service, { ...smallBatches, ...mode })
}

async function nothingIsPending(): Promise<void> {
  const { redis } = pipeline
  for (const stream of ['firehose_live', 'firehose_backfill', 'repo_backfill']) {
    const groups = (await redis.exists(stream))
      ? ((await redis.xinfo('GROUPS', stream)) as unknown[][])
      : []
    for (const group of groups) expect(group[group.indexOf('pending') + 1]).toBe(0)
    expect(await redis.exists(`${stream}_dlq`)).toBe(0)
  }
}

type Tables = Record<string, Record<string, unknown>[]>

/** Every row of the tables that the indexer writes, but for what depends on when it ran. */
async function tablesOf(sql: Sql): Promise<Tables> {
  const names = await sql<{ name: string }[]>`
    select table_name as name from information_schema.tables
    where table_schema = 'bsky' and table_type = 'BASE TABLE' order by 1`
  const tables: Tables = {}
  for (const { name } of names) {
    if (depends.has(name)) continue
    const rows = await sql<{ row: Record<string, unknown> }[]>`
      select to_jsonb(t) as row from ${sql(`bsky.${name}`)} t`
    tables[name] = rows
      .map(({ row }) => withoutTimes(row))
      .sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
  }
  return tables
}

/** Tables about the run itself, not about the network. */
const depends = new Set(['position', 'sluice_migration'])

/** `indexedAt` of a backfilled record is when it was fetched, and `sortAt` is made of it. */
function withoutTimes(row: Record<string, unknown>): Record<string, unknown> {
  const { indexedAt: _indexedAt, sortAt: _sortAt, deletedAt: _deletedAt, id: _id, ...rest } = row
  return rest
}
