import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { AccountEvent, IdentityEvent } from '../shared/events.ts'
import { aPost, did, someTime, type TestIndexer, tables, testIndexer } from './testing.ts'

const alice = did('alice')
const early = '2026-02-01T00:00:00.000Z'
const late = '2026-02-02T00:00:00.000Z'

const anAccount = (time: string, status: string | null, seq = 1): AccountEvent => ({
  type: 'account',
  seq,
  time,
  did: alice,
  active: status === null,
  status,
})
const anIdentity = (time: string): IdentityEvent => ({ type: 'identity', seq: 1, time, did: alice })

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
beforeEach(async () => {
  await indexer.sql.unsafe(`truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile`)
})

const repos = () => indexer.sql.unsafe('select rev, status, "statusAt" from repo_sync')
const status = async () =>
  (await indexer.sql.unsafe('select "upstreamStatus" from actor'))[0]?.['upstreamStatus']

test('the later account event shows, in whatever order both arrive', async () => {
  await indexer.applyEach([anAccount(early, 'takendown'), anAccount(late, null)])
  expect(await status()).toBeNull()
  await indexer.sql.unsafe('truncate actor, account_event')
  await indexer.applyEach([anAccount(late, null), anAccount(early, 'takendown')])
  expect(await status()).toBeNull()
  await indexer.sql.unsafe('truncate actor, account_event')
  await indexer.apply([anAccount(late, 'suspended', 9), anAccount(late, null, 8)])
  expect(await status()).toBe('suspended')
})

test('an account event that comes again, or late, is stale', async () => {
  const outcomes = async (event: AccountEvent) => (await indexer.apply([event])).outcomes
  expect(await outcomes(anAccount(late, null))).toEqual(['applied'])
  expect(await outcomes(anAccount(late, null))).toEqual(['stale'])
  expect(await outcomes(anAccount(early, 'deactivated'))).toEqual(['stale'])
})

test('an account is known from its first event on, and hidden when that says so', async () => {
  await indexer.apply([anAccount(early, 'deactivated'), aPost({ by: alice, rev: 1 })])
  expect(await indexer.sql.unsafe('select did, "upstreamStatus", handle from actor')).toEqual([
    { did: alice, upstreamStatus: 'deactivated', handle: null },
  ])
})

test('a status leaves the columns alone that are not ours', async () => {
  await indexer.sql.unsafe(
    `insert into actor (did, handle, "indexedAt", "takedownRef", "trustedVerifier")
     values ($1, 'alice.test', $2, 'ref', true)`,
    [alice, someTime],
  )
  await indexer.apply([anAccount(early, 'takendown')])
  expect(await indexer.sql.unsafe('select * from actor')).toEqual([
    expect.objectContaining({
      handle: 'alice.test',
      takedownRef: 'ref',
      trustedVerifier: true,
      upstreamStatus: 'takendown',
    }),
  ])
})

test('an account event tells how a repo ended, also one of which nothing was seen', async () => {
  await indexer.apply([{ ...anAccount(early, 'takendown'), seq: -1 }, anIdentity(early)])
  expect(await repos()).toEqual([{ rev: null, status: 'takendown', statusAt: early }])
  expect(await indexer.sql.unsafe('select did from actor_sync')).toEqual([])
  await indexer.apply([anAccount(late, null)])
  expect(await repos()).toEqual([{ rev: null, status: null, statusAt: late }])
})

test('a status that nobody knows is kept as it is told', async () => {
  await indexer.apply([anAccount(early, 'hibernated')])
  expect(await status()).toBe('deactivated')
  expect(await indexer.sql.unsafe('select status from account_event')).toEqual([
    { status: 'hibernated' },
  ])
  expect(await repos()).toMatchObject([{ status: 'hibernated' }])
})

test('what another relay tells again is stale, whichever of them is heard first', async () => {
  const first = anAccount(early, 'suspended', 7)
  const copy = { ...first, seq: 90 }
  const rows = async (...events: AccountEvent[]) => {
    await indexer.sql.unsafe('truncate actor, account_event')
    const outcomes = []
    for (const event of events) outcomes.push((await indexer.apply([event])).outcomes[0])
    expect(outcomes).toEqual(['applied', 'stale'])
    return indexer.sql.unsafe('select * from account_event')
  }
  expect(await rows(first, copy)).toEqual(await rows(copy, first))
})

test('an account that is active again wishes for its repo, once, and one that always was does not', async () => {
  const wishes = () => indexer.sql.unsafe(`select key from reconcile where kind = 'resync'`)
  await indexer.apply([anAccount(early, null)])
  expect(await wishes()).toEqual([])
  const back = anAccount(late, null)
  await indexer.applyEach([anAccount('2026-02-01T12:00:00.000Z', 'deactivated'), back])
  expect(await status()).toBeNull()
  expect(await wishes()).toEqual([{ key: alice }])
  await indexer.sql.unsafe('truncate reconcile')
  await indexer.apply([{ ...back, seq: 99 }])
  expect(await wishes()).toEqual([])
})

test('a handle is wished for at first sight, at an identity event, and not in between', async () => {
  const apply = indexer.applyWith({ handles: true })
  const post = aPost({ by: alice, rev: 1 })
  expect((await apply([post])).handlesWanted).toEqual([alice])
  expect(await indexer.sql.unsafe('select kind, key from reconcile')).toEqual([
    { kind: 'handle', key: alice },
  ])
  await indexer.sql.unsafe('truncate reconcile')
  await indexer.sql.unsafe('update actor set "indexedAt" = $1', [new Date().toISOString()])
  expect((await apply([aPost({ by: alice, rev: 2 })])).handlesWanted).toEqual([])
  expect((await apply([anIdentity(late)])).handlesWanted).toEqual([alice])
  expect((await apply([anIdentity(early)])).handlesWanted).toEqual([])
})

test('without DID resolution an account is known all the same, and nothing is wished for', async () => {
  const { handlesWanted } = await indexer.apply([aPost({ by: alice, rev: 1 }), anIdentity(late)])
  expect(handlesWanted).toEqual([])
  expect(await indexer.sql.unsafe('select did, handle from actor')).toEqual([
    { did: alice, handle: null },
  ])
  expect(await indexer.sql.unsafe(`select * from reconcile where kind = 'handle'`)).toEqual([])
})

test('a handle is looked at again after a day, and without one after an hour', async () => {
  const apply = indexer.applyWith({ handles: true })
  const seen = async (handle: string | null, hoursAgo: number) => {
    const at = new Date(Date.now() - hoursAgo * 3_600_000).toISOString()
    await indexer.sql.unsafe('truncate actor, record, repo_sync, post')
    await indexer.sql.unsafe('insert into actor (did, handle, "indexedAt") values ($1, $2, $3)', [
      alice,
      handle,
      at,
    ])
    return (await apply([aPost({ by: alice, rev: 1 })])).handlesWanted.length
  }
  expect(await seen('alice.test', 23)).toBe(0)
  expect(await seen('alice.test', 25)).toBe(1)
  expect(await seen(null, 0.9)).toBe(0)
  expect(await seen(null, 1.1)).toBe(1)
})
