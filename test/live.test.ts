/** The real relay frames, from the relay's socket to the rows. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { corpusDocuments, corpusFrames, expectedCommits } from './corpus.ts'
import { eventually, type Pipeline, type RunningWorker, startPipeline } from './pipeline.ts'

describe('the 100 recorded frames of a production relay', () => {
  let pipeline: Pipeline
  let ingester: RunningWorker

  beforeAll(async () => {
    pipeline = await startPipeline()
    const { network } = pipeline
    for (const document of corpusDocuments())
      network.plc.serve(document, { pds: network.pds[0].url })
    ingester = await pipeline.start('ingester', { INGESTER_MODE: 'firehose' })
    await pipeline.start('indexer')
    await network.relay.play(corpusFrames())
    await eventually(
      () => pipeline.redis.get(cursorKey(network.relay.host)),
      String(network.relay.lastSeq),
    )
    await pipeline.drained('firehose_live', 'firehose_group')
  })
  afterAll(async () => {
    await pipeline[Symbol.asyncDispose]()
  })

  test('every record is a row, equal field by field and CID by CID to what Jetstream emitted', async () => {
    const rows = await pipeline.sql`select uri, cid, json from record order by uri`
    const expected = expectedCommits()
      .filter(
        ({ operation, collection }) =>
          operation !== 'delete' && collection !== 'fm.teal.alpha.actor.status',
      )
      .map(({ uri, cid, record }) => ({ uri, cid, json: record }))
      .sort((a, b) => (a.uri < b.uri ? -1 : 1))
    expect(expected).toHaveLength(98)
    expect(rows.map(({ uri, cid, json }) => ({ uri, cid, json: JSON.parse(json) }))).toEqual(
      expected,
    )
  })

  test('every signature was checked, and none was refused', async () => {
    expect(await ingester.metric('ingester_commits_verified_total')).toBe(100)
    expect(await ingester.metric('ingester_refused_total')).toBe(0)
  })

  test('what is not a row is accounted for by name: one collection out of scope, three deletes', async () => {
    expect(await ingester.metric('ingester_firehose_filtered_operations_total')).toBe(1)
    const deletes = expectedCommits().filter(({ operation }) => operation === 'delete')
    const tombstones = await pipeline.sql`select uri from record_tombstone order by uri`
    expect(tombstones.map(({ uri }) => uri)).toEqual(deletes.map(({ uri }) => uri).sort())
  })

  test('the rows of each collection are there, with their counts', async () => {
    const { sql } = pipeline
    const tables = ['like', 'repost', 'post', 'follow', 'actor_block', 'feed_item'] as const
    const counts = Object.fromEntries(
      await Promise.all(
        tables.map(async (table) => [table, (await sql`select 1 from ${sql(table)}`).length]),
      ),
    )
    expect(counts).toEqual({
      like: 69,
      repost: 12,
      post: 10,
      follow: 5,
      actor_block: 1,
      feed_item: 22,
    })
    const [likes] = await sql`select sum("likeCount")::int as likes from post_agg`
    expect(likes?.['likes']).toBe(69)
  })

  test('the ledger balances: every entry ended as exactly one thing', async () => {
    const ledger = await pipeline.redis.hgetall('firehose_live:ledger:firehose_group')
    const { base = '0', ...outcomes } = ledger
    const ended = Object.values(outcomes).reduce((sum, value) => sum + Number(value), 0)
    expect(Number(base) + 101).toBe(ended)
    expect(Object.keys(outcomes)).toEqual(['applied'])
  })
})

function cursorKey(host: string): string {
  return `firehose_live:cursor:${host}`
}
