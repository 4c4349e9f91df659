/** Handles, resolved at a real directory and a real resolver on loopback. */
import { pino } from 'pino'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { createIdentity, type Identity } from '../shared/identity.ts'
import { type Network, startNetwork } from '../simulator/network.ts'
import { createHandles, type HandleResult } from './handles.ts'
import { aPost, type TestIndexer, testIndexer } from './testing.ts'

let indexer: TestIndexer
let network: Network
let identity: Identity
let stop: AbortController
let running: Promise<void>
let results: HandleResult[]
let want: (dids: readonly string[]) => void

beforeAll(async () => {
  indexer = await testIndexer({ handles: true })
  network = await startNetwork()
})
afterAll(async () => {
  await network.close()
  await indexer[Symbol.asyncDispose]()
})
beforeEach(async () => {
  await indexer.sql.unsafe('truncate actor, reconcile, account_event, record, repo_sync, post')
})
afterEach(async () => {
  stop.abort()
  await running
  identity.close()
})

function start(plcUrl = network.plc.url): void {
  identity = createIdentity({
    plcUrl,
    handleResolver: network.handleResolver.url,
    allowPrivateHosts: true,
    timeoutMs: 2_000,
    maxEntries: 100,
    ttlMs: 60_000,
  })
  stop = new AbortController()
  results = []
  const handles = createHandles({
    sql: indexer.sql,
    schema: 'bsky',
    identity,
    concurrency: 4,
    log: pino({ level: 'silent' }),
    sweepEveryMs: 50,
    onResult: (result) => results.push(result),
  })
  want = handles.want
  running = handles.run(stop.signal)
}

const actors = () => indexer.sql.unsafe('select did, handle from actor order by handle')
const wished = () => indexer.sql.unsafe('select key from reconcile')

test('an account that is new gets its handle, and the wish ends', async () => {
  const { did, handle } = await network.account({ handle: 'new.test' })
  start()
  want((await indexer.apply([aPost({ by: did, rev: 1 })])).handlesWanted)
  await expect.poll(actors).toEqual([{ did, handle }])
  await expect.poll(wished).toEqual([])
})

test('what a stopped process left is swept up', async () => {
  const { did, handle } = await network.account({ handle: 'left.test' })
  await indexer.apply([aPost({ by: did, rev: 1 })])
  start()
  await expect.poll(actors).toEqual([{ did, handle }])
})

test('a handle that leads elsewhere is stored as none', async () => {
  const { did } = await network.account({ handle: 'mine.test' })
  const other = await network.account({ handle: 'other.test' })
  // The resolver believes the last one who claims a handle.
  await network.changeIdentity(other.did, { handle: 'mine.test' })
  await indexer.apply([aPost({ by: did, rev: 1 })])
  start()
  await expect.poll(wished).toEqual([])
  expect(await actors()).toEqual([{ did, handle: null }])
  expect(results).toEqual(['invalid'])
})

test('a handle that another actor holds is taken from it', async () => {
  const { did, handle } = await network.account({ handle: 'wanted.test' })
  await indexer.sql.unsafe(
    `insert into actor (did, handle, "indexedAt") values ('did:plc:old', $1, $2)`,
    [handle, new Date().toISOString()],
  )
  await indexer.apply([aPost({ by: did, rev: 1 })])
  start()
  await expect.poll(actors).toEqual([
    { did, handle },
    { did: 'did:plc:old', handle: null },
  ])
})

test('an account of did:web gets its handle', async () => {
  const { did, handle } = await network.account({ method: 'web', handle: 'web.test' })
  expect(did).toMatch(/^did:web:/)
  await indexer.apply([aPost({ by: did, rev: 1 })])
  start()
  await expect.poll(actors).toEqual([{ did, handle }])
})

test('a handle that moves from one account to another is never held by both', async () => {
  const giver = await network.account({ handle: 'moving.test' })
  const taker = await network.account({ handle: 'taker.test' })
  start()
  await indexer.apply([aPost({ by: giver.did, rev: 1 }), aPost({ by: taker.did, rev: 1 })])
  await expect.poll(wished).toEqual([])
  await network.changeIdentity(giver.did, { handle: 'given.test' })
  await network.changeIdentity(taker.did, { handle: 'moving.test' })
  // The one who takes it is heard first.
  const time = new Date().toISOString()
  await indexer.apply([{ type: 'identity', seq: 1, time, did: taker.did }])
  await expect.poll(wished).toEqual([])
  expect(await actors()).toContainEqual({ did: taker.did, handle: 'moving.test' })
  expect(await actors()).toContainEqual({ did: giver.did, handle: null })
  await indexer.apply([{ type: 'identity', seq: 2, time, did: giver.did }])
  await expect.poll(actors).toEqual([
    { did: giver.did, handle: 'given.test' },
    { did: taker.did, handle: 'moving.test' },
  ])
})

test('a handle looked at when its account was purged makes no account', async () => {
  const { did } = await network.account({ handle: 'purged.test' })
  await indexer.apply([aPost({ by: did, rev: 1 })])
  await indexer.sql.unsafe('delete from actor')
  start()
  await expect.poll(wished).toEqual([])
  expect(await actors()).toEqual([])
})

test('an identity event makes the new handle known', async () => {
  const { did } = await network.account({ handle: 'before.test' })
  start()
  want((await indexer.apply([aPost({ by: did, rev: 1 })])).handlesWanted)
  await expect.poll(actors).toEqual([{ did, handle: 'before.test' }])
  await network.changeIdentity(did, { handle: 'after.test' })
  const time = new Date().toISOString()
  want((await indexer.apply([{ type: 'identity', seq: 1, time, did }])).handlesWanted)
  await expect.poll(actors).toEqual([{ did, handle: 'after.test' }])
  await expect.poll(wished).toEqual([])
})

test('an identity event that is being noted while its account is looked at is not forgotten', async () => {
  const { did } = await network.account({ handle: 'early.test' })
  await indexer.apply([aPost({ by: did, rev: 1 })])
  const noted = Promise.withResolvers<void>()
  const release = Promise.withResolvers<void>()
  const apply = indexer.applyWith({
    probe: async (point) => {
      if (point !== 'counted') return
      noted.resolve()
      await release.promise
    },
  })
  const time = new Date().toISOString()
  const noting = apply([{ type: 'identity', seq: 1, time, did }])
  await Promise.race([noted.promise, noting])
  start()
  const waiting = () =>
    indexer.sql.unsafe(
      `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
  await expect.poll(waiting).toHaveLength(1)
  await network.changeIdentity(did, { handle: 'late.test' })
  release.resolve()
  await noting
  await expect.poll(wished).toEqual([])
  expect(await actors()).toEqual([{ did, handle: 'late.test' }])
})

test('while the directory is away the wish stays', async () => {
  const { did } = await network.account({ handle: 'patient.test' })
  await indexer.apply([aPost({ by: did, rev: 1 })])
  start('http://127.0.0.1:9')
  await expect.poll(() => results).toEqual(['unavailable'])
  expect(await wished()).toEqual([{ key: did }])
})
