/** A network in which accounts are deleted: of them nothing is left, and all others' rows are the model's. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { miscounts } from '../indexer/testing.ts'
import { createWorld } from '../simulator/living.ts'
import { compareWithModel, describeDifferences } from '../simulator/model/compare.ts'
import { createHeard } from '../simulator/model/heard.ts'
import { createModel } from '../simulator/model.ts'
import { eventually, type Pipeline, startPipeline } from './pipeline.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

const heard = createHeard()
let pipeline: Pipeline
let gone: string[]

beforeAll(async () => {
  pipeline = await startPipeline({ seed: 'deletion', pds: 2, onEvent: heard.note })
  const { network, redis, sql } = pipeline
  await pipeline.start('indexer')
  await pipeline.start('ingester', { INGESTER_LABELER_HOSTS: network.labeler.url })
  const { relay } = network
  const ingested = () =>
    eventually(() => redis.get(`firehose_live:cursor:${relay.host}`), String(relay.lastSeq))
  const world = createWorld(network, { changesEvery: 2, beforeChange: ingested })
  await world.populate({ accounts: 14, older: 0, history: 0 })
  await world.live({ rate: 1e6, signal: AbortSignal.timeout(80_000), commits: 500 })
  // Those who were there from the beginning leave too, with and without their DIDs.
  for (const [index, did] of [...heard.revs.keys()].slice(0, 4).entries()) {
    const isThere = heard.accounts.get(did)?.status !== 'deleted'
    if (isThere) await network.deleteAccount(did, { identity: index % 2 === 0 })
  }
  await ingested()
  await pipeline.drained('firehose_live', 'firehose_group')
  await eventually(async () => (await sql`select from account_purge`).length, 0)
  await eventually(async () => (await sql`select from reconcile`).length, 0)
  gone = [...heard.accounts].flatMap(([did, { status }]) => (status === 'deleted' ? [did] : []))
})
afterAll(() => pipeline[Symbol.asyncDispose]())

test('nothing of a deleted account is left', async () => {
  expect(gone.length).toBeGreaterThan(2)
  const { sql } = pipeline
  for (const table of ['record', 'actor', 'actor_sync', 'record_tombstone'] as const) {
    expect(await sql`select did from ${sql(table)} where did = any(${gone})`).toEqual([])
  }
  expect(await sql`select did from notification where author = any(${gone})`).toEqual([])
})

/** What is kept of the account itself, so that it stays away. */
const memory = ['actor', 'actor_sync', 'repo_sync', 'account_event', 'record_tombstone']

test('the rows of all others are those of the model, and so are their counters', async () => {
  const { sql, network } = pipeline
  const differences = await compareWithModel(sql, createModel(network, { heard }))
  const ofGone = (key: string) => gone.some((did) => key.includes(did))
  const others = differences.filter(({ table, key }) => {
    // Whether somebody was told before or after the purge depends on when it was.
    return !(memory.includes(table) || table === 'notification') || !ofGone(key)
  })
  expect(describeDifferences(others)).toBe('')
  expect(await miscounts(sql as never)).toEqual([])
})
