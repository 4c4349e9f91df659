/** What can be said of the mutations without running them; `npm run test:mutations` runs them. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { caughtBefore, misfit, mutations } from './mutation-list.ts'

const root = fileURLToPath(new URL('..', import.meta.url))

test('every mutation still fits the code that it changes', () => {
  expect(mutations.flatMap((mutation) => misfit(root, mutation) ?? [])).toEqual([])
})

test('every mutation has a name of its own, changes something, and was caught when docs/mutations.md was written', () => {
  const page = readFileSync(`${root}docs/mutations.md`, 'utf8')
  expect(new Set(mutations.map(({ name }) => name)).size).toBe(mutations.length)
  expect(mutations.filter((mutation) => mutation.old === mutation.new)).toEqual([])
  const caught = caughtBefore(page, mutations)
  expect(mutations.map(({ name }) => name).filter((name) => !caught.has(name))).toEqual([])
})
