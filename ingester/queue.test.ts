import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, test } from 'vitest'
import { createQueue } from './queue.ts'

test('what was added first leaves first, however many came between', () => {
  const queue = createQueue<number>()
  const left: (number | undefined)[] = []
  for (let round = 0; round < 3; round++) {
    for (let item = 0; item < 2_000; item++) queue.add(2_000 * round + item)
    for (let item = 0; item < 1_500; item++) {
      left.push(queue.first())
      queue.drop()
    }
    expect(queue.length).toBe(500 * (round + 1))
  }
  expect(left).toEqual(Array.from({ length: 4_500 }, (_, item) => item))
})

test('what has left is held no longer, what is still to leave is', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const queue = createQueue<object>()
  const items = Array.from({ length: 10 }, () => {
    const item = {}
    queue.add(item)
    return new WeakRef(item)
  })
  for (let item = 0; item < 5; item++) queue.drop()
  // A WeakRef keeps what it points to until the turn has ended.
  await new Promise(setImmediate)
  collect()
  expect(items.map((item) => item.deref() !== undefined)).toEqual([
    ...Array(5).fill(false),
    ...Array(5).fill(true),
  ])
  expect(queue.length).toBe(5)
})
