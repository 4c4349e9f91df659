import { hash } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { verdict } from '../shared/errors.ts'
import type { Event } from '../shared/events.ts'
import { collections } from './collections/index.ts'
import { createDeriver } from './derive.ts'
import {
  aDeleteOf,
  aFollow,
  aLike,
  aPost,
  aProfile,
  aRecord,
  aRepost,
  aSnapshot,
  did,
  dump,
  miscounts,
  refTo,
  type TestIndexer,
  tables,
  testIndexer,
  tid,
  uri,
} from './testing.ts'
import { expireTombstones } from './tombstones.ts'

const alice = did('alice')
const bob = did('bob')

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
beforeEach(async () => {
  await indexer.sql.unsafe(`truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile`)
})

const outcomes = async (...events: Event[]) => (await indexer.apply(events)).outcomes
const rows = (query: string) => indexer.sql.unsafe(query)

describe('a batch', () => {
  test('makes a record, its row, the account and the counters at once', async () => {
    const post = aPost({ by: alice, rev: 1 })
    const like = aLike({ by: bob, rev: 2, of: refTo(post) })
    expect(await outcomes(post, like)).toEqual(['applied', 'applied'])
    expect(
      await rows('select uri, cid, did, json, "indexedAt", rev from record order by rev'),
    ).toEqual([
      {
        uri: uri(post),
        cid: post.cid,
        did: alice,
        json: JSON.stringify(post.record),
        indexedAt: post.time,
        rev: tid(1),
      },
      expect.objectContaining({ uri: uri(like), did: bob }),
    ])
    expect(await rows('select uri, creator, subject from "like"')).toEqual([
      { uri: uri(like), creator: bob, subject: uri(post) },
    ])
    expect(await rows('select did from actor order by did')).toEqual([{ did: alice }, { did: bob }])
    expect(await rows('select did, "repoRev" from actor_sync order by did')).toEqual([
      { did: alice, repoRev: tid(1) },
      { did: bob, repoRev: tid(2) },
    ])
    expect(await miscounts(indexer.sql)).toEqual([])
    expect(await rows('select "likeCount" from post_agg')).toEqual([{ likeCount: '1' }])
  })

  test('delivered again changes nothing and is stale', async () => {
    const post = aPost({ by: alice, rev: 1 })
    const batch = [post, aLike({ by: bob, rev: 2, of: refTo(post) }), aDeleteOf(post, 3)]
    await outcomes(...batch)
    const before = await dump(indexer.sql)
    expect(await outcomes(...batch)).toEqual(['stale', 'stale', 'stale'])
    expect(await dump(indexer.sql)).toEqual(before)
  })

  test('an older event changes nothing in any table', async () => {
    const profile = aProfile({ by: alice, rev: 5, update: true }, { displayName: 'new' })
    await outcomes(profile)
    const before = await dump(indexer.sql)
    expect(await outcomes(aProfile({ by: alice, rev: 4 }, { displayName: 'old' }))).toEqual([
      'stale',
    ])
    expect(await outcomes(aDeleteOf(profile, 3))).toEqual(['stale'])
    expect(await dump(indexer.sql)).toEqual(before)
  })

  test('a record deleted before it was created stays deleted', async () => {
    const post = aPost({ by: alice, rev: 1 })
    expect(await outcomes(aDeleteOf(post, 2))).toEqual(['applied'])
    expect(await outcomes(post)).toEqual(['stale'])
    expect(await rows('select * from record')).toEqual([])
    expect(await rows('select uri, rev from record_tombstone')).toEqual([
      { uri: uri(post), rev: tid(2) },
    ])
  })

  test('a record created again after its deletion is there, and its tombstone is not', async () => {
    const post = aPost({ by: alice, rev: 1 })
    const again = aPost({ by: alice, rev: 3, rkey: post.rkey }, { text: 'again' })
    await indexer.applyEach([post, aDeleteOf(post, 2), again])
    expect(await rows('select text from post')).toEqual([{ text: 'again' }])
    expect(await rows('select * from record_tombstone')).toEqual([])
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('an update to a record that is not valid takes the old rows away', async () => {
    const post = aPost({ by: alice, rev: 1 })
    const invalid = aPost({ by: alice, rev: 2, rkey: post.rkey, update: true }, { text: 7 })
    await outcomes(post)
    expect(await outcomes(invalid)).toEqual(['refused:lexicon'])
    expect(await rows('select uri from record union select uri from post')).toEqual([])
    expect(await rows('select uri from feed_item')).toEqual([])
    expect(await outcomes(post)).toEqual(['stale'])
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('the same record at a later rev only moves its rev', async () => {
    const post = aPost({ by: alice, rev: 1 })
    await outcomes(post)
    const later = { ...post, rev: tid(9), time: '2026-05-05T00:00:00.000Z' }
    expect(await outcomes(later)).toEqual(['applied'])
    expect(await rows('select rev, "indexedAt" from record')).toEqual([
      { rev: tid(9), indexedAt: post.time },
    ])
    expect(await rows('select "indexedAt" from post')).toEqual([{ indexedAt: post.time }])
  })

  test('takes the place of rows that another worker left without their records', async () => {
    const post = aPost({ by: alice, rev: 1 }, { text: 'ours' })
    await indexer.apply([post])
    const expected = await dump(indexer.sql)
    await indexer.sql.unsafe('truncate record, actor, actor_sync, repo_sync')
    await indexer.sql.unsafe(`update post set text = 'theirs'`)
    await indexer.apply([post])
    expect(await dump(indexer.sql)).toEqual(expected)
  })

  test('a collection that is not indexed is refused by that name', async () => {
    const other = aRecord('com.example.thing', {}, { by: alice, rev: 1 })
    expect(await outcomes(other)).toEqual(['refused:collection'])
    expect(await rows('select * from record')).toEqual([])
  })

  test('with every collection in scope an unknown one is a record and no more', async () => {
    const apply = indexer.applyWith({ scope: () => true })
    const other = aRecord('com.example.thing', { a: [1, { b: 'c' }] }, { by: alice, rev: 1 })
    expect((await apply([other])).outcomes).toEqual(['applied'])
    expect(await rows('select json from record')).toEqual([{ json: JSON.stringify(other.record) }])
    await apply([aDeleteOf(other, 2)])
    expect(await rows('select * from record')).toEqual([])
  })

  test('text that Postgres can not hold is stored without it', async () => {
    const plain = aPost({ by: alice, rev: 1 })
    const post = { ...plain, record: { ...plain.record, text: 'a\u0000b\ud800c' } }
    expect(await outcomes(post)).toEqual(['applied'])
    expect(await rows('select text from post')).toEqual([{ text: 'ab\ufffdc' }])
    expect(await rows('select json from record')).toEqual([
      { json: JSON.stringify({ ...post.record, text: 'ab\ufffdc' }) },
    ])
  })
})

describe('a record that can not be applied', () => {
  test('is refused as a bug when deriving it throws, and its neighbours are not', async () => {
    const broken = collections.map((collection) =>
      collection.nsid === 'app.bsky.feed.like'
        ? {
            nsid: collection.nsid,
            rows: { table: 'like', columns: () => JSON.parse('not JSON') },
          }
        : collection,
    )
    const apply = indexer.applyWith({ deriver: createDeriver(broken, () => null) })
    const post = aPost({ by: alice, rev: 1 })
    const { outcomes, changes } = await apply([post, aLike({ by: bob, rev: 2, of: refTo(post) })])
    expect(outcomes).toEqual(['applied', 'refused:bug'])
    expect(changes[1]?.refused?.detail).toContain('SyntaxError')
    expect(await rows('select uri from post')).toHaveLength(1)
  })

  test('fails the batch with the entry at fault when a value is too long for its index', async () => {
    const long = [1, 2, 3, 4, 5, 6, 7]
      .map((n) => hash('sha512', `${n}`) + hash('sha512', `-${n}`))
      .join('')
    const by = `did:web:${long}`
    const subject = {
      uri: `at://${by}/app.bsky.feed.post/${tid(1)}`,
      cid: aPost({ by, rev: 1 }).cid,
    }
    const error = await indexer.apply([aLike({ by, rev: 2, of: subject })]).catch((e) => e)
    expect(error).toMatchObject({ code: '54000' })
    expect(verdict(error)).toBe('reject')
    expect(await rows('select did from repo_sync')).toEqual([])
  })
})

test('a tombstone goes when it is older than its days', async () => {
  await outcomes(aDeleteOf(aPost({ by: alice, rev: 1 }), 2))
  expect(await expireTombstones(indexer.sql, 'bsky', 14)).toBe(0)
  const old = new Date(Date.now() - 15 * 24 * 3_600_000).toISOString()
  await indexer.sql.unsafe('update record_tombstone set "deletedAt" = $1', [old])
  expect(await expireTombstones(indexer.sql, 'bsky', 14)).toBe(1)
})

describe('duplicates', () => {
  const post = aPost({ by: alice, rev: 1 })
  const low = aLike({ by: bob, rev: 2, rkey: tid(2), of: refTo(post) })
  const middle = aLike({ by: bob, rev: 3, rkey: tid(3), of: refTo(post) })
  const high = aLike({ by: bob, rev: 4, rkey: tid(4), of: refTo(post) })

  test.each([
    ['in order', [low, middle, high]],
    ['reversed', [high, middle, low]],
    ['mixed', [middle, high, low]],
  ])('the lowest uri holds the row, the others point at it: %s', async (_, events) => {
    for (const apply of [indexer.applyEach, indexer.apply]) {
      await indexer.sql.unsafe(
        'truncate record, duplicate_record, "like", post_agg, record_tombstone',
      )
      await apply(events)
      expect(await rows('select uri from "like"')).toEqual([{ uri: uri(low) }])
      expect(await rows('select uri, "duplicateOf" from duplicate_record order by uri')).toEqual([
        { uri: uri(middle), duplicateOf: uri(low) },
        { uri: uri(high), duplicateOf: uri(low) },
      ])
      expect(await miscounts(indexer.sql)).toEqual([])
    }
  })

  test('when the holder goes, the next lowest is promoted with its own cid and time', async () => {
    await indexer.applyEach([low, middle, high, aDeleteOf(low, 5)])
    expect(await rows('select uri, cid, "indexedAt" from "like"')).toEqual([
      { uri: uri(middle), cid: middle.cid, indexedAt: middle.time },
    ])
    expect(await rows('select uri, "duplicateOf" from duplicate_record')).toEqual([
      { uri: uri(high), duplicateOf: uri(middle) },
    ])
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('when a waiting one goes, nothing else moves', async () => {
    await indexer.applyEach([low, middle, aDeleteOf(middle, 5)])
    expect(await rows('select uri from "like"')).toEqual([{ uri: uri(low) }])
    expect(await rows('select * from duplicate_record')).toEqual([])
  })

  test('one that changes its subject leaves its key to the next', async () => {
    const other = aPost({ by: alice, rev: 7 })
    const moved = aLike({ by: bob, rev: 8, rkey: low.rkey, of: refTo(other), update: true })
    await indexer.applyEach([low, middle, moved])
    expect(await rows('select uri, subject from "like" order by uri')).toEqual([
      { uri: uri(low), subject: uri(other) },
      { uri: uri(middle), subject: uri(post) },
    ])
    expect(await rows('select * from duplicate_record')).toEqual([])
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('the feed item of a repost follows the row', async () => {
    const first = aRepost({ by: bob, rev: 2, of: refTo(post) })
    const second = aRepost({ by: bob, rev: 3, of: refTo(post) })
    await indexer.applyEach([second, first])
    expect(await rows('select uri from feed_item')).toEqual([{ uri: uri(first) }])
    await indexer.applyEach([aDeleteOf(first, 4)])
    expect(await rows('select uri from feed_item')).toEqual([{ uri: uri(second) }])
  })
})

describe('a snapshot', () => {
  const kept = aPost({ by: alice, rev: 1 })
  const dropped = aFollow({ by: alice, rev: 2, of: bob })
  const newer = aPost({ by: alice, rev: 9 })

  test('deletes what it does not contain and keeps what is newer', async () => {
    await indexer.applyEach([kept, dropped, newer])
    const snapshot = aSnapshot(alice, 5, [kept])
    await indexer.apply(snapshot.records)
    expect(await outcomes(snapshot.complete)).toEqual(['applied'])
    expect(await rows('select uri, rev from record order by rev')).toEqual([
      { uri: uri(kept), rev: tid(5) },
      { uri: uri(newer), rev: tid(9) },
    ])
    expect(await rows('select uri from follow')).toEqual([])
    expect(await rows('select uri from record_tombstone')).toEqual([])
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('makes every older event stale', async () => {
    const snapshot = aSnapshot(alice, 5, [kept])
    await indexer.applyEach([...snapshot.records, snapshot.complete])
    const before = await dump(indexer.sql)
    expect(await outcomes(dropped, kept, aDeleteOf(kept, 3))).toEqual(['stale', 'stale', 'stale'])
    expect(await dump(indexer.sql)).toEqual(before)
  })

  test('leaves alone what is outside of its scope', async () => {
    const block = aRecord(
      'chat.bsky.actor.declaration',
      { allowIncoming: 'all' },
      {
        by: alice,
        rev: 2,
        rkey: 'self',
      },
    )
    await indexer.applyEach([kept, block])
    const snapshot = aSnapshot(alice, 5, [kept], ['app.bsky.*'])
    await indexer.applyEach([...snapshot.records, snapshot.complete])
    expect(await rows('select uri from record order by uri')).toHaveLength(2)
    const changed = aRecord(
      'chat.bsky.actor.declaration',
      { allowIncoming: 'none' },
      {
        by: alice,
        rev: 3,
        rkey: 'self',
        update: true,
      },
    )
    expect(await outcomes(changed)).toEqual(['applied'])
  })

  test('of another scope does not undo what an earlier one covered', async () => {
    const all = aSnapshot(alice, 5, [], ['*'])
    const some = aSnapshot(alice, 6, [], ['app.bsky.feed.*'])
    await indexer.applyEach([all.complete, some.complete])
    expect(await outcomes(dropped)).toEqual(['stale'])
    const later = aPost({ by: alice, rev: 5, rkey: tid(99) })
    expect(await outcomes(later)).toEqual(['stale'])
  })

  test('of which records are lacking deletes nothing and is set aside', async () => {
    await indexer.applyEach([kept, dropped])
    const refused = aPost({ by: alice, rev: 5, rkey: tid(77) }, { text: 7 })
    const snapshot = aSnapshot(alice, 5, [kept, newer, refused])
    await indexer.applyEach(snapshot.records.filter(({ rkey }) => rkey !== newer.rkey))
    expect(await outcomes(snapshot.complete)).toEqual([
      { deadLetter: expect.objectContaining({ reason: 'snapshot-incomplete' }) },
    ])
    expect(await rows('select uri from record')).toHaveLength(2)
    await indexer.applyEach(snapshot.records)
    expect(await outcomes(snapshot.complete)).toEqual(['applied'])
    expect(await rows('select uri from record order by uri')).toHaveLength(2)
    expect(await rows(`select uri from record where uri = '${uri(dropped)}'`)).toEqual([])
  })

  test('lacks nothing that was deleted since, is not indexed, or is covered by a newer one', async () => {
    const other = aRecord('com.example.other', {}, { by: alice, rev: 2 })
    const snapshot = aSnapshot(alice, 5, [kept, dropped, other])
    await indexer.applyEach([aDeleteOf(kept, 7), ...snapshot.records])
    await indexer.applyEach([aSnapshot(alice, 6, [], [dropped.collection]).complete])
    expect(await outcomes(snapshot.complete)).toEqual(['applied'])
    expect(await rows('select uri from record')).toEqual([])
  })

  test('that is older than another changes nothing', async () => {
    const second = aSnapshot(alice, 8, [newer])
    await indexer.applyEach([...second.records, second.complete])
    const before = await dump(indexer.sql)
    const first = aSnapshot(alice, 5, [kept, dropped])
    expect(await outcomes(...first.records)).toEqual(['stale', 'stale'])
    expect(await outcomes(first.complete)).toEqual(['stale'])
    expect(await dump(indexer.sql)).toEqual(before)
  })

  test('forgets the tombstones that it makes needless, and no others', async () => {
    await indexer.applyEach([aDeleteOf(kept, 3), aDeleteOf(dropped, 7)])
    await indexer.applyEach([aSnapshot(alice, 5, []).complete])
    expect(await rows('select uri from record_tombstone')).toEqual([{ uri: uri(dropped) }])
  })

  test('promotes a waiting duplicate when it deletes the holder', async () => {
    const post = aPost({ by: bob, rev: 1 })
    const first = aLike({ by: alice, rev: 2, of: refTo(post) })
    const second = aLike({ by: alice, rev: 3, of: refTo(post) })
    await indexer.applyEach([first, second])
    const snapshot = aSnapshot(alice, 5, [second])
    await indexer.applyEach([...snapshot.records, snapshot.complete])
    expect(await rows('select uri from "like"')).toEqual([{ uri: uri(second) }])
    expect(await rows('select * from duplicate_record')).toEqual([])
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('a repo event that is not complete only moves actor_sync', async () => {
    await indexer.applyEach([kept])
    const { complete: _, ...repo } = aSnapshot(alice, 5, []).complete
    expect(await outcomes(repo)).toEqual(['applied'])
    expect(await outcomes(repo)).toEqual(['stale'])
    expect(await rows('select "repoRev" from actor_sync')).toEqual([{ repoRev: tid(5) }])
    expect(await rows('select uri from record')).toHaveLength(1)
  })
})
