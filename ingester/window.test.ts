import { expect, test } from 'vitest'
import { createWindow } from './window.ts'

const limits = { most: 10, bytes: 100, waitMs: 5_000, idleMs: 5_000 }
const never = new AbortController().signal
const aWindow = (count = 100) => createWindow<number>({ count, bytes: 1_000 }, never)

test('results come out in the order in which they went in, whichever is ready first', async () => {
  const window = aWindow()
  const first = Promise.withResolvers<number>()
  await window.push(first.promise, 1)
  await window.push(Promise.resolve(2), 1)
  const batch = window.take(limits)
  first.resolve(1)
  expect(await batch).toEqual([1, 2])
})

test('a batch closes at once when nothing more is in the window', async () => {
  const window = aWindow()
  await window.push(Promise.resolve(1), 1)
  expect(await window.take(limits)).toEqual([1])
})

test('a batch closes when it is full', async () => {
  const window = aWindow()
  for (const value of [1, 2, 3]) await window.push(Promise.resolve(value), 1)
  expect(await window.take({ ...limits, most: 2 })).toEqual([1, 2])
  expect(await window.take(limits)).toEqual([3])
})

test('a batch closes when it has its bytes', async () => {
  const window = aWindow()
  for (const value of [1, 2, 3]) await window.push(Promise.resolve(value), 60)
  expect(await window.take(limits)).toEqual([1, 2])
})

test('a batch that has begun waits no longer than it may', async () => {
  const window = aWindow()
  await window.push(Promise.resolve(1), 1)
  await window.push(new Promise<number>(() => {}), 1)
  expect(await window.take({ ...limits, waitMs: 10 })).toEqual([1])
})

test('an idle window gives an empty batch', async () => {
  expect(await aWindow().take({ ...limits, idleMs: 5 })).toEqual([])
})

test('whoever fills the window waits until there is room', async () => {
  const window = aWindow(2)
  await window.push(Promise.resolve(1), 1)
  let went = false
  const pushed = window.push(Promise.resolve(2), 1).then(() => {
    went = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  expect([went, window.full]).toEqual([false, true])
  await window.take(limits)
  await pushed
  expect(window.full).toBe(false)
})

test('after the end what is left is taken, then null', async () => {
  const window = aWindow()
  await window.push(Promise.resolve(1), 1)
  window.end()
  expect(await window.take(limits)).toEqual([1])
  expect(await window.take(limits)).toBe(null)
})

test('a result that fails fails the batch, and nothing before it is given', async () => {
  const window = aWindow()
  await window.push(Promise.reject(new Error('a bug')), 1)
  await expect(window.take(limits)).rejects.toThrow('a bug')
})

test('an abort ends all waiting', async () => {
  const stop = new AbortController()
  const window = createWindow<number>({ count: 1, bytes: 10 }, stop.signal)
  const pushed = window.push(new Promise<number>(() => {}), 1)
  const taken = window.take(limits)
  stop.abort()
  await pushed
  expect(await taken).toBe(null)
})
