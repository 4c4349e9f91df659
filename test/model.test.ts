/** The rows that the pipeline makes are those of the simulator's model, in every table. */
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { createWorld } from '../simulator/living.ts'
import { compareWithModel, describeDifferences } from '../simulator/model/compare.ts'
import { createHeard, type Heard } from '../simulator/model/heard.ts'
import { createModel, type Model } from '../simulator/model.ts'
import { type Network, startNetwork } from '../simulator/network.ts'
import { eventually, type Pipeline, startPipeline } from './pipeline.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

/** One network for both, so that what its relay told is what a backfill finds. */
describe('a network that has lived for a while', () => {
  let heard: Heard
  let network: Network

  beforeAll(async () => {
    heard = createHeard()
    network = await startNetwork({ seed: 'model', pds: 2, onEvent: heard.note })
    const world = createWorld(network)
    await world.populate({ accounts: 12, older: 0, history: 0 })
    await world.live({ rate: 1e6, signal: AbortSignal.timeout(60_000), commits: 1_500 })
  })
  afterAll(async () => {
    await network.close()
  })

  test('heard from its relay it makes the rows of the model', async () => {
    await using pipeline = await startPipeline({}, network)
    await pipeline.start('indexer')
    await pipeline.start('ingester', { INGESTER_LABELER_HOSTS: network.labeler.url })
    await relayRead(pipeline)
    await labelsRead(pipeline)
    await handlesResolved(pipeline)
    await expectModel(pipeline, createModel(network, { heard }))
  })

  test('fetched from its hosts it makes the rows of the model, with two indexers', async () => {
    await using pipeline = await startPipeline({}, network)
    const fetched = revsOf(network)
    await startIndexers(pipeline, 2)
    await pipeline.start('backfiller')
    await request(pipeline.redis, fetched.keys())
    await reposFetched(pipeline)
    await handlesResolved(pipeline)
    const sources = { heard: createHeard(), fetched, labels: false }
    await expectModel(pipeline, createModel(network, sources))
  })
})

test('heard and fetched while it lives, it makes the rows of the model, with two indexers', async () => {
  const heard = createHeard()
  await using pipeline = await startPipeline({ seed: 'both', pds: 2, onEvent: heard.note })
  const { network, redis } = pipeline
  const world = createWorld(network)
  await world.populate({ accounts: 8, older: 6, history: 60 })
  const fetched = revsOf(network)
  await startIndexers(pipeline, 2)
  await pipeline.start('backfiller')
  await pipeline.start('ingester', { INGESTER_MODE: 'firehose' })
  const living = world.live({ rate: 250, signal: AbortSignal.timeout(60_000), commits: 750 })
  // Everyone twice: what is fetched again later is confirmed, and what went meanwhile goes.
  await request(redis, fetched.keys())
  await request(redis, fetched.keys())
  await living
  await relayRead(pipeline)
  await reposFetched(pipeline)
  await handlesResolved(pipeline)
  await expectModel(pipeline, createModel(network, { heard, fetched, labels: false }))
})

async function expectModel({ sql }: Pipeline, model: Model): Promise<void> {
  expect(describeDifferences(await compareWithModel(sql, model))).toBe('')
}

function revsOf(network: Network): Map<string, string> {
  return new Map([...network.accounts].map(([did, { rev }]) => [did, rev ?? '']))
}

async function request(redis: Redis, dids: Iterable<string>): Promise<void> {
  for (const did of dids) await redis.xadd('repo_backfill', '*', ...encodeRequest({ did }))
}

async function startIndexers(pipeline: Pipeline, count: number): Promise<void> {
  const names = Array.from({ length: count }, (_, number) => `indexer${number + 1}`)
  await Promise.all(names.map((name) => pipeline.start('indexer', { INDEXER_CONSUMER: name })))
}

async function relayRead({ network, redis, drained }: Pipeline): Promise<void> {
  const { host, lastSeq } = network.relay
  await eventually(() => redis.get(`firehose_live:cursor:${host}`), String(lastSeq))
  await drained('firehose_live', 'firehose_group')
}

async function labelsRead({ network, redis, drained }: Pipeline): Promise<void> {
  const { host, lastSeq } = network.labeler
  await eventually(() => redis.get(`label_live:cursor:${host}`), String(lastSeq))
  await drained('label_live', 'label_group')
}

async function reposFetched({ drained }: Pipeline): Promise<void> {
  await drained('repo_backfill', 'repo_backfill_group')
  await drained('firehose_backfill', 'firehose_group')
}

/** Handles are looked at beside the batches. */
async function handlesResolved({ sql }: Pipeline): Promise<void> {
  await eventually(async () => (await sql`select from reconcile`).length, 0)
}
