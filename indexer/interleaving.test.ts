/** Two transactions about the same things, forced to meet at every point of each other. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Event } from '../shared/events.ts'
import type { Point } from './apply.ts'
import {
  aDeleteOf,
  aLike,
  aPost,
  aRepost,
  aSnapshot,
  did,
  dump,
  miscounts,
  refTo,
  type TestIndexer,
  tables,
  testIndexer,
  uri,
} from './testing.ts'

const alice = did('alice')
const points: readonly Point[] = ['begun', 'locked', 'decided', 'written', 'counted']

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())

const clear = () =>
  indexer.sql.unsafe(`truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile`)
beforeEach(clear)

/** Applies `held` up to a point, then `other` until it ends or waits for a lock, then both to their ends. */
async function meet(held: Event[], other: Event[], at: Point): Promise<void> {
  const reached = Promise.withResolvers<void>()
  const release = Promise.withResolvers<void>()
  const probe = async (point: Point) => {
    if (point !== at) return
    reached.resolve()
    await release.promise
  }
  const first = indexer.applyWith({ probe })(held)
  await Promise.race([reached.promise, first])
  let ended = false
  const second = indexer.apply(other).finally(() => {
    ended = true
  })
  await expect.poll(async () => ended || (await waiting()) > 0, { interval: 2 }).toBe(true)
  release.resolve()
  await Promise.all([first, second])
}

async function waiting(): Promise<number> {
  const found = await indexer.sql.unsafe(
    `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  return found.length
}

describe.each(points)('held when it has %s', (point) => {
  const post = aPost({ by: alice, rev: 1 })
  const update = aPost({ by: alice, rev: 2, rkey: post.rkey, update: true }, { text: 'new' })
  const like = aLike({ by: did('bob'), rev: 3, of: refTo(post) })
  const snapshot = aSnapshot(alice, 5, [])

  test.each<[string, Event[], Event[]]>([
    ['a create and an update of the same record', [post], [update]],
    ['a create and the deletion of it', [post], [aDeleteOf(post, 2)]],
    ['an update and an older deletion', [update], [aDeleteOf(post, 1)]],
    ['the end of a snapshot and a late create', [snapshot.complete], [post]],
    ['a batch and the same batch', [post, like], [post, like]],
  ])('%s end as one after the other', async (_, a, b) => {
    await indexer.applyEach([...a, ...b])
    const expected = await dump(indexer.sql)
    for (const [held, other] of [
      [a, b],
      [b, a],
    ] as const) {
      await clear()
      await meet([...held], [...other], point)
      expect(await dump(indexer.sql)).toEqual(expected)
      expect(await miscounts(indexer.sql)).toEqual([])
    }
  })
})

test('batches that count at the same posts in opposite orders do not deadlock', async () => {
  const x = aPost({ by: alice, rev: 1 })
  const y = aPost({ by: alice, rev: 2 })
  const both = (name: string, first: typeof x, second: typeof y) => [
    aLike({ by: did(name), rev: 3, of: refTo(first) }),
    aRepost({ by: did(name), rev: 4, of: refTo(second) }),
  ]
  await indexer.applyEach([x, y, ...both('before', x, y), ...both('before', y, x)])
  const release = Promise.withResolvers<void>()
  const locked = Promise.withResolvers<void>()
  const holder = indexer.sql.begin(async (sql) => {
    await sql.unsafe('select from post_agg where uri = $1 for update', [uri(x)])
    locked.resolve()
    await release.promise
  })
  await Promise.race([locked.promise, holder])
  // Whoever counts at y first would hold it while it waits behind the other, who then needs it.
  const one = indexer.apply(both('one', x, y))
  await expect.poll(waiting, { interval: 2, timeout: 10_000 }).toBe(1)
  const two = indexer.apply(both('two', y, x))
  await expect.poll(waiting, { interval: 2, timeout: 10_000 }).toBe(2)
  release.resolve()
  await Promise.all([holder, one, two])
  expect(await miscounts(indexer.sql)).toEqual([])
})
