/** What an operator does when it has come to the worst, as docs/operations.md says it. */
import { cp, mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'
import { expect, inject, test, vi } from 'vitest'
import { sluice } from '../cli/testing.ts'
import { ledgerBalance } from '../shared/streams/ledger.ts'
import type { Account } from '../simulator/account.ts'
import { type Network, startNetwork } from '../simulator/network.ts'
import { type Pipeline, startPipeline } from './pipeline.ts'
import { type TestDatabase, testDatabase } from './servers/postgres.ts'
import { ownRedis } from './servers/redis.ts'

vi.setConfig({ testTimeout: 180_000 })

const patience = { timeout: 60_000, interval: 100 }
const firehose = { INGESTER_MODE: 'firehose' }
const collection = 'app.bsky.feed.post'
const write = (account: Account) =>
  account.create(collection, {
    $type: collection,
    text: 'hi',
    createdAt: '2026-01-01T00:00:00.000Z',
  })

/** Asked on a connection of its own: a database that somebody is connected to can't be copied. */
async function ask(database: TestDatabase, statement: string): Promise<readonly postgres.Row[]> {
  const sql = postgres(database.url, { max: 1, connection: { search_path: 'bsky' } })
  try {
    return await sql.unsafe(statement)
  } finally {
    await sql.end()
  }
}

const stored = async (database: TestDatabase) =>
  (await ask(database, 'select uri from record order by uri')).map(({ uri }) => String(uri))
const truth = (network: Network) => [...network.records().keys()].toSorted()

/** Runs the workers until the tables hold what the network does, and its position; then stops them. */
async function follow({ start, network }: Pipeline, database: TestDatabase, env = {}) {
  const own = { DATABASE_URL: database.url, ...firehose, ...env }
  const workers = [await start('ingester', own), await start('indexer', own)]
  const seqs = async () =>
    (await ask(database, 'select seq::text from position')).map(({ seq }) => seq)
  await expect.poll(() => stored(database), patience).toEqual(truth(network))
  await expect.poll(seqs, patience).toEqual([String(network.relay.lastSeq)])
  for (const worker of workers) expect(await worker.stop()).toBe(0)
}

test('a Postgres restored from an older backup: verify tells what is missing, resume --rewind brings it back', async () => {
  await using lost = await testDatabase()
  await using pipeline = await startPipeline({ servers: { postgres: lost } })
  const { network, redis, environment } = pipeline
  const account = await network.account()
  const { rkey } = await write(account)
  await follow(pipeline, lost)
  await using restored = await testDatabase({ copyOf: lost })
  await account.delete(collection, rkey)
  await write(account)
  await follow(pipeline, lost)
  // What came after the backup is acknowledged, and gone from Redis.
  expect(await redis.xlen('firehose_live')).toBe(0)
  expect(await stored(restored)).not.toEqual(truth(network))

  const env = { ...environment, DATABASE_URL: restored.url }
  const verify = () => sluice(['verify', account.did, '--patience', '0', '--json'], env)
  const wrong = await verify()
  expect(wrong.code).toBe(1)
  expect(JSON.parse(wrong.out)).toMatchObject({
    ...{ state: 'differs', missing: truth(network) },
    extra: [`at://${account.did}/${collection}/${rkey}`],
  })
  const resume = async (...flags: string[]) =>
    JSON.parse((await sluice(['resume', '--from-postgres', '--json', ...flags], env)).out)
  expect(await resume()).toMatchObject([{ done: 'kept, not older' }])
  expect(await resume('--rewind')).toMatchObject([{ done: 'set' }])
  await follow(pipeline, restored)
  expect((await verify()).code).toBe(0)
})

test('Redis and Postgres move to other hosts: nothing is lost, nothing is applied twice', async () => {
  await using network = await startNetwork()
  const account = await network.account()
  await write(account)
  await using old = await ownRedis()
  await using database = await testDatabase()
  {
    await using before = await startPipeline(
      { servers: { redis: old, postgres: database } },
      network,
    )
    await follow(before, database)
    // Some are on their way: in Redis, in no table.
    const ingester = await before.start('ingester', firehose)
    for (let n = 0; n < 3; n += 1) await write(account)
    await expect.poll(() => before.redis.xlen('firehose_live'), patience).toBe(3)
    expect(await ingester.stop()).toBe(0)
  }
  await old.stop()
  const dir = await mkdtemp(join(inject('servers').folder, 'moved-'))
  await cp(join(old.dir, 'appendonlydir'), join(dir, 'appendonlydir'), { recursive: true })
  await using moved = await ownRedis({ dir })
  await using copy = await testDatabase({ copyOf: database })
  await using after = await startPipeline({ servers: { redis: moved, postgres: copy } }, network)
  await write(account)
  await follow(after, copy)
  // Five posts, and what was said of the account when it began.
  expect(await ledgerBalance(after.redis, 'firehose_live', 'firehose_group')).toMatchObject({
    ...{ added: 7, applied: 7, stale: 0, pending: 0, lag: 0, balanced: true },
  })
})

test('poison is set aside where redis-cli shows it, its neighbours are applied, and it can be put back', async () => {
  await using pipeline = await startPipeline()
  const { network, redis, environment, sql } = pipeline
  const account = await network.account()
  await write(account)
  const poison = ['event', '{"type":"create","did":"did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"}']
  await redis.xadd('firehose_live', '*', ...poison)
  await pipeline.start('ingester', firehose)
  await pipeline.start('indexer')
  const uris = async () => (await sql`select uri from record`).map(({ uri }) => String(uri))
  await expect.poll(uris, patience).toEqual(truth(network))
  const letters = () => redis.call('XRANGE', 'firehose_live_dlq', '-', '+', 'COUNT', '10')
  await expect.poll(letters, patience).toMatchObject([[expect.any(String), expect.any(Array)]])
  const [[, fields]] = (await letters()) as [[string, string[]]]
  expect(fields).toEqual(expect.arrayContaining([...poison, 'reason', 'invalid']))
  const { out } = await sluice(['dlq', 'requeue', '--reason', 'invalid', '--json'], environment)
  expect(JSON.parse(out)).toEqual({ requeued: 1, left: 0 })
  await expect.poll(letters, patience).toHaveLength(1)
  const dropped = await sluice(['dlq', 'drop', '--all', '--json'], environment)
  expect(JSON.parse(dropped.out)).toEqual({ dropped: 1 })
  const balance = await ledgerBalance(redis, 'firehose_live', 'firehose_group')
  expect(balance).toMatchObject({ balanced: true, dead: { invalid: 2 } })
})
