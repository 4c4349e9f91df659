/** Which collections are followed, across ingester and indexer. */
import { describe, expect, test } from 'vitest'
import { collections } from '../indexer/collections/index.ts'
import { options } from '../ingester/options.ts'
import { scopeOf } from '../shared/scope.ts'

const scope = (text: string) => scopeOf(options.collections.parse(text))

test('by default every collection of the indexer is followed, and all of app.bsky and chat.bsky', () => {
  const follows = scope(options.collections.default)
  expect(collections.filter(({ nsid }) => !follows(nsid))).toEqual([])
  expect(['app.bsky.new.thing', 'chat.bsky.actor.declaration'].map(follows)).toEqual([true, true])
  expect(follows('com.example.thing')).toBe(false)
})

describe('a pattern', () => {
  test.each([
    ['app.bsky.*', 'app.bsky.feed.post', true],
    ['app.bsky.*', 'app.bskyish.feed.post', false],
    ['app.bsky.*', 'app.bsky', false],
    ['app.bsky.feed.*', 'app.bsky.feed.post', true],
    ['app.bsky.feed.*', 'app.bsky.feedback', false],
    ['app.bsky.feed.post', 'app.bsky.feed.post', true],
    ['app.bsky.feed.post', 'app.bsky.feed.postgate', false],
    ['app.bsky.feed.post', 'app.bsky.feed', false],
    ['*', 'com.example.thing', true],
    ['a.b.c, app.bsky.*', 'app.bsky.feed.post', true],
  ])('%s: %s is covered: %s', (pattern, collection, covered) => {
    expect(scope(pattern)(collection)).toBe(covered)
  })

  test.each(['app.bsky*', '*.post', 'app..bsky', 'app.bsky.', '.*'])(
    '%s can match nothing, and is refused',
    (pattern) => {
      expect(() => scope(pattern)).toThrow('must hold names')
    },
  )
})
