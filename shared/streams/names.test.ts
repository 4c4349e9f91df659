/** The names of keys and groups. */
import { expect, test } from 'vitest'
import { cursorKeys, namedGroups, parseStreamGroups } from './names.ts'

test('a cursor is written under the stripped host and found under every older spelling', () => {
  const { key, variants } = cursorKeys('firehose_live', 'wss://bsky.network')
  expect(key).toBe('firehose_live:cursor:bsky.network')
  expect(variants).toContain('firehose_live:cursor:wss://bsky.network')
  expect(variants).toContain('firehose_live:cursor:wss://bsky.network/')
  expect(variants).not.toContain(key)
})

test('a host given without scheme has a variant with a trailing slash', () => {
  expect(cursorKeys('s', 'bsky.network').variants).toEqual(['s:cursor:bsky.network/'])
})

test('STREAM_GROUPS names groups per stream, joined by a plus', () => {
  const groups = parseStreamGroups(['firehose_live=firehose_group+search', ' label_live = mine '])
  expect(namedGroups(groups, 'firehose_live')).toEqual(['firehose_group', 'search'])
  expect(namedGroups(groups, 'label_live')).toEqual(['mine'])
})

test('a stream that is not named has its standard group, or its reader', () => {
  const none = parseStreamGroups([])
  expect(namedGroups(none, 'firehose_backfill')).toEqual(['firehose_group'])
  expect(namedGroups(none, 'repo_backfill')).toEqual(['repo_backfill_group'])
  expect(namedGroups(none, 'label_live', 'rust_labels')).toEqual(['rust_labels'])
  expect(namedGroups(none, 'unknown')).toEqual([])
})

test('a reader counts even when STREAM_GROUPS forgets it', () => {
  const groups = parseStreamGroups(['firehose_live=search'])
  expect(namedGroups(groups, 'firehose_live', 'firehose_group')).toEqual([
    'search',
    'firehose_group',
  ])
})

test.each(['firehose_live', 'a=b=c', '=b', 'a=b++c', 'a='])(
  'what STREAM_GROUPS means by %j is asked back',
  (item) => expect(() => parseStreamGroups([item])).toThrow(JSON.stringify(item)),
)
