/** Turns at hosts: how many, how close together, and when a host is left alone. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createHosts, limitsOf } from './hosts.ts'

const { signal } = new AbortController()

beforeEach(() => void vi.useFakeTimers({ now: 1_800_000_000_000 }))
afterEach(() => void vi.useRealTimers())

/** The milliseconds after which each of `count` turns was given, all asked for at once. */
async function turnsAt(hosts: ReturnType<typeof createHosts>, host: string, count: number) {
  const start = Date.now()
  const times: number[] = []
  for (let asked = 0; asked < count; asked += 1) {
    void hosts.turn(host, signal).then((turn) => {
      times.push(Date.now() - start)
      turn[Symbol.dispose]()
    })
  }
  await vi.advanceTimersByTimeAsync(3_600_000)
  return times
}

test('requests to one host keep their distance, those to another do not wait for them', async () => {
  const hosts = createHosts({ spacingMs: 100, burst: 1 })
  const slow = turnsAt(hosts, 'slow', 4)
  const other = turnsAt(hosts, 'other', 1)
  expect(await slow).toEqual([0, 100, 200, 300])
  expect(await other).toEqual([0])
})

test('no more requests run at a host than its bound', async () => {
  const hosts = createHosts({ concurrency: 2, spacingMs: 0 })
  const first = await hosts.turn('host', signal)
  await hosts.turn('host', signal)
  let third = false
  void hosts.turn('host', signal).then(() => {
    third = true
  })
  await vi.advanceTimersByTimeAsync(60_000)
  expect(third).toBe(false)
  first[Symbol.dispose]()
  await vi.advanceTimersByTimeAsync(0)
  expect(third).toBe(true)
})

test('what is left of a window is shared out over it, and an empty one is waited for', async () => {
  const hosts = createHosts({ spacingMs: 10, burst: 1, patientMs: 1e9 })
  using turn = await hosts.turn('host', signal)
  turn.heard({ remaining: 10, resetAt: Date.now() + 10_000 })
  const times = await turnsAt(hosts, 'host', 3)
  expect(times).toEqual([1_000, 2_000, 3_000])
  turn.heard({ remaining: 0, resetAt: Date.now() + 5_000 })
  expect((await turnsAt(hosts, 'host', 1))[0]).toBe(5_000)
})

test('a host that asks to be left alone is left alone, for an hour at most', async () => {
  const hosts = createHosts({ spacingMs: 10, burst: 1, patientMs: 1e9 })
  using turn = await hosts.turn('host', signal)
  turn.heard({ retryAfterMs: 7_000 })
  expect(await turnsAt(hosts, 'host', 1)).toEqual([7_000])
  turn.heard({ retryAfterMs: 999_999_999 })
  expect(await turnsAt(hosts, 'host', 1)).toEqual([3_600_000])
})

test('a host that fails again and again cools off longer each time, until it works', async () => {
  const hosts = createHosts({ spacingMs: 0, patience: 3, coolingMs: 1_000, patientMs: 1e9 })
  const turn = await hosts.turn('host', signal)
  turn[Symbol.dispose]()
  const after = async (failures: number) => {
    for (let failed = 0; failed < failures; failed += 1) turn.failed()
    return (await turnsAt(hosts, 'host', 1))[0]
  }
  expect(await after(2)).toBe(0)
  expect(await after(1)).toBe(1_000)
  expect(await after(1)).toBe(2_000)
  expect(await after(20)).toBe(60_000)
  turn.worked()
  expect(await after(2)).toBe(0)
})

test('a long pause sends away those who wait, and those who come', async () => {
  const hosts = createHosts({ concurrency: 1, spacingMs: 0, patientMs: 30_000 })
  using turn = await hosts.turn('host', signal)
  const waiting = hosts.turn('host', signal)
  turn.heard({ retryAfterMs: 300_000 })
  const until = Date.now() + 300_000
  await expect(waiting).rejects.toMatchObject({ name: 'NotNowError', until })
  await expect(hosts.turn('host', signal)).rejects.toMatchObject({ until })
  await expect(hosts.turn('other', signal)).resolves.toBeDefined()
})

test('after a time without requests a few may follow each other at once', async () => {
  const hosts = createHosts({ spacingMs: 100, burst: 3 })
  expect(await turnsAt(hosts, 'host', 5)).toEqual([0, 0, 0, 100, 200])
})

test('a host for which enough requests wait takes no more of them', async () => {
  const hosts = createHosts({ concurrency: 1, mostWaiting: 2 })
  await hosts.turn('busy', signal)
  void hosts.turn('busy', signal)
  void hosts.turn('busy', signal)
  await expect(hosts.turn('busy', signal)).rejects.toMatchObject({ name: 'NotNowError', until: 0 })
  await expect(hosts.turn('idle', signal)).resolves.toBeDefined()
})

test('nor does one that is between two requests', async () => {
  const hosts = createHosts({ spacingMs: 1_000, burst: 1, mostWaiting: 2 })
  const first = await hosts.turn('quick', signal)
  first[Symbol.dispose]()
  void hosts.turn('quick', signal)
  void hosts.turn('quick', signal)
  await expect(hosts.turn('quick', signal)).rejects.toMatchObject({ name: 'NotNowError', until: 0 })
})

test('a host that has failed is tried with one request, until it works', async () => {
  const hosts = createHosts({ spacingMs: 0, patience: 2 })
  const turns = [await hosts.turn('host', signal), await hosts.turn('host', signal)]
  expect(turns.map((turn) => turn.failed())).toEqual([false, true])
  for (const turn of turns) turn[Symbol.dispose]()
  await vi.advanceTimersByTimeAsync(1_000)
  const trial = await hosts.turn('host', signal)
  await expect(hosts.turn('host', signal)).rejects.toMatchObject({ name: 'NotNowError', until: 0 })
  trial.worked()
  await expect(hosts.turn('host', signal)).resolves.toBeDefined()
})

test('a slow host is asked one at a time, until it is quick again', async () => {
  const hosts = createHosts({ spacingMs: 0 })
  const first = await hosts.turn('host', signal)
  first.dragged()
  first.worked()
  await expect(hosts.turn('host', signal)).rejects.toMatchObject({ name: 'NotNowError' })
  first[Symbol.dispose]()
  using turn = await hosts.turn('host', signal)
  expect(turn.slow).toBe(true)
  turn.worked()
  await expect(hosts.turn('host', signal)).resolves.toMatchObject({ slow: false })
})

test('a slow host is given another chance after a while, a later one each time', async () => {
  const hosts = createHosts({ spacingMs: 0 })
  const isSlowAfter = async (ms: number) => {
    await vi.advanceTimersByTimeAsync(ms)
    using turn = await hosts.turn('host', signal)
    return turn.slow
  }
  for (const seconds of [10, 20, 40]) {
    {
      using turn = await hosts.turn('host', signal)
      turn.dragged()
    }
    expect(await isSlowAfter(seconds * 1_000 - 1)).toBe(true)
    expect(await isSlowAfter(1)).toBe(false)
  }
})

test('who is urgent has the next turn', async () => {
  const hosts = createHosts({ concurrency: 1, spacingMs: 0 })
  const first = await hosts.turn('host', signal)
  const order: string[] = []
  const ask = (name: string, urgent: boolean) =>
    hosts.turn('host', signal, urgent).then((turn) => {
      order.push(name)
      turn[Symbol.dispose]()
    })
  const all = [ask('bulk', false), ask('resync', true), ask('by hand', true)]
  first[Symbol.dispose]()
  await Promise.all(all)
  expect(order).toEqual(['resync', 'by hand', 'bulk'])
})

test('who stops waiting gives the place to the next', async () => {
  const hosts = createHosts({ concurrency: 1, spacingMs: 0 })
  const first = await hosts.turn('host', signal)
  const leaving = new AbortController()
  const left = hosts.turn('host', leaving.signal)
  const next = hosts.turn('host', signal)
  leaving.abort(new Error('leaving'))
  await expect(left).rejects.toThrow('leaving')
  first[Symbol.dispose]()
  await expect(next).resolves.toBeDefined()
})

test('hosts without requests are forgotten beyond a bound', async () => {
  const hosts = createHosts({ spacingMs: 0 })
  for (let number = 0; number < 10_100; number += 1) {
    const turn = await hosts.turn(`host${number}`, signal)
    turn[Symbol.dispose]()
    await vi.advanceTimersByTimeAsync(1)
  }
  expect(hosts.size).toBeLessThanOrEqual(10_000)
})

test.each([
  [{ 'retry-after': '3' }, { retryAfterMs: 3_000 }],
  [{ 'retry-after': new Date(1_800_000_009_000).toUTCString() }, { retryAfterMs: 9_000 }],
  [{ 'retry-after': 'soon' }, {}],
  [{ 'retry-after': '-5' }, {}],
  [
    { 'ratelimit-remaining': '7', 'ratelimit-reset': '1800000300' },
    { remaining: 7, resetAt: 1_800_000_300_000 },
  ],
  [
    { 'ratelimit-remaining': '7', 'ratelimit-reset': '60' },
    { remaining: 7, resetAt: 1_800_000_060_000 },
  ],
  [{ 'ratelimit-remaining': 'many', 'ratelimit-reset': '' }, {}],
])('the headers %o say %o', (headers, limits) => {
  expect(limitsOf(headers)).toEqual(limits)
})
