/** Places to work in: the slow never keep the others out. */
import { expect, test } from 'vitest'
import { NotNowError } from './hosts.ts'
import { createSlots } from './slots.ts'

const { signal } = new AbortController()

test('who has to wait gets the place that is given back, the urgent first', async () => {
  const slots = createSlots({ fast: 1, slow: 1 })
  const first = slots.place(false)
  await first.enter(signal)
  const order: string[] = []
  const take = async (name: string, urgent: boolean) => {
    using place = slots.place(urgent)
    await place.enter(signal)
    order.push(name)
  }
  const all = [take('bulk', false), take('resync', true)]
  expect(slots.full).toBe(true)
  first[Symbol.dispose]()
  first[Symbol.dispose]()
  await Promise.all(all)
  expect(order).toEqual(['resync', 'bulk'])
  expect(slots.full).toBe(false)
})

test('who drags on makes place for others, as long as there is place for the slow', async () => {
  const slots = createSlots({ fast: 1, slow: 1 })
  const [first, second, third] = [slots.place(false), slots.place(false), slots.place(false)]
  await first.enter(signal)
  first.drag()
  await second.enter(signal)
  expect(() => second.drag()).toThrow(NotNowError)
  expect(() => third.drag()).toThrow(NotNowError)
  first[Symbol.dispose]()
  second.drag()
  expect(slots.full).toBe(false)
})

test('who has a place for the slow needs no other', async () => {
  const slots = createSlots({ fast: 1, slow: 1 })
  using slow = slots.place(false)
  slow.drag()
  await slow.enter(signal)
  expect(slots.full).toBe(false)
})

test('who stops waiting leaves the line', async () => {
  const slots = createSlots({ fast: 1, slow: 1 })
  const first = slots.place(false)
  await first.enter(signal)
  const leaving = new AbortController()
  const left = slots.place(false).enter(leaving.signal)
  const next = slots.place(false).enter(signal)
  leaving.abort(new Error('leaving'))
  await expect(left).rejects.toThrow('leaving')
  first[Symbol.dispose]()
  await expect(next).resolves.toBeUndefined()
})
