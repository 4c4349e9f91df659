/** The recorded repos, from their PDS to the rows. */
import { cidForLex } from '@atproto/lex-cbor'
import { jsonToLex } from '@atproto/lex-json'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { carBytes, completeRepos, documentOf } from './corpus.ts'
import { type Pipeline, startPipeline } from './pipeline.ts'

describe('every complete repo of the recorded accounts, with INDEXER_COLLECTIONS=*', () => {
  const repos = completeRepos()
  let pipeline: Pipeline

  beforeAll(async () => {
    pipeline = await startPipeline()
    const { network, redis } = pipeline
    for (const repo of repos) {
      network.plc.serve(documentOf(repo), { pds: network.pds[0].url })
      await network.pds[0].serveCar(repo.did, carBytes(repo))
    }
    await pipeline.start('backfiller', { BACKFILLER_COLLECTIONS: '*' })
    await pipeline.start('indexer', { INDEXER_COLLECTIONS: '*' })
    for (const { did } of repos) await redis.xadd('repo_backfill', '*', ...encodeRequest({ did }))
    await pipeline.drained('repo_backfill', 'repo_backfill_group')
    await pipeline.drained('firehose_backfill', 'firehose_group')
  }, 120_000)
  afterAll(async () => {
    await pipeline[Symbol.asyncDispose]()
  })

  test('no repo is a dead letter', async () => {
    expect(await pipeline.redis.xrange('repo_backfill_dlq', '-', '+')).toEqual([])
    expect(await pipeline.redis.xrange('firehose_backfill_dlq', '-', '+')).toEqual([])
  })

  test('the rows of each repo and collection are its records, but for those refused by name', async () => {
    const rows = await pipeline.sql<{ did: string; collection: string; count: number }[]>`
      select did, split_part(uri, '/', 4) as collection, count(*)::int as count
      from record group by 1, 2`
    const missing: Record<string, number> = {}
    for (const { did, car, collections } of repos) {
      for (const [collection, expected] of Object.entries(collections)) {
        const found =
          rows.find((row) => row.did === did && row.collection === collection)?.count ?? 0
        if (found !== expected) missing[`${car} ${collection}`] = expected - found
      }
    }
    expect(missing).toEqual(refusedByName)
    expect(await refusals(pipeline)).toEqual(refusalReasons)
    const total = Object.values(refusedByName).reduce((sum, count) => sum + count, 0)
    const all = repos.reduce((sum, { records }) => sum + records, 0)
    expect(rows.reduce((sum, { count }) => sum + count, 0)).toBe(all - total)
  })

  test('the CID recomputed from each stored JSON is the row’s', async () => {
    const rows = await pipeline.sql<{ uri: string; cid: string; json: string }[]>`
      select uri, cid, json from record`
    const altered: string[] = []
    for (const { uri, cid, json } of rows) {
      const computed = await cidForLex(jsonToLex(JSON.parse(json)))
      if (computed.toString() !== cid) altered.push(uri)
    }
    expect(altered).toEqual(alteredByName)
  })

  test('each repo is known at its rev', async () => {
    const rows = await pipeline.sql`select did, "repoRev" as rev from actor_sync order by did`
    const expected = repos
      .map(({ did, rev }) => ({ did, rev }))
      .sort((a, b) => (a.did < b.did ? -1 : 1))
    expect(rows.map(({ did, rev }) => ({ did, rev }))).toEqual(expected)
  })
})

/** Records that the lexicons refuse, by CAR and collection. */
const refusedByName: Record<string, number> = {}
const refusalReasons: Record<string, number> = {}
/** Records whose text Postgres can't hold as it is. */
const alteredByName: string[] = []

/** What the group's ledger counts as refused, by reason. */
async function refusals({ redis }: Pipeline): Promise<Record<string, number>> {
  const ledger = await redis.hgetall('firehose_backfill:ledger:firehose_group')
  const refused = Object.entries(ledger).filter(([name]) => name.startsWith('refused:'))
  return Object.fromEntries(refused.map(([name, count]) => [name, Number(count)]))
}
