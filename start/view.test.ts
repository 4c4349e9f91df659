/** What the screen of npm start shows, in whatever room it has. */
import { stripVTControlCharacters } from 'node:util'
import fc from 'fast-check'
import stringWidth from 'string-width'
import { expect, test } from 'vitest'
import { render } from './view.ts'
import type { Condition, FaultStage, ViewState } from './view-state.ts'
import { bar, duration, rate, short, sparkline } from './view-text.ts'

const running: ViewState = {
  title: 'demo on a simulated network',
  stage: 'running',
  upSeconds: 134,
  workers: { ingester: 'ready', indexer: 'ready', backfiller: 'waiting' },
  servers: { redis: 'ready', postgres: 'away' },
  rates: { frames: 25.3, labels: 0.31, repos: 2.12, events: 1311 },
  history: [0, 0, 120, 480, 960, 1311, 1100, 1311],
  peak: 2204,
  waiting: { live: 0, labels: 0, backfill: 1312, requests: 122 },
  behindSeconds: 0.32,
  rows: { record: 12345, post: 4221, like: 3021, repost: 322, follow: 2223, block: 12 },
  backfill: { done: 118, total: 240, leftSeconds: 42 },
  deadLetters: 0,
  ports: [
    ['Redis', [46605]],
    ['Postgres', [37121]],
    ['/metrics', [41573, 35353, 38007]],
  ],
  faults: [
    { at: '20:03:12', text: 'the relay cuts its connections', stage: 'healed', seconds: 1.2 },
    { at: '20:03:42', text: 'Redis stands still for 4 s', stage: 'failing', seconds: 2.6 },
  ],
  log: ['20:03:01 following http://127.0.0.1:33707'],
  footer: 'Ctrl-C ends it',
}

test('80 columns and 24 rows hold all of it', () => {
  expect(render(running, { columns: 80, rows: 24, colour: false }).join('\n')).toBe(
    `
 Sluice  demo on a simulated network                      ● running  2 min 14 s

                  ┌────────────┐  Redis ● ready                  ┌────────────┐
 relay     25/s ─▶│  ingester  ├─ firehose_live ─────────── 0 ──▶│  indexer   │
 labeler  0.3/s ─▶│  ● ready   ├─ label_live ────────────── 0 ──▶│  ● ready   │
 lists of repos ─▶│ 0.3 s late │                            ┌───▶│  1,311/s   │
                  └─────┬──────┘                            │    └─────┬──────┘
                        │ repo_backfill 122                 │          │
                  ┌─────▼──────┐                            │    ┌─────▼──────┐
 PDSes          ─▶│ backfiller ├─ firehose_backfill  1,312 ─┘    │  Postgres  │
                  │ ◐ waiting  │                                 │ ✕ no reply │
                  │2.1 repos/s │                                 │ 12.3k rows │
                  └────────────┘                                 └────────────┘
 events    1,311/s                                       ▁▁▁▃▆█▇█  peak 2,204/s
 rows      record     12,345   post        4,221   like        3,021
           repost        322   follow      2,223   block          12
 backfill  ██████████░░░░░░░░░░░ 118 of 240 repos · 49 % · about 42 s left
 lag       1,312 entries, 0.3 s behind the relay · dead letters 0
 ports     Redis 46605 · Postgres 37121 · /metrics 41573, 35353, 38007
 faults    20:03:12 ✔ the relay cuts its connections: healed after 1.2 s
           20:03:42 ✕ Redis stands still for 4 s: for 2.6 s
 log       20:03:01 following http://127.0.0.1:33707

 Ctrl-C ends it`.slice(1),
  )
})

const condition = fc.constantFrom<Condition>('starting', 'ready', 'waiting', 'away', 'ended')
const number = fc.oneof(fc.nat(), fc.double({ min: 0, noNaN: true }), fc.constant(Infinity))
const perhaps = fc.option(number)
const wide = fc.constantFrom(
  '記録',
  '👩‍👩‍👧',
  'é',
  '\u001b[31mred',
  '\t',
  '\n',
  '\u001b]0;title\u0007',
  'a',
)
const text = fc
  .array(fc.oneof(wide, fc.string({ unit: 'grapheme' })), { maxLength: 60 })
  .map((parts) => parts.join(''))
const faultStage = fc.constantFrom<FaultStage>('failing', 'healing', 'healed', 'stuck')

const anyState: fc.Arbitrary<ViewState> = fc.record({
  title: text,
  stage: fc.constantFrom('starting', 'running', 'stopping'),
  upSeconds: number,
  workers: fc.record({ ingester: condition, indexer: condition, backfiller: condition }),
  servers: fc.record({ redis: condition, postgres: condition }),
  rates: fc.record({ frames: perhaps, labels: perhaps, repos: perhaps, events: perhaps }),
  history: fc.array(number),
  peak: number,
  waiting: fc.record({ live: perhaps, labels: perhaps, backfill: perhaps, requests: perhaps }),
  behindSeconds: perhaps,
  rows: fc.dictionary(text, number),
  backfill: fc.option(fc.record({ done: number, total: number, leftSeconds: perhaps })),
  deadLetters: perhaps,
  ports: fc.array(fc.tuple(text, fc.array(fc.nat()))),
  faults: fc.array(fc.record({ at: text, text, stage: faultStage, seconds: number })),
  log: fc.array(text),
  footer: text,
})
const anySize = fc.record({
  columns: fc.oneof(fc.integer({ min: 1, max: 220 }), fc.constantFrom(79, 80, 120)),
  rows: fc.integer({ min: 1, max: 70 }),
  colour: fc.boolean(),
})

test('whatever there is to show, it fills the rows and no line is wider than the screen', () => {
  fc.assert(
    fc.property(anyState, anySize, (state, size) => {
      const lines = render(state, size)
      expect(lines.length).toBe(size.rows)
      for (const line of lines) expect(stringWidth(line)).toBeLessThanOrEqual(size.columns)
    }),
    { numRuns: 150 },
  )
})

test('without colour nothing but text is written, and with it the same text', () => {
  fc.assert(
    fc.property(anyState, anySize, (state, size) => {
      const plain = render(state, { ...size, colour: false })
      const coloured = render(state, { ...size, colour: true })
      // biome-ignore lint/suspicious/noControlCharactersInRegex: there must be none.
      for (const line of plain) expect(line).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/)
      expect(coloured.map(stripVTControlCharacters)).toEqual(plain)
    }),
    { numRuns: 50 },
  )
})

test('colours are all that is written besides text', () => {
  const hostile = { ...running, log: ['\u001b[2J\u001b[1;1Hgone\r\nnext'] }
  const text = render(hostile, { columns: 80, rows: 24, colour: true }).join('')
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the sequences looked for.
  for (const [sequence] of text.matchAll(/\u001b\[[^a-zA-Z]*[a-zA-Z]/g))
    expect(sequence).toMatch(/m$/)
  expect(text).toContain('gone next')
})

test('a higher screen has a higher curve and more of the log', () => {
  const log = Array.from({ length: 50 }, (_, at) => `line ${at}`)
  const lines = render({ ...running, log }, { columns: 120, rows: 50, colour: false })
  expect(lines.filter((line) => /[▁▂▃▄▅▆▇█]/.test(line)).length).toBeGreaterThan(3)
  expect(lines.filter((line) => line.includes('line ')).length).toBeGreaterThan(8)
  expect(lines.join()).toContain('line 49')
})

test('a small screen names all parts without the diagram', () => {
  const lines = render(running, { columns: 50, rows: 16, colour: false }).join('\n')
  for (const part of ['ingester', 'indexer', 'backfiller', 'Redis', 'Postgres', 'events', 'rows']) {
    expect(lines).toContain(part)
  }
  expect(lines).not.toContain('┌')
})

test.for([
  [0, '0'],
  [9_999, '9,999'],
  [10_000, '10.0k'],
  [123_456, '123k'],
  [12_345_678, '12.3M'],
  [9.99e14, '999T'],
  [1e300, '>9999P'],
  [Number.NaN, '–'],
  [null, '–'],
] as const)('%s is written as %s', ([value, written]) => {
  expect(short(value)).toBe(written)
})

test('a rate below ten keeps a decimal', () => {
  expect([0, 0.04, 0.31, 9.96, 1311].map((value) => rate(value))).toEqual([
    '0/s',
    '0/s',
    '0.3/s',
    '10/s',
    '1,311/s',
  ])
})

test('times are told in two units at the most', () => {
  const seconds = [0, 9.94, 59.4, 59.6, 3_599.6, 3_661, 90_000]
  expect(seconds.map(duration)).toEqual([
    '0.0 s',
    '9.9 s',
    '59 s',
    '1 min 0 s',
    '1 h 0 min',
    '1 h 1 min',
    '1 d 1 h',
  ])
})

test('a curve as high as three lines has the newest on the right and a floor', () => {
  expect(sparkline([0, 12, 24], 5, 3)).toEqual(['    █', '   ▄█', '  ▁██'])
})

test('a bar is full only when nothing is left', () => {
  expect(bar(0.999, 10)).toEqual({ full: '█'.repeat(9), empty: '░' })
  expect(bar(1, 10)).toEqual({ full: '█'.repeat(10), empty: '' })
})
