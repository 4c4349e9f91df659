import { expect, test } from 'vitest'
import { createSaid } from './said.ts'

test('what two say at once is said on by one, and the other waits until it is durable', async () => {
  const said = createSaid()
  expect(await said.isNew('a')).toBe(true)
  const second = said.isNew('a')
  said.durable('a')
  expect(await second).toBe(false)
  expect(await said.isNew('a')).toBe(false)
  expect(await said.isNew('b')).toBe(true)
})

test('when the first one is lost before it is durable, the second says it on', async () => {
  const said = createSaid(5)
  expect(await said.isNew('a')).toBe(true)
  expect(await said.isNew('a')).toBe(true)
})

test('after Redis has gone back everything may be said again', async () => {
  const said = createSaid()
  await said.isNew('a')
  said.durable('a')
  said.clear()
  expect(await said.isNew('a')).toBe(true)
})
