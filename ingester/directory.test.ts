import { expect, test } from 'vitest'
import { type Account, IdentityError } from '../shared/identity.ts'
import { FetchError } from '../shared/identity-fetch.ts'
import { createDirectory } from './directory.ts'

const second = 1_000

/** Time that passes when it is told to, and what is due in it. */
function aClock() {
  let now = 1_000_000
  let due: { at: number; call: () => void }[] = []
  const settle = () => new Promise((resolve) => setImmediate(resolve))
  return {
    now: () => now,
    after: (ms: number, call: () => void) => void due.push({ at: now + ms, call }),
    async pass(ms: number) {
      const until = now + ms
      for (;;) {
        await settle()
        const next = due.reduce((at, one) => Math.min(at, one.at), Number.POSITIVE_INFINITY)
        if (next > until) break
        now = Math.max(now, next)
        const calls = due.filter(({ at }) => at <= now)
        due = due.filter(({ at }) => at > now)
        for (const { call } of calls) call()
      }
      now = until
    },
  }
}

type Clock = ReturnType<typeof aClock>
const accountOf = (did: string): Account => ({ did, handle: null, pds: null, signingKey: null })
const tooOften = new IdentityError('unavailable', 'too often', {
  cause: new FetchError('unavailable', 'answered 429', { status: 429, retryAfterMs: 1_000 }),
})

/** A directory that takes 50 ms, allows so many a second, and may be away. */
function aServer(clock: Clock, perSecond = Number.POSITIVE_INFINITY) {
  const server = { asked: 0, answered: 0, refused: 0, away: false }
  let window = { since: 0, count: 0 }
  const resolve = (did: string, signal: AbortSignal) =>
    new Promise<Account>((answer, fail) => {
      signal.addEventListener('abort', () => fail(signal.reason), { once: true })
      server.asked += 1
      clock.after(50, () => {
        if (server.away) return fail(new IdentityError('unavailable', 'no answer'))
        if (clock.now() - window.since >= second) window = { since: clock.now(), count: 0 }
        window.count += 1
        if (window.count > perSecond) {
          server.refused += 1
          return fail(tooOften)
        }
        server.answered += 1
        answer(accountOf(did))
      })
    })
  return { server, resolve }
}

/** Asks for so many new accounts a second; tells how long each waited. */
async function flood(
  clock: Clock,
  directory: ReturnType<typeof createDirectory>,
  perSecond: number,
  seconds: number,
) {
  const waits: number[] = []
  let unavailable = 0
  for (let step = 0; step < seconds * 10; step += 1) {
    for (let number = 0; number < perSecond / 10; number += 1) {
      const began = clock.now()
      void directory.ask(`did:plc:${step}-${number}`, began + 5 * second).then((answer) => {
        waits.push(clock.now() - began)
        if (answer === 'unavailable') unavailable += 1
      })
    }
    await clock.pass(100)
  }
  await clock.pass(6 * second)
  return { asked: waits.length, longest: Math.max(...waits), unavailable, waits }
}

test('of 100,000 unknown accounts in front of ten answers a second nobody waits longer than five', async () => {
  const clock = aClock()
  const { server, resolve } = aServer(clock, 10)
  const stop = new AbortController()
  const directory = createDirectory({ resolve, signal: stop.signal, ...clock })
  const { asked, longest, unavailable, waits } = await flood(clock, directory, 500, 200)
  expect(asked).toBe(100_000)
  expect(longest).toBeLessThanOrEqual(5 * second)
  // Most are told at once: so the stream stays no more than a few seconds behind.
  expect(waits.filter((wait) => wait === 0).length / asked).toBeGreaterThan(0.95)
  expect(asked - unavailable).toBeGreaterThan(0.8 * server.answered)
  expect(server.answered).toBeGreaterThan(0.7 * 10 * 200)
  // It is asked little more often than it allows.
  expect(server.refused).toBeLessThan(0.15 * server.answered)
}, 60_000)

test('a directory that is away for a minute is asked by one at a time, and found again', async () => {
  const clock = aClock()
  const { server, resolve } = aServer(clock)
  const stop = new AbortController()
  const directory = createDirectory({ resolve, signal: stop.signal, ...clock })
  expect((await flood(clock, directory, 100, 5)).unavailable).toBe(0)
  server.away = true
  await flood(clock, directory, 100, 5)
  expect(directory.state).toBe('away')
  for (let number = 0; number < 200; number += 1)
    void directory.ask(`did:plc:patient-${number}`, null)
  const before = server.asked
  const { asked, waits } = await flood(clock, directory, 100, 55)
  expect(server.asked - before).toBeLessThan(30)
  expect(waits.filter((wait) => wait === 0).length / asked).toBeGreaterThan(0.98)
  server.away = false
  await flood(clock, directory, 100, 6)
  expect(directory.state).toBe('answering')
  expect((await flood(clock, directory, 100, 5)).unavailable).toBe(0)
})

test('a short fault makes those wait who ask, and lets none through', async () => {
  const clock = aClock()
  const { server, resolve } = aServer(clock)
  const stop = new AbortController()
  const directory = createDirectory({ resolve, signal: stop.signal, ...clock })
  server.away = true
  clock.after(2 * second, () => {
    server.away = false
  })
  expect((await flood(clock, directory, 20, 3)).unavailable).toBe(0)
})

test('who is in no hurry has his turn in a flood of those who are', async () => {
  const clock = aClock()
  const { resolve } = aServer(clock, 10)
  const stop = new AbortController()
  const directory = createDirectory({ resolve, signal: stop.signal, ...clock })
  await flood(clock, directory, 100, 10)
  let patient = 0
  for (let number = 0; number < 20; number += 1) {
    void directory.ask(`did:plc:patient-${number}`, null).then(() => {
      patient += 1
    })
  }
  await flood(clock, directory, 100, 20)
  expect(patient).toBe(20)
})

test('the stop answers everybody', async () => {
  const clock = aClock()
  const { resolve } = aServer(clock, 1)
  const stop = new AbortController()
  const directory = createDirectory({ resolve, signal: stop.signal, ...clock })
  await flood(clock, directory, 10, 5)
  const dids = ['did:plc:first', 'did:plc:second', 'did:plc:third']
  const waiting = dids.map((did) => directory.ask(did, null))
  stop.abort()
  expect(await Promise.all(waiting)).toEqual(dids.map(() => 'unavailable'))
})
