/** The rows that the pipeline makes are those of the simulator's model, in every table. */
import type { Redis } from 'ioredis'
import type { Sql, TransactionSql } from 'postgres'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { createWorld } from '../simulator/living.ts'
import { compareWithModel, describeDifferences, exempt } from '../simulator/model/compare.ts'
import { createHeard } from '../simulator/model/heard.ts'
import { createModel, keys, type Model } from '../simulator/model.ts'
import type { Network } from '../simulator/network.ts'
import { type EveryKind, makeEveryKind } from './every-kind.ts'
import { eventually, type Pipeline, startPipeline, wishesAsked } from './pipeline.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

/** What becomes of a deleted account's rows is not built yet. */
const deeds = { without: ['deletion'], changesEvery: 2 } as const

/** One network for both, so that what its relay told is what a backfill finds. */
describe('a network that has lived for a while', () => {
  const heard = createHeard()
  let network: Network
  let every: EveryKind
  let pipeline: Pipeline

  beforeAll(async () => {
    pipeline = await startPipeline({ seed: 'model', pds: 2, onEvent: heard.note })
    network = pipeline.network
    await pipeline.start('indexer')
    await pipeline.start('ingester', { INGESTER_LABELER_HOSTS: network.labeler.url })
    const world = createWorld(network, { ...deeds, beforeChange: () => ingested(pipeline) })
    await world.populate({ accounts: 12, older: 0, history: 0 })
    every = await makeEveryKind(network)
    await world.live({ rate: 1e6, signal: AbortSignal.timeout(100_000), commits: 600 })
  })
  afterAll(async () => {
    await pipeline[Symbol.asyncDispose]()
  })

  describe('heard from its relay', () => {
    let model: Model

    beforeAll(async () => {
      await relayRead(pipeline)
      await labelsRead(pipeline)
      await handlesResolved(pipeline)
      model = createModel(network, { heard })
    })

    test('makes the rows of the model', async () => {
      await expectModel(pipeline, model)
    })

    test('of two likes of one post by one account the lower uri has the row and counts', async () => {
      const { post, holding, waiting } = every.doubled
      const { sql } = pipeline
      const likes =
        await sql`select uri from "like" where subject = ${post.uri} and creator = ${every.bo.did}`
      expect(likes.map(({ uri }) => uri)).toEqual([holding.uri])
      const duplicates =
        await sql`select "duplicateOf" from duplicate_record where uri = ${waiting.uri}`
      expect(duplicates[0]).toEqual({ duplicateOf: holding.uri })
    })

    test('the next of the likes has the row when the first is taken back', async () => {
      const { post, like } = every.promoted
      const { sql } = pipeline
      const likes =
        await sql`select uri from "like" where subject = ${post.uri} and creator = ${every.bo.did}`
      expect(likes.map(({ uri }) => uri)).toEqual([like.uri])
    })

    test('reposts and quotes of a deleted post stay for as long as their own records', async () => {
      const { repost, quote } = every.orphaned
      const { sql } = pipeline
      expect(await sql`select type from feed_item where uri = ${repost.uri}`).toHaveLength(1)
      expect(await sql`select subject from quote where uri = ${quote.uri}`).toHaveLength(1)
    })

    test('a change of any column of any table is found', async () => {
      await inDoomed(pipeline.sql, async (sql) => {
        const changed: Record<string, string[]> = {}
        for (const table of Object.keys(keys)) changed[table] = await changeOneRow(sql, table)
        const found: Record<string, string[]> = {}
        for (const { table, column } of await compareWithModel(sql, model))
          found[table] = [...(found[table] ?? []), column].sort()
        expect(found).toEqual(changed)
      })
    })

    test('a row that is missing is found in any table, and so is one too many', async () => {
      await inDoomed(pipeline.sql, async (sql) => {
        for (const table of Object.keys(keys)) {
          const ctid = await someRow(sql, table)
          await sql.unsafe(`delete from "${table}" where ctid = $1::tid`, [ctid])
        }
        const differences = await compareWithModel(sql, model)
        const missing = differences.filter(({ got }) => got === 'no row').map(({ table }) => table)
        expect([...new Set(missing)].sort()).toEqual(Object.keys(keys).sort())
      })
      await inDoomed(pipeline.sql, async (sql) => {
        // With other keys the rows are others: each is missing, and one is too many.
        for (const [table, [key]] of Object.entries(keys)) {
          const ctid = await someRow(sql, table)
          const set = `"${key}" = "${key}" || 'x'`
          await sql.unsafe(`update "${table}" set ${set} where ctid = $1::tid`, [ctid])
        }
        const differences = await compareWithModel(sql, model)
        const extra = differences.filter(({ expected }) => expected === 'no row')
        expect(extra.map(({ table }) => table).sort()).toEqual(Object.keys(keys).sort())
      })
    })
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
  const { network, redis, drained } = pipeline
  const beforeChange = async () => {
    await ingested(pipeline)
    await drained('repo_backfill', 'repo_backfill_group')
  }
  const world = createWorld(network, { ...deeds, beforeChange })
  await world.populate({ accounts: 8, older: 6, history: 60 })
  const fetched = revsOf(network)
  await startIndexers(pipeline, 2)
  await pipeline.start('backfiller')
  await pipeline.start('ingester', { INGESTER_MODE: 'firehose' })
  await request(redis, fetched.keys())
  await world.live({ rate: 250, signal: AbortSignal.timeout(100_000), commits: 260 })
  // Once more while it goes on: what is there is confirmed, and what went meanwhile goes.
  const living = world.live({ rate: 250, signal: AbortSignal.timeout(100_000), commits: 260 })
  await request(redis, fetched.keys())
  await living
  await relayRead(pipeline)
  await wishesAsked(pipeline.sql)
  await reposFetched(pipeline)
  await handlesResolved(pipeline)
  await expectModel(pipeline, createModel(network, { heard, fetched, labels: false }))
})

async function expectModel({ sql }: Pipeline, model: Model): Promise<void> {
  expect(describeDifferences(await compareWithModel(sql, model))).toBe('')
}

/** The accounts whose hosts give their repos, with the revs that they have now. */
function revsOf(network: Network): Map<string, string> {
  const active = [...network.states()].filter(([, { active }]) => active)
  return new Map(active.map(([did, { rev }]) => [did, rev ?? '']))
}

async function request(redis: Redis, dids: Iterable<string>): Promise<void> {
  for (const did of dids) await redis.xadd('repo_backfill', '*', ...encodeRequest({ did }))
}

async function startIndexers(pipeline: Pipeline, count: number): Promise<void> {
  const names = Array.from({ length: count }, (_, number) => `indexer${number + 1}`)
  await Promise.all(names.map((name) => pipeline.start('indexer', { INDEXER_CONSUMER: name })))
}

/** Everything that the relay has is on the stream. */
async function ingested({ network, redis }: Pipeline): Promise<void> {
  const { host, lastSeq } = network.relay
  const read = async () =>
    expect(await redis.get(`firehose_live:cursor:${host}`)).toBe(String(lastSeq))
  await vi.waitFor(read, { timeout: 60_000, interval: 5 })
}

async function relayRead(pipeline: Pipeline): Promise<void> {
  await ingested(pipeline)
  await pipeline.drained('firehose_live', 'firehose_group')
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

/** Handles are looked at beside the batches, and what is left to the rules. */
async function handlesResolved({ sql }: Pipeline): Promise<void> {
  await eventually(async () => (await sql`select from reconcile`).length, 0)
}

/** Runs the work in a transaction of which nothing remains. */
async function inDoomed(sql: Sql, work: (sql: TransactionSql) => Promise<void>): Promise<void> {
  const undo = new Error('undo')
  const undone = await sql
    .begin(async (sql) => {
      await work(sql)
      throw undo
    })
    .catch((error: unknown) => error)
  if (undone !== undo) throw undone
}

/** The place of some row that is compared. */
async function someRow(sql: TransactionSql, table: string): Promise<string> {
  const is = isCompared[table] ?? 'true'
  const [row] = await sql.unsafe(`select ctid::text from "${table}" where ${is} limit 1`)
  if (row === undefined) throw new Error(`${table} has no row to change`)
  return String(row['ctid'])
}

const isCompared: Record<string, string> = {
  op_thread_reply: '"deletedAt" is null',
  post: '"replyParent" is null',
  post_agg: `"likeCount" > 0 and uri not in (
    select "replyParent" from post where "replyParent" is not null)`,
  notification: `reason in ('like', 'follow')`,
  profile_agg: '"postsCount" > 0',
}

/** Changes every compared column of one row, and gives their names. */
async function changeOneRow(sql: TransactionSql, table: string): Promise<string[]> {
  const columns = await sql<{ name: string; type: string; generated: boolean }[]>`
    select column_name as name, data_type as type, is_generated = 'ALWAYS' as generated
    from information_schema.columns where table_schema = 'bsky' and table_name = ${table}`
  const isFree = (name: string) =>
    keys[table]?.includes(name) ||
    name === 'deletedAt' ||
    exempt.some(({ table: of, column }) => of === table && column === name)
  const compared = columns.filter(({ name }) => !isFree(name))
  // What is generated changes with the columns that it is made of.
  const changes = compared.flatMap(({ name, type, generated }) =>
    generated ? [] : [`"${name}" = ${otherValue(name, type)}`],
  )
  const ctid = await someRow(sql, table)
  await sql.unsafe(`update "${table}" set ${changes.join(', ')} where ctid = $1::tid`, [ctid])
  return compared.map(({ name }) => name).sort()
}

function otherValue(column: string, type: string): string {
  if (type === 'jsonb') return `'["another"]'`
  if (type === 'boolean') return `"${column}" is not true`
  return type === 'bigint' ? `"${column}" + 1` : `coalesce("${column}", '') || 'x'`
}
