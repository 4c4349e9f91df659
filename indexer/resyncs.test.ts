import { afterAll, beforeAll, expect, test } from 'vitest'
import { decodeRequest } from '../shared/events.ts'
import { testRedis } from '../test/servers/redis.ts'
import { askForRepos } from './resyncs.ts'
import { did, type TestIndexer, testIndexer } from './testing.ts'

let indexer: TestIndexer
let server: Awaited<ReturnType<typeof testRedis>>
beforeAll(async () => {
  indexer = await testIndexer()
  server = await testRedis()
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
  await indexer[Symbol.asyncDispose]()
})

test('the repo of an account that is back is asked for once', async () => {
  const { redis } = server
  const alice = did('alice')
  const account = { type: 'account', seq: 1, did: alice } as const
  await indexer.applyEach([
    { ...account, time: '2026-02-01T00:00:00.000Z', active: false, status: 'deactivated' },
    { ...account, time: '2026-02-02T00:00:00.000Z', active: true, status: null },
  ])
  const options = { redis, sql: indexer.sql, schema: 'bsky' }
  expect(await askForRepos(options)).toBe(1)
  expect(await askForRepos(options)).toBe(0)
  const requests = await redis.xrange('repo_backfill', '-', '+')
  expect(requests.map(([, fields]) => decodeRequest(fields))).toEqual([
    { did: alice, status: null, active: true, reason: 'resync' },
  ])
})
