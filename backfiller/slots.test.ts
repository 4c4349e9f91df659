/** Places to work in: the slow never keep the others out. */
import { expect, test } from 'vitest'
import { NotNowError } from './hosts.ts'
import { createSlots } from './slots.ts'

const { signal } = new AbortController()
const bulk = { slow: false, urgent: false, signal }
const urgent = { ...bulk, urgent: true }

test('who has to wait gets the place that is given back, the urgent first', async () => {
  const slots = createSlots({ fast: 1, slow: 1 })
  const first = await slots.take(bulk)
  const order: string[] = []
  const take = (name: string, how: typeof bulk) =>
    slots.take(how).then((slot) => {
      order.push(name)
      slot[Symbol.dispose]()
    })
  const all = [take('bulk', bulk), take('resync', urgent)]
  expect(slots.full).toBe(true)
  first[Symbol.dispose]()
  first[Symbol.dispose]()
  await Promise.all(all)
  expect(order).toEqual(['resync', 'bulk'])
  expect(slots.full).toBe(false)
})

test('who drags on makes place for others, as long as there is place for the slow', async () => {
  const slots = createSlots({ fast: 1, slow: 1 })
  const first = await slots.take(bulk)
  first.drag()
  const second = await slots.take(bulk)
  expect(() => second.drag()).toThrow(NotNowError)
  await expect(slots.take({ ...bulk, slow: true })).rejects.toThrow(NotNowError)
  first[Symbol.dispose]()
  second.drag()
  expect(slots.full).toBe(false)
})

test('who stops waiting leaves the line', async () => {
  const slots = createSlots({ fast: 1, slow: 1 })
  const first = await slots.take(bulk)
  const leaving = new AbortController()
  const left = slots.take({ ...bulk, signal: leaving.signal })
  const next = slots.take(bulk)
  leaving.abort(new Error('leaving'))
  await expect(left).rejects.toThrow('leaving')
  first[Symbol.dispose]()
  await expect(next).resolves.toBeDefined()
})
