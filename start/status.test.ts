/** What the pipeline is measured to be. */
import { expect, test } from 'vitest'
import { testDatabase } from '../test/servers/postgres.ts'
import { testRedis } from '../test/servers/redis.ts'
import { measureRows, measureStreams } from './status.ts'

test('rows of small tables are counted, whatever the statistics know', async () => {
  await using database = await testDatabase()
  const { sql, schema } = database
  await sql`insert into ${sql(schema)}.actor (did, "indexedAt") values ('did:web:a.test', ''), ('did:web:b.test', '')`
  expect(await measureRows(sql, schema, ['record', 'actor'])).toEqual({ record: 0, actor: 2 })
})

test('entries wait until they are acknowledged, and then count once as done', async () => {
  await using server = await testRedis()
  const { redis } = server
  await redis.xgroup('CREATE', 'firehose_live', 'firehose_group', '0', 'MKSTREAM')
  await redis.xadd('firehose_live', '*', 'type', 'x')
  await redis.xadd('repo_backfill', '*', 'did', 'x')
  await redis.xadd('repo_backfill_dlq', '*', 'did', 'x')
  await redis.hset('firehose_live:ledger:firehose_group', { base: 7, applied: 2, 'refused:x': 1 })
  await redis.hset('repo_backfill:ledger:repo_backfill_group', { base: 0, applied: 4 })
  expect(await measureStreams(redis)).toEqual({
    indexed: 3,
    waiting: { live: 1, labels: 0, backfill: 0, requests: 1 },
    requestsDone: 4,
    deadLetters: 1,
  })
})
