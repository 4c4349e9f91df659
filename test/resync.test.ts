/** What the ingester was not sent, and what Redis lost, comes back: three workers as processes. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import type { Account } from '../simulator/account.ts'
import { type Pipeline, startPipeline } from './pipeline.ts'

const main = fileURLToPath(new URL('../cli/main.ts', import.meta.url))
const patience = { timeout: 40_000, interval: 50 }
const collection = 'app.bsky.feed.post'
const post = { $type: collection, text: 'hi', createdAt: '2026-01-01T00:00:00.000Z' }
const write = (account: Account) => account.create(collection, post)

const stored = async ({ sql }: Pipeline) =>
  (await sql<{ uri: string }[]>`select uri from record`).map(({ uri }) => uri).toSorted()
const true_ = ({ network }: Pipeline) => [...network.records().keys()].toSorted()

test('what a relay kept back, writes and deletes, is in the tables after one resync, which then is over', {
  timeout: 60_000,
}, async () => {
  await using pipeline = await startPipeline()
  const { network, redis } = pipeline
  const [account, other] = [await network.account(), await network.account()]
  const { rkey } = await write(account)
  await write(other)
  for (const worker of ['ingester', 'indexer', 'backfiller'] as const) {
    await pipeline.start(worker, worker === 'ingester' ? { INGESTER_MODE: 'firehose' } : {})
  }
  await expect.poll(() => stored(pipeline), patience).toEqual(true_(pipeline))
  account.quiet = true
  await write(account)
  await account.delete(collection, rkey)
  account.quiet = false
  await write(account)
  await write(account)
  await write(other)
  await expect.poll(() => stored(pipeline), patience).toEqual(true_(pipeline))
  await expect.poll(() => redis.exists('ingester:resyncs'), patience).toBe(0)
  expect(await redis.hget('repo_backfill:ledger:repo_backfill_group', 'applied')).toBe('1')
})

test('a Redis that was lost whole goes on from the position in Postgres, and nothing is missed', {
  timeout: 60_000,
}, async () => {
  await using pipeline = await startPipeline()
  const { network, redis, sql, environment } = pipeline
  const account = await network.account()
  await write(account)
  const settings = { INGESTER_MODE: 'firehose', INGESTER_START: 'live' }
  const ingester = await pipeline.start('ingester', { ...settings, INGESTER_START: 'oldest' })
  const indexer = await pipeline.start('indexer')
  const positions = () => sql<{ seq: string }[]>`select seq::text as seq from position`
  const seq = String(network.relay.lastSeq)
  await expect.poll(positions, patience).toEqual([{ seq }])
  await Promise.all([ingester.stop(), indexer.stop()])
  await write(account)
  await redis.flushdb()
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [main, 'resume', '--from-postgres', '--json'],
    { env: environment },
  )
  expect(JSON.parse(stdout)).toMatchObject([{ redis: null, postgres: seq, done: 'set' }])
  await pipeline.start('ingester', settings)
  await pipeline.start('indexer')
  await write(account)
  await expect.poll(() => stored(pipeline), patience).toEqual(true_(pipeline))
  expect(true_(pipeline)).toHaveLength(3)
})
