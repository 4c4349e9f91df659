import { expect, test } from 'vitest'
import { backoff, retryTransient, sleep } from './retry.ts'

const refused = () => Object.assign(new Error('refused'), { code: 'ECONNREFUSED' })
const quick = { initialMs: 1, maxMs: 2 }

test('what fails in passing is called again until it succeeds', async () => {
  let calls = 0
  const call = async () => {
    calls += 1
    if (calls < 4) throw refused()
    return 'done'
  }
  const { signal } = new AbortController()
  expect(await retryTransient(call, { signal, ...quick })).toBe('done')
  expect(calls).toBe(4)
})

test('what fails for good is thrown at once', async () => {
  let calls = 0
  const call = async () => {
    calls += 1
    throw new TypeError('bug')
  }
  const { signal } = new AbortController()
  await expect(retryTransient(call, { signal, ...quick })).rejects.toThrow('bug')
  expect(calls).toBe(1)
})

test('an abort ends the waiting and throws the last failure', async () => {
  const stop = new AbortController()
  const onRetry = () => stop.abort()
  const call = () => Promise.reject(refused())
  const waiting = retryTransient(call, { signal: stop.signal, initialMs: 60_000, onRetry })
  await expect(waiting).rejects.toThrow('refused')
})

test('a sleep ends early when the signal aborts, and leaves no listener', async () => {
  const stop = new AbortController()
  const sleeping = sleep(60_000, stop.signal)
  stop.abort()
  await sleeping
  await sleep(60_000, stop.signal)
})

test('the backoff doubles up to its cap, at least half of it certain', () => {
  for (let attempt = 1; attempt < 50; attempt += 1) {
    const full = Math.min(10_000, 100 * 2 ** (attempt - 1))
    const waitMs = backoff(attempt)
    expect(waitMs).toBeGreaterThanOrEqual(full / 2)
    expect(waitMs).toBeLessThanOrEqual(full)
  }
})
