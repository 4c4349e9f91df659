/** Two transactions about the same things, forced to meet at every point of each other. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Event } from '../shared/events.ts'
import type { Point } from './apply.ts'
import { reconcile } from './rules/reconcile.ts'
import {
  aDeleteOf,
  aLike,
  aPost,
  aPostGate,
  aQuote,
  aReply,
  aRepost,
  aSnapshot,
  aThreadGate,
  aThreadRule,
  did,
  dump,
  mentioning,
  miscounts,
  refTo,
  type TestIndexer,
  tables,
  testIndexer,
  uri,
} from './testing.ts'

const alice = did('alice')
const bob = did('bob')
const carol = did('carol')
const points: readonly Point[] = ['begun', 'locked', 'decided', 'written', 'counted']
const rulePoints: readonly Point[] = [
  ...(['reconcile-begun', 'reconcile-locked', 'reconcile-read', 'reconciled'] as const),
]

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())

const clear = () =>
  indexer.sql.unsafe(`truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile`)
beforeEach(clear)

type Probe = (point: Point) => Promise<void>

/** Runs `held` up to a point, then `other` until it ends or waits for a lock, then both to their ends. */
async function meet(
  held: (probe: Probe) => Promise<unknown>,
  other: () => Promise<unknown>,
  at: Point,
): Promise<void> {
  const reached = Promise.withResolvers<void>()
  const release = Promise.withResolvers<void>()
  let isReached = false
  const first = held(async (point) => {
    if (point !== at || isReached) return
    isReached = true
    reached.resolve()
    await release.promise
  })
  await Promise.race([reached.promise, first])
  let ended = false
  const second = other().finally(() => {
    ended = true
  })
  await expect.poll(async () => ended || (await waiting()) > 0, { interval: 2 }).toBe(true)
  release.resolve()
  await Promise.all([first, second])
  await indexer.settle()
}

const applying = (events: readonly Event[]) => (probe: Probe) =>
  indexer.applyWith({ probe })([...events])

async function waiting(): Promise<number> {
  const found = await indexer.sql.unsafe(
    `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  return found.length
}

type Case = [name: string, before: Event[], a: Event[], b: Event[]]

describe('two transactions', () => {
  const post = aPost({ by: alice, rev: 1 })
  const update = aPost({ by: alice, rev: 2, rkey: post.rkey, update: true }, { text: 'new' })
  const like = aLike({ by: bob, rev: 3, of: refTo(post) })
  const second = aLike({ by: bob, rev: 4, of: refTo(post) })
  const repost = aRepost({ by: carol, rev: 3, of: refTo(post) })
  const snapshot = aSnapshot(alice, 5, [])
  const inviting = aPost({ by: alice, rev: 1 }, mentioning(bob))
  const reply = aReply({ by: bob, rev: 2, to: post })
  const below = aReply({ by: carol, rev: 3, to: reply, root: post })
  const elsewhere = aPost({ by: carol, rev: 1 })
  const lost = aReply({ by: bob, rev: 7, to: post, root: elsewhere })
  const belowLost = aReply({ by: carol, rev: 8, to: lost, root: elsewhere })
  const quote = aQuote({ by: bob, rev: 2, of: post })
  const gate = aThreadGate({ rev: 6, of: post, allow: [] })
  const asking = aThreadGate({ rev: 6, of: post, allow: [aThreadRule('mention')] })
  const postGate = aPostGate({ rev: 6, of: post })

  const own: Case[] = [
    ['a create and an update of the same record', [], [post], [update]],
    ['a create and the deletion of it', [], [post], [aDeleteOf(post, 2)]],
    ['an update and an older deletion', [], [update], [aDeleteOf(post, 1)]],
    ['the end of a snapshot and a late create', [], [snapshot.complete], [post]],
    ['a batch and the same batch', [], [post, like], [post, like]],
    ['a duplicate and the deletion of who holds the row', [like], [second], [aDeleteOf(like, 9)]],
    ['a like and a repost of one post', [post], [like], [repost]],
  ]
  const ofOthers: Case[] = [
    ['a reply and its parent', [], [reply], [post]],
    ['a reply and the parent of its parent', [reply], [below], [post]],
    ['a reply and its parent, which is in no thread', [post, elsewhere], [belowLost], [lost]],
    ['a gate and its post', [], [gate, postGate], [post]],
    ['a gate and a reply', [post], [gate], [reply]],
    ['a reply and its root, which mentions its author', [asking], [reply], [inviting]],
    ['a reply and the end of its gate', [post, gate], [reply], [aDeleteOf(gate, 9)]],
    ['a gate and a quote', [post], [postGate], [quote]],
    ['a gate and the deletion of a reply', [post, reply], [gate], [aDeleteOf(reply, 9)]],
  ]
  const cases = [
    ...points.flatMap((point) => own.map((entry) => [point, ...entry] as const)),
    ...(['locked', 'counted', ...rulePoints] as const).flatMap((point) =>
      ofOthers.map((entry) => [point, ...entry] as const),
    ),
  ]

  test.each(cases)('held when one has %s: %s end as one after the other', async (...entry) => {
    const [point, , before, a, b] = entry
    await indexer.applyEach([...before, ...a, ...b])
    const expected = await dump(indexer.sql)
    for (const [held, other] of [
      [a, b],
      [b, a],
    ] as const) {
      await clear()
      await indexer.applyEach(before)
      await meet(applying(held), () => indexer.apply([...other]), point)
      expect(await dump(indexer.sql)).toEqual(expected)
      expect(await miscounts(indexer.sql)).toEqual([])
    }
  })
})

describe.each(rulePoints)('a walk held when it has %s', (point) => {
  test('and a reply that reads what the walk changes end as one after the other', async () => {
    const root = aPost({ by: alice, rev: 1 })
    const reply = aReply({ by: bob, rev: 2, to: root })
    const below = aReply({ by: carol, rev: 3, to: reply, root })
    await indexer.applyEach([root, reply, below])
    const expected = await dump(indexer.sql)
    await clear()
    await indexer.apply([reply])
    const { left } = await indexer.applyWith({})([root])
    expect(left).toMatchObject([{ kind: 'replies', key: uri(root) }])
    await meet(
      (probe) => indexer.settle(probe),
      () => indexer.applyWith({})([below]),
      point,
    )
    expect(await dump(indexer.sql)).toEqual(expected)
  })

  test('and another over the same reply end as one after the other', async () => {
    const root = aPost({ by: alice, rev: 1 })
    const reply = aReply({ by: bob, rev: 2, to: root })
    const gate = aThreadGate({ rev: 6, of: root, allow: [] })
    await indexer.applyEach([root, reply, gate])
    const expected = await dump(indexer.sql)
    await clear()
    await indexer.apply([reply])
    await meet(
      applying([gate]),
      async () => {
        const { left } = await indexer.applyWith({})([root])
        await reconcile({ ...indexer.options, probe: async () => {} }, left)
      },
      point,
    )
    expect(await dump(indexer.sql)).toEqual(expected)
  })
})

test('a walk whose key is touched between its guess and its lock finds who came meanwhile', async () => {
  const post = aPost({ by: alice, rev: 1 })
  const quote = aQuote({ by: bob, rev: 2, of: post })
  const open = aPostGate({ rev: 3, of: post, open: true })
  const closed = aPostGate({ rev: 4, of: post, update: true })
  await indexer.applyEach([post, open, quote, closed])
  const expected = await dump(indexer.sql)
  await clear()
  await indexer.apply([post])
  const dying = indexer.applyWith({
    probe: async (point) => {
      if (point === 'reconcile-begun') throw new Error('killed')
    },
  })
  const meanwhile = async () => {
    await indexer.applyWith({})([quote])
    await expect(dying([closed])).rejects.toThrow('killed')
  }
  await meet(applying([open]), meanwhile, 'reconcile-begun')
  expect(await dump(indexer.sql)).toEqual(expected)
})

describe('two in opposite orders do not deadlock', () => {
  const x = aPost({ by: alice, rev: 1 })
  const y = aPost({ by: bob, rev: 2 })

  /** While the first row of all is held, both come to wait for it; who has locked another one before ties a knot. */
  async function meetBehind(
    row: string,
    one: () => Promise<unknown>,
    two: () => Promise<unknown>,
  ): Promise<void> {
    const release = Promise.withResolvers<void>()
    const locked = Promise.withResolvers<void>()
    const holder = indexer.sql.begin(async (sql) => {
      await sql.unsafe(`select from ${row} for update`)
      locked.resolve()
      await release.promise
    })
    await Promise.race([locked.promise, holder])
    const running = [one()]
    await expect.poll(waiting, { interval: 2, timeout: 10_000 }).toBe(1)
    running.push(two())
    await expect.poll(waiting, { interval: 2, timeout: 10_000 }).toBe(2)
    release.resolve()
    await Promise.all([holder, ...running])
    expect(await miscounts(indexer.sql)).toEqual([])
  }

  test('when they count at the same posts', async () => {
    const both = (name: string, first: typeof x, second: typeof y) => [
      aLike({ by: did(name), rev: 3, of: refTo(first) }),
      aRepost({ by: did(name), rev: 4, of: refTo(second) }),
    ]
    await indexer.applyEach([x, y, ...both('before', x, y), ...both('before', y, x)])
    await meetBehind(
      `post_agg where uri = '${uri(x)}'`,
      () => indexer.apply(both('one', x, y)),
      () => indexer.apply(both('two', y, x)),
    )
  })

  test('when they are about the same repos', async () => {
    await indexer.applyEach([x, y])
    const both = (rev: number) => [
      aPost({ by: alice, rev, rkey: x.rkey, update: true }),
      aPost({ by: bob, rev, rkey: y.rkey, update: true }),
    ]
    await meetBehind(
      `repo_sync where did = '${alice}'`,
      () => indexer.apply(both(3)),
      () => indexer.apply(both(4).reverse()),
    )
  })

  test('when they reconcile the same posts', async () => {
    await indexer.applyEach([x, y])
    const keys = [x, y].map((post) => {
      return { kind: 'post', key: uri(post), after: null, depth: 0, quiet: true } as const
    })
    const rules = { ...indexer.options, probe: async () => {} }
    await meetBehind(
      `repo_sync where did = '${alice}'`,
      () => reconcile(rules, keys),
      () => reconcile(rules, [...keys].reverse()),
    )
  })
})
