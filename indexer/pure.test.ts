import { describe, expect, test } from 'vitest'
import { compareHosted, newestHosted, upstreamStatus } from './accounts.ts'
import { blobCid } from './blob.ts'
import { type Decision, decide, type Stored } from './decide.ts'
import { compareVersions, fold } from './fold.ts'
import { connectionsOf, flightOf } from './indexer.ts'
import { snapshotRev } from './repos.ts'
import { cleanJson, cleanText } from './text.ts'
import { normaliseTime } from './timestamp.ts'
import { authorOf, partsOf } from './uri.ts'

describe('what an event changes', () => {
  const nothing: Stored = { record: null, tombstone: null, snapshot: null }
  const put = { rev: '5', cid: 'b' }
  const gone = { rev: '5', cid: null }
  test.each<[string, { rev: string; cid: string | null }, Partial<Stored>, Decision]>([
    ['a record that nobody knows is written', put, {}, 'write'],
    ['a deletion of what nobody knows is remembered', gone, {}, 'remove'],
    ['a newer record is written', put, { record: { rev: '4', cid: 'a' } }, 'write'],
    ['the same record at a later rev is raised', put, { record: { rev: '4', cid: 'b' } }, 'raise'],
    ['a record without a rev is older than any', put, { record: { rev: null, cid: 'a' } }, 'write'],
    ['a newer deletion removes', gone, { record: { rev: '4', cid: 'a' } }, 'remove'],
    ['the same event is stale', put, { record: { rev: '5', cid: 'b' } }, 'stale'],
    ['an older event is stale', put, { record: { rev: '6', cid: 'a' } }, 'stale'],
    ['an older deletion is stale', gone, { record: { rev: '6', cid: 'a' } }, 'stale'],
    [
      'at one rev a record stands before its deletion',
      gone,
      { record: { rev: '5', cid: 'a' } },
      'stale',
    ],
    ['at one rev the higher CID stands', put, { record: { rev: '5', cid: 'a' } }, 'write'],
    ['at one rev the lower CID does not', put, { record: { rev: '5', cid: 'c' } }, 'stale'],
    ['what was deleted later is stale', put, { tombstone: '6' }, 'stale'],
    ['what was deleted before is written', put, { tombstone: '4' }, 'write'],
    ['at the rev of its deletion a record is written', put, { tombstone: '5' }, 'write'],
    ['a deletion that is remembered is stale', gone, { tombstone: '5' }, 'stale'],
    ['a later deletion is remembered', gone, { tombstone: '4' }, 'remove'],
    ['what is older than a snapshot is stale', put, { snapshot: '6' }, 'stale'],
    ['a deletion older than a snapshot is stale', gone, { snapshot: '6' }, 'stale'],
    ['what a snapshot contains is not older than it', put, { snapshot: '5' }, 'write'],
  ])('%s', (_, event, stored, decision) => {
    expect(decide(event, { ...nothing, ...stored })).toBe(decision)
  })
})

test('the fold keeps the latest version of each uri, sorted, whatever the order', () => {
  const changes = [
    { uri: 'b', rev: '1', cid: 'x' },
    { uri: 'a', rev: '2', cid: null },
    { uri: 'a', rev: '1', cid: 'y' },
    { uri: 'b', rev: '1', cid: 'z' },
  ]
  const expected = [changes[1], changes[3]]
  expect(fold(changes)).toEqual(expected)
  expect(fold([...changes].reverse())).toEqual(expected)
  expect(compareVersions({ rev: '1', cid: 'x' }, { rev: '1', cid: 'x' })).toBe(0)
})

describe('text', () => {
  test('NUL goes, a lone surrogate is replaced, a pair is kept', () => {
    expect(cleanText('a\0b')).toBe('ab')
    expect(cleanText('\ud800x')).toBe('\ufffdx')
    expect(cleanText('🚀')).toBe('🚀')
  })

  test('a value that needs nothing is passed on as it is', () => {
    const value = { text: 'back\\u0000slash 🚀', ключ: [1, null, true] }
    const clean = cleanJson(value)
    expect(clean.altered).toBe(false)
    expect(JSON.parse(clean.json)).toEqual(value)
  })

  test('keys and nested texts are cleaned too', () => {
    const clean = cleanJson({ 'a\0': [{ b: 'c\0' }], n: 1 })
    expect(clean).toEqual({
      value: { a: [{ b: 'c' }], n: 1 },
      json: '{"a":[{"b":"c"}],"n":1}',
      altered: true,
    })
  })
})

test.each([
  ['2024-01-02T03:04:05.678Z', '2024-01-02T03:04:05.678Z'],
  ['2024-02-29T23:59:59.999Z', '2024-02-29T23:59:59.999Z'],
  ['2023-02-29T23:59:59.999Z', '2023-03-01T23:59:59.999Z'],
  ['2024-01-31T24:00:00.000Z', '2024-02-01T00:00:00.000Z'],
  ['2024-01-28T24:00:00.000Z', '2024-01-29T00:00:00.000Z'],
  ['2024-01-02T03:04:60.000Z', '1970-01-01T00:00:00.000Z'],
  ['2024-01-02T03:04:05Z', '2024-01-02T03:04:05.000Z'],
  ['2024-01-02T03:04:05.123456789Z', '2024-01-02T03:04:05.123Z'],
  ['2024-01-02T03:04:05+02:00', '2024-01-02T01:04:05.000Z'],
  ['2024-01-02T03:04:05', '2024-01-02T03:04:05.000Z'],
  ['2024-01-02', '2024-01-02T00:00:00.000Z'],
  ['yesterday', '1970-01-01T00:00:00.000Z'],
  ['', '1970-01-01T00:00:00.000Z'],
  ['+012345-01-01T00:00:00Z', '1970-01-01T00:00:00.000Z'],
  ['-000001-01-01T00:00:00Z', '1970-01-01T00:00:00.000Z'],
])('the time %s is %s', (text, expected) => {
  expect(normaliseTime(text)).toBe(expected)
})

test('a blob is its CID as text in every form that was ever written', () => {
  expect(blobCid({ $type: 'blob', ref: { $link: 'x' }, mimeType: 'a/b', size: 1 })).toBe('x')
  expect(blobCid({ ref: 'x', mimeType: 'a/b' })).toBe('x')
  expect(blobCid({ cid: 'x', mimeType: 'a/b' })).toBe('x')
  for (const none of [undefined, null, 'x', {}, { ref: null }, { ref: { $link: 1 } }]) {
    expect(blobCid(none)).toBeNull()
  }
})

test('the parts of a uri that lacks some are empty', () => {
  expect(partsOf('at://did:a:b/c.d.e/f')).toEqual({
    authority: 'did:a:b',
    collection: 'c.d.e',
    rkey: 'f',
  })
  expect(partsOf('at://did:a:b')).toEqual({ authority: 'did:a:b', collection: '', rkey: '' })
  expect(authorOf('at://did:a:b/c?d#e')).toBe('did:a:b')
})

test.each([
  [true, 'takendown', null],
  [false, 'takendown', 'takendown'],
  [false, 'suspended', 'suspended'],
  [false, 'deactivated', 'deactivated'],
  [false, 'deleted', 'deactivated'],
  [false, 'throttled', null],
  [false, 'desynchronized', null],
  [false, 'something new', 'deactivated'],
  [false, null, 'deactivated'],
])('an account that is active %s and %s shows as %s', (active, status, shown) => {
  expect(upstreamStatus(active, status)).toBe(shown)
})

test('the last account event is the latest by time, then by seq', () => {
  const event = (time: string, seq: number) =>
    ({ type: 'account', did: 'd', time, seq, active: true, status: null }) as const
  expect(compareHosted(event('2', 1), event('1', 9))).toBeGreaterThan(0)
  expect(newestHosted([event('1', 3), event('1', 4), event('0', 9)])).toEqual([event('1', 4)])
})

test('an indexer has at most 12 connections to Postgres, whatever its settings', () => {
  const settings = { batchSize: 500, concurrency: 2_000, poolMaxSize: 40, streams: ['a', 'b'] }
  expect(connectionsOf(settings)).toBe(10)
  for (const concurrency of [1, 100, 100_000])
    expect(connectionsOf({ ...settings, concurrency })).toBeLessThanOrEqual(12)
  expect(connectionsOf({ ...settings, streams: ['a', 'b', 'c', 'd'] })).toBe(12)
  expect(connectionsOf({ ...settings, poolMaxSize: 3 })).toBe(3)
})

test('the snapshot that counts for a collection is the newest that covers it', () => {
  const snapshots = { '*': '3', 'app.bsky.*': '5', 'app.bsky.feed.like': '4' }
  expect(snapshotRev(snapshots, 'app.bsky.feed.like')).toBe('5')
  expect(snapshotRev(snapshots, 'com.example.x')).toBe('3')
  expect(snapshotRev({ 'app.bsky.*': '5' }, 'com.example.x')).toBeNull()
  expect(snapshotRev(undefined, 'com.example.x')).toBeNull()
})

test.each([
  [500, 100, { batchSize: 50, transactions: 2 }],
  [500, 500, { batchSize: 250, transactions: 2 }],
  [500, 2_000, { batchSize: 500, transactions: 3 }],
  [1_000, 3_000, { batchSize: 1_000, transactions: 3 }],
  [1_000, 2_000, { batchSize: 1_000, transactions: 2 }],
  [500, 1_000, { batchSize: 500, transactions: 2 }],
  [1, 1, { batchSize: 1, transactions: 1 }],
])('batches of %i with %i events in flight', (batchSize, concurrency, expected) => {
  expect(flightOf({ batchSize, concurrency })).toEqual(expected)
})
