/** The recorded repos, from their PDS to the rows. */
import { cidForLex } from '@atproto/lex-cbor'
import { jsonToLex } from '@atproto/lex-json'
import { MemoryBlockstore, Repo, readCarWithRoot } from '@atproto/repo'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { type Pipeline, startPipeline } from './pipeline.ts'
import { carOf, completeRepos, documentOf, type RecordedRepo } from './recorded-repos.ts'

describe('every complete repo of the recorded accounts, with INDEXER_COLLECTIONS=*', () => {
  const repos = completeRepos
  let pipeline: Pipeline

  beforeAll(async () => {
    pipeline = await startPipeline()
    const { network, redis } = pipeline
    for (const repo of repos) {
      network.plc.serve(documentOf(repo), { pds: network.pds[0].url })
      await network.pds[0].serveCar(repo.did, carOf(repo))
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

  test('every record is a row, but for those refused by name', async () => {
    const rows = await pipeline.sql<{ uri: string; cid: string }[]>`select uri, cid from record`
    const stored = new Map(rows.map(({ uri, cid }) => [uri, cid]))
    const missing: string[] = []
    let expected = 0
    for (const repo of repos) {
      for await (const { uri, cid } of recordsOf(repo)) {
        expected += 1
        if (stored.get(uri) !== cid) missing.push(uri)
      }
    }
    expect(expected).toBe(repos.reduce((sum, { records }) => sum + records, 0))
    expect(missing.sort()).toEqual(Object.keys(refused).sort())
    expect(rows.length).toBe(expected - missing.length)
    expect(await refusals(pipeline)).toEqual({ 'refused:lexicon': 2, 'refused:foreign-post': 3 })
  })

  test('the counts of each repo and collection are those that were recorded with it', async () => {
    const rows = await pipeline.sql<{ did: string; collection: string; count: number }[]>`
      select did, split_part(uri, '/', 4) as collection, count(*)::int as count
      from record group by 1, 2`
    const counted = Object.fromEntries(
      rows.map((row) => [`${row.did} ${row.collection}`, row.count]),
    )
    const expected: Record<string, number> = {}
    for (const { did, collections } of repos) {
      for (const [collection, count] of Object.entries(collections)) {
        expected[`${did} ${collection}`] = count - refusedIn(did, collection)
      }
    }
    expect(counted).toEqual(expected)
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

const dart = 'at://did:plc:iijrtk7ocored6zuziwmqq3c/app.bsky.feed'
/** The records that are not stored, each with its reason. */
const refused: Record<string, string> = {
  [`${dart}.post/3jqgpvonvpd25`]: 'lexicon: an image is a blob of the form before 2023',
  [`${dart}.post/3jqoade2lik2y`]: 'lexicon: an image is a blob of the form before 2023',
  [`${dart}.threadgate/3kchyw7oyew2x`]: 'foreign-post: its rkey is not that of its post',
  [`${dart}.threadgate/3kchzwpff2k2f`]: 'foreign-post: its rkey is not that of its post',
  [`${dart}.threadgate/3kci2br5b2g2x`]: 'foreign-post: its rkey is not that of its post',
}

function refusedIn(did: string, collection: string): number {
  const prefix = `at://${did}/${collection}/`
  return Object.keys(refused).filter((uri) => uri.startsWith(prefix)).length
}

/** The records of a CAR as the reference library reads them. */
async function* recordsOf(recorded: RecordedRepo): AsyncGenerator<{ uri: string; cid: string }> {
  const { root, blocks } = await readCarWithRoot(carOf(recorded))
  const repo = await Repo.load(new MemoryBlockstore(blocks), root)
  for await (const { collection, rkey, cid } of repo.walkRecords()) {
    yield { uri: `at://${recorded.did}/${collection}/${rkey}`, cid: cid.toString() }
  }
}

/** Records whose text Postgres can't hold as it is. */
const alteredByName: string[] = []

/** What the group's ledger counts as refused, by reason. */
async function refusals({ redis }: Pipeline): Promise<Record<string, number>> {
  const ledger = await redis.hgetall('firehose_backfill:ledger:firehose_group')
  const refused = Object.entries(ledger).filter(([name]) => name.startsWith('refused:'))
  return Object.fromEntries(refused.map(([name, count]) => [name, Number(count)]))
}
