/** Replies, quotes and their gates: the same columns in whatever order the records arrive. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Event, PutEvent } from '../../shared/events.ts'
import {
  aDeleteOf,
  aFollow,
  aListItem,
  aPost,
  aPostGate,
  aQuote,
  aRecord,
  aReply,
  aThreadGate,
  aThreadRule,
  did,
  mentioning,
  miscounts,
  type TestIndexer,
  tables,
  testIndexer,
  uri,
} from '../testing.ts'

const [ann, ben, cat] = [did('ann'), did('ben'), did('cat')]

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
const clear = () =>
  indexer.sql.unsafe(`truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile`)
beforeEach(clear)

/** The columns of a post that others decide. */
async function flagsOf(post: PutEvent): Promise<Record<string, unknown>> {
  const [row] = await indexer.sql.unsafe(
    `select "invalidReplyRoot" as misplaced, "violatesThreadGate" as "keptOut",
       "violatesEmbeddingRules" as forbidden, "hasThreadGate" as "threadGate",
       "hasPostGate" as "postGate" from post where uri = $1`,
    [uri(post)],
  )
  return row ?? {}
}

const plain = { misplaced: null, keptOut: null, forbidden: null, threadGate: null, postGate: null }

async function repliesCounted(post: PutEvent): Promise<number> {
  const [row] = await indexer.sql.unsafe('select "replyCount" from post_agg where uri = $1', [
    uri(post),
  ])
  expect(await miscounts(indexer.sql)).toEqual([])
  return Number(row?.['replyCount'] ?? 0)
}

/** Applies the events one by one, forwards and backwards and at once, and checks each time. */
async function inEachOrder(events: readonly Event[], check: () => Promise<void>): Promise<void> {
  for (const order of [
    events.map((event) => [event]),
    events.toReversed().map((e) => [e]),
    [events],
  ]) {
    await clear()
    for (const batch of order) await indexer.apply(batch)
    await check()
    expect(await indexer.sql.unsafe('select * from reconcile')).toEqual([])
  }
}

const root = aPost({ by: ann, rev: 1 })

describe('a reply', () => {
  const parent = aReply({ by: ben, rev: 2, to: root })
  const child = aReply({ by: cat, rev: 3, to: parent, root })

  test('of a known parent in its thread is in its place, whichever of them comes first', async () => {
    await inEachOrder([root, parent, child], async () => {
      for (const post of [root, parent, child]) expect(await flagsOf(post)).toEqual(plain)
    })
  })

  test('of an unknown parent is misplaced, and so are those below it', async () => {
    await inEachOrder([parent, child], async () => {
      for (const post of [parent, child])
        expect(await flagsOf(post)).toEqual({ ...plain, misplaced: true, keptOut: false })
    })
  })

  test('is misplaced where its root is a reply, or another than that of its parent', async () => {
    const ofReply = aReply({ by: cat, rev: 4, to: parent })
    const elsewhere = aPost({ by: cat, rev: 5 })
    const ofOther = aReply({ by: cat, rev: 6, to: parent, root: elsewhere })
    await inEachOrder([root, parent, elsewhere, ofReply, ofOther], async () => {
      for (const post of [ofReply, ofOther])
        expect(await flagsOf(post)).toMatchObject({ misplaced: true, keptOut: false })
    })
  })

  test('of what is not a post is misplaced', async () => {
    const list = aRecord(
      'app.bsky.graph.list',
      { name: 'l', purpose: 'app.bsky.graph.defs#modlist', createdAt: '2026-01-01T00:00:00Z' },
      { by: ann, rev: 1 },
    )
    const reply = aReply({ by: ben, rev: 2, to: list })
    await inEachOrder([list, reply], async () => {
      expect(await flagsOf(reply)).toMatchObject({ misplaced: true })
    })
  })

  test('keeps its place when its parent goes', async () => {
    await indexer.applyEach([root, parent, child, aDeleteOf(parent, 9)])
    // It is looked at again.
    await indexer.apply([aThreadGate({ rev: 10, of: root })])
    expect(await flagsOf(child)).toEqual(plain)
  })

  test('loses its place when its parent moves to another thread, and so do those below', async () => {
    const below = aReply({ by: ann, rev: 4, to: child, root })
    const moved = aReply({ by: ben, rev: 9, rkey: parent.rkey, to: child, root: child })
    await inEachOrder([root, parent, child, below, { ...moved, type: 'update' }], async () => {
      for (const post of [parent, child, below])
        expect(await flagsOf(post)).toMatchObject({ misplaced: true })
    })
  })

  test('at the end of a long thread takes its place when the root comes last', async () => {
    const thread = [root]
    for (let rev = 2; rev < 12; rev += 1)
      thread.push(aReply({ by: ben, rev, to: thread.at(-1) as PutEvent, root }))
    for (const post of thread.toReversed()) await indexer.apply([post])
    for (const post of thread) expect(await flagsOf(post)).toEqual(plain)
  })
})

describe('a gate', () => {
  const list = `at://${ann}/app.bsky.graph.list/3kz2222222222`
  const reply = aReply({ by: ben, rev: 2, to: root })
  const gateOf = (...allow: readonly object[]) => aThreadGate({ rev: 3, of: root, allow })

  test.each<[string, PutEvent, PutEvent[]]>([
    ['the owner', aReply({ by: ann, rev: 2, to: root }), [gateOf()]],
    ['everybody where it has no rules', reply, [aThreadGate({ rev: 3, of: root })]],
    [
      'those who follow the owner',
      reply,
      [aFollow({ by: ben, rev: 1, of: ann }), gateOf(aThreadRule('follower'))],
    ],
    [
      'those whom the owner follows',
      reply,
      [aFollow({ by: ann, rev: 2, of: ben }), gateOf(aThreadRule('following'))],
    ],
    [
      'those on a list',
      reply,
      [aListItem({ by: ann, rev: 2, of: ben, list }), gateOf(aThreadRule('list', list))],
    ],
  ])('lets in %s', async (_, answer, before) => {
    const gate = before.at(-1) as PutEvent
    const orders = [
      [root, gate, answer],
      [root, answer, gate],
      [answer, gate, root],
    ]
    for (const order of orders) {
      await clear()
      await indexer.applyEach([...before.slice(0, -1), ...order])
      expect(await flagsOf(answer)).toEqual(plain)
      expect(await flagsOf(root)).toEqual({ ...plain, threadGate: true })
      expect(await repliesCounted(root)).toBe(1)
    }
  })

  test('lets in whom the root mentions, also when the root comes last', async () => {
    const inviting = aPost({ by: ann, rev: 1 }, mentioning(ben))
    const gate = aThreadGate({ rev: 3, of: inviting, allow: [aThreadRule('mention')] })
    const invited = aReply({ by: ben, rev: 2, to: inviting })
    const other = aReply({ by: cat, rev: 2, to: inviting })
    await inEachOrder([inviting, gate, invited, other], async () => {
      expect(await flagsOf(invited)).toEqual(plain)
      expect(await flagsOf(other)).toMatchObject({ misplaced: false, keptOut: true })
      expect(await repliesCounted(inviting)).toBe(1)
    })
  })

  test.each(['follower', 'following', 'mention', 'none'])(
    'keeps out all others, and they do not count: %s',
    async (name) => {
      const gate = name === 'none' ? gateOf() : gateOf(aThreadRule(name))
      await inEachOrder([root, reply, gate], async () => {
        expect(await flagsOf(reply)).toEqual({ ...plain, misplaced: false, keptOut: true })
        expect(await repliesCounted(root)).toBe(0)
      })
    },
  )

  test('guards the post that it names', async () => {
    const named = {
      ...gateOf(),
      record: { ...gateOf().record, post: uri(root).replace('post', 'generator') },
    }
    await inEachOrder([root, reply, named], async () => {
      expect(await flagsOf(reply)).toEqual(plain)
      expect(await flagsOf(root)).toEqual(plain)
    })
  })

  test('that is lifted or opened lets in who was kept out', async () => {
    await inEachOrder([root, gateOf(), reply, aDeleteOf(gateOf(), 5)], async () => {
      expect(await flagsOf(reply)).toEqual(plain)
      expect(await flagsOf(root)).toEqual(plain)
      expect(await repliesCounted(root)).toBe(1)
    })
    const opened = aThreadGate({ rev: 5, of: root, update: true })
    await inEachOrder([root, gateOf(), reply, opened], async () => {
      expect(await flagsOf(reply)).toEqual(plain)
      expect(await repliesCounted(root)).toBe(1)
    })
  })

  test('that asks who follows whom is not asked again when that changes', async () => {
    const follow = aFollow({ by: ben, rev: 1, of: ann })
    await indexer.applyEach([follow, root, gateOf(aThreadRule('follower')), reply])
    await indexer.apply([aDeleteOf(follow, 9)])
    // The reply is looked at again, because the post above it is another.
    await indexer.apply([
      aPost({ by: ann, rev: 5, rkey: root.rkey, update: true }, { text: 'new' }),
    ])
    expect(await flagsOf(reply)).toEqual(plain)
    const late = aListItem({ by: ann, rev: 10, of: cat, list })
    await clear()
    await indexer.applyEach([root, gateOf(aThreadRule('list', list)), reply, late])
    expect(await flagsOf(reply)).toMatchObject({ keptOut: true })
  })

  test('of a thread with many replies that come before it decides all of them, page by page', async () => {
    const many = Array.from({ length: 250 }, (_, n) =>
      aReply({ by: did(`many${n}`), rev: 2, to: root }),
    )
    await indexer.apply(many)
    const apply = indexer.applyWith({})
    const { left } = await apply([gateOf()])
    expect(left).toMatchObject([{ kind: 'thread', key: uri(root) }])
    expect(await repliesCounted(root)).toBe(150)
    // Whoever did the first page is gone; the rest is in the database.
    await indexer.settle()
    expect(await repliesCounted(root)).toBe(0)
    await indexer.apply([root])
    const kept = await indexer.sql.unsafe(
      'select count(*) from post where "violatesThreadGate" and not "invalidReplyRoot"',
    )
    expect(Number(kept[0]?.['count'])).toBe(250)
  })
})

describe('a gate of quotes', () => {
  const quote = aQuote({ by: ben, rev: 2, of: root })
  const own = aQuote({ by: ann, rev: 2, of: root })
  const gate = aPostGate({ rev: 3, of: root })

  test('forbids those of others, whichever of them comes first', async () => {
    await inEachOrder([root, quote, own, gate], async () => {
      expect(await flagsOf(quote)).toEqual({ ...plain, forbidden: true })
      expect(await flagsOf(own)).toEqual(plain)
      expect(await flagsOf(root)).toEqual({ ...plain, postGate: true })
    })
  })

  test('allows them when it is opened or gone', async () => {
    const opened = aPostGate({ rev: 5, of: root, open: true, update: true })
    await inEachOrder([root, quote, gate, opened], async () => {
      expect(await flagsOf(quote)).toEqual(plain)
      expect(await flagsOf(root)).toMatchObject({ postGate: true })
    })
    await inEachOrder([root, quote, gate, aDeleteOf(gate, 5)], async () => {
      expect(await flagsOf(quote)).toEqual(plain)
      expect(await flagsOf(root)).toEqual(plain)
    })
  })

  test('of a post with many quotes decides all of them, page by page', async () => {
    const many = Array.from({ length: 250 }, (_, n) =>
      aQuote({ by: did(`many${n}`), rev: 2, of: root }),
    )
    await indexer.apply(many)
    await indexer.apply([gate])
    const kept = await indexer.sql.unsafe(
      'select count(*) from post where "violatesEmbeddingRules"',
    )
    expect(Number(kept[0]?.['count'])).toBe(250)
  })
})
