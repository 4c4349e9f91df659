/** `sluice collections`. */
import { expect, test } from 'vitest'
import { collections } from '../indexer/collections/index.ts'
import { sluice } from './testing.ts'

test('every collection is listed with its tables, counters and notifications', async () => {
  const { code, out } = await sluice(['collections', '--json'], {})
  expect(code).toBe(0)
  const rows = JSON.parse(out) as Record<string, string | null>[]
  expect(rows.map((row) => row['collection'])).toEqual(collections.map(({ nsid }) => nsid))
  expect(rows).toContainEqual({
    collection: 'app.bsky.feed.like',
    tables: 'like',
    unique: 'subject, creator',
    counts: 'post_agg.likeCount',
    notifications: 'like, like-via-repost',
    rkey: 'any',
  })
  expect(rows).toContainEqual({
    ...{ collection: 'app.bsky.actor.status', tables: 'record', unique: null },
    ...{ counts: null, notifications: null, rkey: 'self' },
  })
  const { out: text } = await sluice(['collections'], {})
  expect(text).toMatch(
    /^app\.bsky\.feed\.post +post, post_embed_image,.* mention, quote, reply +any$/m,
  )
})
