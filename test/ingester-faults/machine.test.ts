/** The machine of the ingester has a wrong clock, or finds no names. */
import dns from 'node:dns'
import { afterEach, expect, test, vi } from 'vitest'
import { steppedClock } from '../../simulator/clock.ts'
import { testRedis } from '../servers/redis.ts'
import { openFaultRoom, patience } from './room.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const tenMinutes = 600_000
const realNow = () => Math.floor(performance.timeOrigin + performance.now())

/** Sets the clock that every part of the ingester reads. */
function setClock(offMs: number): void {
  vi.restoreAllMocks()
  if (offMs !== 0) vi.spyOn(Date, 'now').mockImplementation(() => realNow() + offMs)
}

test('a clock ten minutes fast refuses nothing', { timeout: 120_000 }, async () => {
  setClock(tenMinutes)
  await using redis = await testRedis()
  const clock = steppedClock(realNow(), 1, 7)
  await using room = await openFaultRoom({ redisUrl: redis.url, network: { clock } })
  const ingester = room.start()
  await room.live(240)
  expect(await room.judge()).toEqual([])
  expect(await ingester.metric('ingester_refused_total')).toBe(0)
})

test('a clock ten minutes slow stops the reading with the reason, refuses nothing, and right again loses nothing', {
  timeout: 120_000,
}, async () => {
  setClock(-tenMinutes)
  await using redis = await testRedis()
  const clock = steppedClock(realNow(), 1, 7)
  await using room = await openFaultRoom({ redisUrl: redis.url, network: { clock } })
  const wrong = room.start()
  await room.live(240)
  const stops = () => wrong.metric('ingester_disconnects_total', { reason: 'clock' })
  await expect.poll(stops, patience).toBe(1)
  const said = wrong.log.find(({ level }) => level === 'error')
  expect(said?.msg).toContain('our clock or that of the relay is wrong')
  expect(await wrong.metric('ingester_refused_total')).toBe(0)
  expect(await room.cursor()).toBeLessThan(room.network.relay.lastSeq)
  await wrong.stop()
  setClock(0)
  const right = room.start()
  expect(await room.judge()).toEqual([])
  expect(await right.metric('ingester_refused_total')).toBe(0)
})

test('without names relay and directory are waited for, and nothing is lost', {
  timeout: 120_000,
}, async () => {
  const names = breakNames()
  await using redis = await testRedis()
  const named = (url: string) => url.replace('127.0.0.1', 'host.test')
  await using room = await openFaultRoom({ redisUrl: redis.url, named })
  const ingester = room.start()
  await room.liveDuring(async () => {
    await room.progress()
    names.fail(true)
    room.network.relay.disconnect()
    await expect.poll(names.failed, patience).toBeGreaterThan(0)
    const unreachable = () =>
      ingester.metric('ingester_disconnects_total', { reason: 'unreachable' })
    await expect.poll(unreachable, patience).toBeGreaterThan(0)
    names.fail(false)
    await room.progress()
  })
  expect(await room.judge()).toEqual([])
  expect(names.found()).toBeGreaterThan(1)
})

/** Looks up names that end in `.test`, all of this machine, as long as it does not fail. */
function breakNames() {
  const { lookup } = dns
  let failing = false
  const counts = { failed: 0, found: 0 }
  const broken = (
    name: string,
    options: dns.LookupOptions,
    callback: (...all: unknown[]) => void,
  ) => {
    if (!name.endsWith('.test')) return lookup(name, options, callback)
    counts[failing ? 'failed' : 'found'] += 1
    if (!failing) return lookup('127.0.0.1', options, callback)
    const error = Object.assign(new Error(`getaddrinfo EAI_AGAIN ${name}`), { code: 'EAI_AGAIN' })
    setImmediate(callback, error)
  }
  vi.spyOn(dns, 'lookup').mockImplementation(broken as typeof lookup)
  return {
    fail: (on: boolean) => {
      failing = on
    },
    failed: () => counts.failed,
    found: () => counts.found,
  }
}
