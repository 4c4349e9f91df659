import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { decodeLabels, encodeLabel, type Label, type LabelEvent } from '../shared/events.ts'
import { createLog } from '../shared/log.ts'
import { testRedis } from '../test/servers/redis.ts'
import { warnOfOtherLabelGroups } from './indexer.ts'
import { applyLabels } from './labels.ts'
import { did, type TestIndexer, testIndexer } from './testing.ts'

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
beforeEach(async () => {
  await indexer.sql.unsafe('truncate label')
})

const labeler = did('labeler')
const uri = `at://${did('alice')}/app.bsky.feed.post/3kz2222222222`

const aLabel = (hour: number, more: Partial<Label> = {}): Label => ({
  src: labeler,
  uri,
  val: 'spam',
  cts: `2026-01-01T0${hour}:00:00Z`,
  ...more,
})
const event = (...labels: Label[]): LabelEvent => ({ type: 'label', seq: 1, labels })

const apply = (...events: LabelEvent[]) =>
  applyLabels({ sql: indexer.sql, schema: 'bsky', statementTimeoutMs: 10_000 }, events)
const stored = () => indexer.sql.unsafe('select * from label order by cid, val')

test('a label is a row, its time normalised, its missing cid empty', async () => {
  const result = await apply(event(aLabel(1, { exp: '2027-01-01T00:00:00+01:00' })))
  expect(result).toEqual({ outcomes: ['applied'], added: 1, removed: 0 })
  expect(await stored()).toEqual([
    {
      src: labeler,
      uri,
      cid: '',
      val: 'spam',
      neg: false,
      cts: '2026-01-01T01:00:00.000Z',
      exp: '2026-12-31T23:00:00.000Z',
    },
  ])
})

test('the newest statement counts in any order, in one batch or several', async () => {
  const first = event(aLabel(1))
  const second = event(aLabel(2, { neg: true }))
  const third = event(aLabel(3))
  for (const order of [
    [first, second, third],
    [third, second, first],
    [second, third, first],
  ]) {
    await indexer.sql.unsafe('truncate label')
    for (const each of order) await apply(each)
    expect(await stored()).toMatchObject([{ neg: false, cts: '2026-01-01T03:00:00.000Z' }])
    await indexer.sql.unsafe('truncate label')
    await apply(...order)
    expect(await stored()).toMatchObject([{ neg: false, cts: '2026-01-01T03:00:00.000Z' }])
  }
})

test('of two statements of one moment the negation counts, and its row is kept', async () => {
  await apply(event(aLabel(1, { neg: true })))
  expect((await apply(event(aLabel(1)))).outcomes).toEqual(['stale'])
  expect(await stored()).toMatchObject([{ neg: true }])
})

test('labels of a version, of another value and of another labeler stand beside each other', async () => {
  const other = aLabel(1, { src: did('other') })
  await apply(event(aLabel(1), aLabel(1, { cid: 'bafy' }), aLabel(1, { val: '!hide' }), other))
  expect(await stored()).toHaveLength(4)
})

test('a label is the same in the form of either family of workers', async () => {
  const label = aLabel(1, { neg: false })
  const ours = decodeLabels(encodeLabel(label, 7))
  const rust = { seq: 7, labels: [{ ...label, cid: null, cts: '2026-01-01 01:00:00.000 UTC' }] }
  const theirs = decodeLabels(['labels', JSON.stringify(rust)])
  expect((await apply(ours)).outcomes).toEqual(['applied'])
  expect((await apply(theirs)).outcomes).toEqual(['stale'])
  expect(await stored()).toHaveLength(1)
})

test.each([
  '2026-01-01 01:30:00.123456 UTC',
  '2026-01-01T03:30:00.123456+02:00',
  '2026-01-01T01:30:00.1Z',
])('a stored time in another form counts for the moment that it is: %s', async (cts) => {
  await indexer.sql.unsafe(
    `insert into label (src, uri, cid, val, neg, cts) values ($1, $2, '', 'spam', true, $3)`,
    [labeler, uri, cts],
  )
  expect((await apply(event(aLabel(1)))).outcomes).toEqual(['stale'])
  expect((await apply(event(aLabel(2)))).outcomes).toEqual(['applied'])
  expect(await stored()).toMatchObject([{ neg: false, cts: '2026-01-01T02:00:00.000Z' }])
})

test('a label that expires is kept with its end, and of two of one moment the one that lasts', async () => {
  const short = event(aLabel(1, { exp: '2026-01-02T00:00:00Z' }))
  const long = event(aLabel(1, { exp: '2026-01-03T00:00:00Z' }))
  for (const order of [
    [short, long],
    [long, short],
  ]) {
    await indexer.sql.unsafe('truncate label')
    for (const each of order) await apply(each)
    expect(await stored()).toMatchObject([{ exp: '2026-01-03T00:00:00.000Z' }])
  }
})

test('a batch that comes again is stale', async () => {
  const batch = [event(aLabel(1)), event(aLabel(2, { neg: true }))]
  expect(await apply(...batch)).toEqual({ outcomes: ['stale', 'applied'], added: 0, removed: 1 })
  expect(await apply(...batch)).toEqual({ outcomes: ['stale', 'stale'], added: 0, removed: 0 })
})

test('a label whose time can not be read is refused, its neighbours are not', async () => {
  const result = await apply(event(aLabel(1, { cts: 'soon' })), event(aLabel(1)))
  expect(result.outcomes).toEqual(['refused:label', 'applied'])
})

test('text that Postgres can not hold is left out', async () => {
  await apply(event(aLabel(1, { val: 'sp\0am' })))
  expect(await stored()).toMatchObject([{ val: 'spam' }])
})

test('that another group holds the progress of the labels is told, until ours is there', async () => {
  await using server = await testRedis()
  const { redis } = server
  const lines: string[] = []
  const log = createLog('indexer', 'warn', { write: (line: string) => void lines.push(line) })
  const warn = () =>
    warnOfOtherLabelGroups(
      redis,
      { labelGroup: 'ours' },
      { log, signal: AbortSignal.timeout(9_000) },
    )
  await warn()
  expect(lines).toEqual([])
  await redis.xgroup('CREATE', 'label_live', 'rust_group', '0', 'MKSTREAM')
  await warn()
  expect(JSON.parse(lines.join())).toMatchObject({ group: 'ours', others: ['rust_group'] })
  await redis.xgroup('CREATE', 'label_live', 'ours', '0')
  await warn()
  expect(lines).toHaveLength(1)
})
