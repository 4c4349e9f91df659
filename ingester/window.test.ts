import { expect, test } from 'vitest'
import { createWindow } from './window.ts'

const limits = { most: 10, bytes: 100, waitMs: 5_000, idleMs: 5_000 }
const never = new AbortController().signal

/** A window whose marks count what was pushed. */
function aWindow(count = 100) {
  const window = createWindow<number, number>({ count, bytes: 1_000 }, never)
  let mark = 0
  return {
    push: (result: Promise<number>, bytes: number, key: string | null = 'one') => {
      mark += 1
      return window.push(result, { bytes, key, mark })
    },
    take: window.take,
    results: async (of = limits) => (await window.take(of))?.results,
    end: window.end,
    isFull: () => window.full,
  }
}

test('results of one repo come out in the order in which they went in, whichever is ready first', async () => {
  const window = aWindow()
  const first = Promise.withResolvers<number>()
  await window.push(first.promise, 1)
  await window.push(Promise.resolve(2), 1)
  const batch = window.results()
  first.resolve(1)
  expect(await batch).toEqual([1, 2])
})

test('a result that is not there yet holds no other repo, but the mark', async () => {
  const window = aWindow()
  const slow = Promise.withResolvers<number>()
  const others = { ...limits, most: 2 }
  await window.push(Promise.resolve(1), 1, 'a')
  await window.push(slow.promise, 1, 'b')
  await window.push(Promise.resolve(3), 1, 'c')
  await window.push(Promise.resolve(4), 1, 'b')
  await window.push(Promise.resolve(5), 1, null)
  await window.push(Promise.resolve(6), 1, 'c')
  expect(await window.take(others)).toEqual({ results: [1, 3], mark: 1 })
  expect(await window.take(others)).toEqual({ results: [5, 6], mark: null })
  slow.resolve(2)
  expect(await window.take(limits)).toEqual({ results: [2, 4], mark: 6 })
})

test('what has left while an older one has not is bounded', async () => {
  const window = createWindow<number, number>({ count: 1e6, bytes: 1e6, ahead: 3 }, never)
  const slow = Promise.withResolvers<number>()
  await window.push(slow.promise, { bytes: 1, key: 'slow', mark: 1 })
  for (const mark of [2, 3, 4]) {
    await window.push(Promise.resolve(mark), { bytes: 1, key: 'fast', mark })
  }
  await window.take({ ...limits, most: 3 })
  let went = false
  const pushed = window.push(Promise.resolve(5), { bytes: 1, key: 'fast', mark: 5 }).then(() => {
    went = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  expect([went, window.full]).toEqual([false, true])
  slow.resolve(1)
  expect((await window.take(limits))?.mark).toBe(5)
  await pushed
})

test('a batch closes at once when nothing more is in the window', async () => {
  const window = aWindow()
  await window.push(Promise.resolve(1), 1)
  expect(await window.results(limits)).toEqual([1])
})

test('a batch closes when it is full', async () => {
  const window = aWindow()
  for (const value of [1, 2, 3]) await window.push(Promise.resolve(value), 1)
  expect(await window.results({ ...limits, most: 2 })).toEqual([1, 2])
  expect(await window.results(limits)).toEqual([3])
})

test('a batch closes when it has its bytes', async () => {
  const window = aWindow()
  for (const value of [1, 2, 3]) await window.push(Promise.resolve(value), 60)
  expect(await window.results(limits)).toEqual([1, 2])
})

test('a batch that has begun waits no longer than it may', async () => {
  const window = aWindow()
  await window.push(Promise.resolve(1), 1)
  await window.push(new Promise<number>(() => {}), 1)
  expect(await window.results({ ...limits, waitMs: 10 })).toEqual([1])
})

test('an idle window gives an empty batch', async () => {
  expect(await aWindow().results({ ...limits, idleMs: 5 })).toEqual([])
})

test('whoever fills the window waits until there is room', async () => {
  const window = aWindow(2)
  await window.push(Promise.resolve(1), 1)
  let went = false
  const pushed = window.push(Promise.resolve(2), 1).then(() => {
    went = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  expect([went, window.isFull()]).toEqual([false, true])
  await window.results(limits)
  await pushed
  expect(window.isFull()).toBe(false)
})

test('after the end what is left is taken, then null', async () => {
  const window = aWindow()
  await window.push(Promise.resolve(1), 1)
  window.end()
  expect(await window.results(limits)).toEqual([1])
  expect(await window.take(limits)).toBe(null)
})

test('a result that fails fails the batch, and nothing before it is given', async () => {
  const window = aWindow()
  await window.push(Promise.reject(new Error('a bug')), 1)
  await expect(window.results(limits)).rejects.toThrow('a bug')
})

test('an abort ends all waiting', async () => {
  const stop = new AbortController()
  const window = createWindow<number, null>({ count: 1, bytes: 10 }, stop.signal)
  const never = new Promise<number>(() => {})
  const pushed = window.push(never, { bytes: 1, key: null, mark: null })
  const taken = window.take(limits)
  stop.abort()
  await pushed
  expect(await taken).toBe(null)
})
