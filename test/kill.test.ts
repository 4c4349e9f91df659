/** SIGKILL of each worker while it has work in hand, again and again: the rows come out the same. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { corpusDocuments, corpusFrames } from './corpus.ts'
import { type Pipeline, type RunningWorker, type Service, startPipeline } from './pipeline.ts'
import { carOf, completeRepos, documentOf, type RecordedRepo } from './recorded-repos.ts'
import { startProxy } from './servers/proxy.ts'
import { type Tables, tablesOf } from './tables.ts'

const kills = 10
vi.setConfig({ testTimeout: 180_000, hookTimeout: 60_000 })
/** Small batches, so that there is always something in hand. */
const smallBatches = {
  INGESTER_BATCH_SIZE: '5',
  INDEXER_BATCH_SIZE: '10',
  INDEXER_CONCURRENCY: '20',
  BACKFILLER_CONCURRENCY: '2',
  BACKFILLER_BATCH_SIZE: '20',
  INDEXER_COLLECTIONS: '*',
  BACKFILLER_COLLECTIONS: '*',
  // Handles resolve beside the batches: when is not part of the comparison.
  ENABLE_DID_RESOLUTION: 'false',
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
    await pipeline.network.relay.play(corpusFrames())
    const { hostname: host, port } = new URL(pipeline.redisUrl)
    await using redis = await startProxy({ host, port: Number(port) })
    redis.latency(20)
    const left = async () => pipeline.network.relay.lastSeq - (await cursor())
    const inHand = async () => (await left()) > 0
    const far = { INGESTER_BATCH_SIZE: '2', REDIS_URL: redis.through(pipeline.redisUrl) }
    await killAgainAndAgain('ingester', { left, inHand }, far)
    expect(redis.fired.latency).toBeGreaterThan(kills)
    await framesDrained()
    expect(await tablesOf(pipeline.sql)).toEqual(await cleanRun())
    await nothingIsPending()
  })

  test('ten kills of the indexer with entries in hand change no row', async () => {
    await serveFrames()
    await pipeline.start('ingester', { ...smallBatches, INGESTER_MODE: 'firehose' })
    await pipeline.network.relay.play(corpusFrames())
    await expect.poll(cursor, { timeout: 60_000 }).toBe(pipeline.network.relay.lastSeq)
    await slowTransactions()
    await killAgainAndAgain('indexer', workOn('firehose_live', 'firehose_group'))
    await framesDrained()
    expect(await tablesOf(pipeline.sql)).toEqual(await cleanRun())
    await nothingIsPending()
  })

  function cleanRun(): Promise<Tables> {
    undisturbed ??= withPipeline(async () => {
      await serveFrames()
      await pipeline.start('ingester', { INGESTER_MODE: 'firehose' })
      await pipeline.start('indexer', smallBatches)
      await pipeline.network.relay.play(corpusFrames())
      await framesDrained()
      return tablesOf(pipeline.sql)
    })
    return undisturbed
  }
})

describe('the recorded repos', () => {
  /** Enough of them to be killed in, and few enough to be quick. */
  const repos = completeRepos.filter(({ records }) => records < 1_000)
  let undisturbed: Promise<Tables> | undefined

  test('ten kills of the backfiller with repos in hand change no row', async () => {
    await serveRepos(repos)
    const slow = { kind: 'slow', bytesPerSecond: 50_000 } as const
    const fault = pipeline.network.pds[0].fault({ method: 'com.atproto.sync.getRepo' }, slow)
    await pipeline.start('indexer', smallBatches)
    // Asked for again and again: a resync of what has not changed changes nothing.
    for (let round = 0; round < 4; round += 1) await request(repos)
    const { left, inHand } = workOn('repo_backfill', 'repo_backfill_group')
    await killAgainAndAgain('backfiller', { left, inHand })
    expect(fault.fired).toBeGreaterThan(kills)
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
    await slowTransactions()
    await killAgainAndAgain('indexer', workOn('firehose_backfill', 'firehose_group'))
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

async function serveFrames(): Promise<void> {
  const { plc, pds } = pipeline.network
  for (const document of corpusDocuments()) plc.serve(document, { pds: pds[0].url })
}

async function serveRepos(repos: readonly RecordedRepo[]): Promise<void> {
  const { plc, pds } = pipeline.network
  for (const repo of repos) {
    plc.serve(documentOf(repo), { pds: pds[0].url })
    await pds[0].serveCar(repo.did, carOf(repo))
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

/**
 * Kills the worker ten times: each time after it has finished something, while it has more in hand.
 * What is in hand must still be so after the kill. Leaves a worker running.
 */
async function killAgainAndAgain(
  service: Service,
  work: { left: () => Promise<number>; inHand: () => Promise<boolean> },
  env: Record<string, string> = {},
): Promise<void> {
  let counted = 0
  for (let life = 0; counted < kills && life < 3 * kills; life += 1) {
    const before = await work.left()
    const worker = await startKilled(service, env)
    const due = async () => (await work.left()) < before && (await work.inHand())
    await expect.poll(due, { timeout: 60_000, interval: 2 }).toBe(true)
    await worker.kill()
    if (await work.inHand()) counted += 1
  }
  expect(counted).toBe(kills)
  await startKilled(service, env)
}

/** The group's work on the stream: in hand is what it has not acknowledged. */
function workOn(stream: string, group: string) {
  return {
    left: () => pipeline.left(stream, group),
    inHand: async () => (await pipeline.pending(stream, group)) > 0,
  }
}

/** Makes every transaction of the indexer last, so that kills find it in the middle of one. */
async function slowTransactions(): Promise<void> {
  await pipeline.sql.unsafe(`
    create function bsky.slow() returns trigger language plpgsql as
      $$ begin perform pg_sleep(0.05); return null; end $$;
    create trigger slow after insert or update or delete on bsky.record
      for each statement execute function bsky.slow()`)
}

function startKilled(service: Service, env: Record<string, string>): Promise<RunningWorker> {
  const mode: Record<string, string> = service === 'ingester' ? { INGESTER_MODE: 'firehose' } : {}
  return pipeline.start(service, { ...smallBatches, ...mode, ...env })
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
