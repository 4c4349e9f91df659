/** What the board makes of what is measured. */
import { expect, test } from 'vitest'
import type { StreamStatus } from './status.ts'
import { createBoard } from './view-board.ts'
import { createMeter, readLabelled, readPage } from './view-meter.ts'
import { newWorker, type Service, type WorkerState } from './worker.ts'

const idle = { live: 0, labels: 0, backfill: 0, requests: 0 }
const measured = (status: Partial<StreamStatus> = {}): StreamStatus => ({
  indexed: 0,
  waiting: idle,
  requestsDone: 0,
  deadLetters: 0,
  ...status,
})

function timedBoard(options: { onFault?: (line: string) => void } = {}) {
  const clock = { ms: 0 }
  const board = createBoard({ title: '', now: () => clock.ms, timeOfDay: () => 'noon', ...options })
  return { board, clock }
}

function readyWorkers(): WorkerState[] {
  const services: Service[] = ['ingester', 'indexer', 'backfiller']
  return services.map((service) => ({ ...newWorker(service), pid: 1, lives: 1, page: 'http://x' }))
}

test('a server that is not heard of for three seconds does not reply', () => {
  const { board, clock } = timedBoard()
  expect(board.state().servers.redis).toBe('starting')
  board.streams(measured())
  clock.ms = 3_000
  expect(board.state().servers.redis).toBe('ready')
  clock.ms = 3_001
  expect(board.state().servers.redis).toBe('away')
})

test('all is sound only while every part replies, is ready and has little before it', () => {
  const { board } = timedBoard()
  const workers = readyWorkers()
  board.follow(workers)
  board.rows({})
  expect(board.isSound()).toBe(false)
  board.streams(measured({ waiting: { ...idle, live: 1_001 } }))
  expect(board.isSound()).toBe(false)
  board.streams(measured({ waiting: { ...idle, requests: 5_000 } }))
  expect(board.isSound()).toBe(true)
  const [ingester] = workers
  if (ingester) ingester.problems = { relay: 'lost' }
  expect(board.isSound()).toBe(false)
})

test('a worker is starting, then ready, waiting, silent or ended', () => {
  const { board } = timedBoard()
  const states: Partial<WorkerState>[] = [
    {},
    { pid: 1, lives: 1 },
    { pid: 1, lives: 1, page: 'http://x' },
    { pid: 1, lives: 1, page: 'http://x', problems: { relay: 'lost' } },
    { pid: 1, lives: 1, page: 'http://x', problems: { 'its pages': 'no answer' } },
    { lives: 1 },
  ]
  const seen = states.map((state) => {
    board.follow([{ ...newWorker('indexer'), ...state }])
    return board.state().workers.indexer
  })
  expect(seen).toEqual(['starting', 'starting', 'ready', 'waiting', 'away', 'ended'])
})

test('a second in which nothing could be measured counts as a quiet one', () => {
  const { board, clock } = timedBoard()
  for (const indexed of [0, 50, null, 150]) {
    if (indexed !== null) board.streams(measured({ indexed }))
    board.tick()
    clock.ms += 1_000
  }
  expect(board.state().history).toEqual([0, 50, 0, 50])
  expect(board.state().peak).toBe(50)
})

test('the remaining time of a backfill is told once it has gone on for a while', () => {
  const { board, clock } = timedBoard()
  expect(board.state().backfill).toBeNull()
  board.streams(measured({ waiting: { ...idle, requests: 30 } }))
  expect(board.state().backfill).toEqual({ done: 0, total: 30, leftSeconds: null })
  clock.ms = 10_000
  board.streams(measured({ requestsDone: 10, waiting: { ...idle, requests: 20 } }))
  expect(board.state().backfill).toEqual({ done: 10, total: 30, leftSeconds: 20 })
})

test('a fault is told when it begins and when it has healed', () => {
  const lines: string[] = []
  const { board, clock } = timedBoard({ onFault: (line) => lines.push(line) })
  const fault = board.fault('the relay is gone')
  clock.ms = 2_000
  fault.healing('2 readers')
  expect(board.state().faults).toEqual([
    { at: 'noon', text: 'the relay is gone (2 readers)', stage: 'healing', seconds: 2 },
  ])
  fault.healed()
  clock.ms = 9_000
  expect(board.state().faults[0]).toMatchObject({ stage: 'healed', seconds: 2 })
  expect(lines).toEqual([
    'fault: the relay is gone',
    'healed after 2.0 s: the relay is gone (2 readers)',
  ])
})

test('ports are told of whatever listens', () => {
  const { board } = timedBoard()
  board.listens('Redis', 46605)
  board.follow([{ ...newWorker('indexer'), page: 'http://127.0.0.1:35353' }, newWorker('ingester')])
  expect(board.state().ports).toEqual([
    ['Redis', [46605]],
    ['/metrics', [35353]],
  ])
})

test('a counter that begins anew gives no negative rate', () => {
  const meter = createMeter(5_000)
  meter.take(100, 0)
  meter.take(200, 1_000)
  expect(meter.perSecond()).toBe(100)
  meter.take(5, 2_000)
  expect(meter.perSecond()).toBeNull()
  meter.take(10, 3_000)
  expect(meter.perSecond()).toBe(5)
})

test('a meter looks back no further than its window', () => {
  const meter = createMeter(2_000)
  for (const [at, value] of [0, 1_000, 1_010, 1_020, 1_030].entries()) meter.take(value, at * 1_000)
  expect(meter.perSecond()).toBe(10)
})

test('a page of metrics is read by name and by label', () => {
  const page = `# HELP a_total Frames.
a_total{kind="x",host="one"} 2
a_total{kind="y",host="two"} 3
b 1.5e+3
c NaN`
  expect(readPage(page)).toEqual(
    new Map([
      ['a_total', 5],
      ['b', 1_500],
    ]),
  )
  expect(readLabelled(page, 'a_total', 'host')).toEqual(
    new Map([
      ['one', 2],
      ['two', 3],
    ]),
  )
  expect(readLabelled(page, 'a_total', 'host', 'kind="y"')).toEqual(new Map([['two', 3]]))
})
