import { expect, test } from 'vitest'
import { tidOf } from '../shared/repo/tid.ts'
import { createClockWatch } from './chain-clock.ts'

const noon = Date.parse('2026-01-01T12:00:00.000Z')
const minutes = (count: number) => tidOf((noon + count * 60_000) * 1_000)

function watch() {
  const clock = { time: noon }
  const { holds } = createClockWatch(() => clock.time)
  const all = (count: number, rev: string) =>
    Array.from({ length: count }, () => holds(rev)).every((held) => held)
  return { clock, holds, all }
}

test('a fifth of a thousand commits may be more than 5 minutes ahead: single hosts have wrong clocks', () => {
  const { all } = watch()
  for (let round = 0; round < 5; round++) {
    expect(all(200, minutes(10))).toBe(true)
    expect(all(800, minutes(0))).toBe(true)
  }
})

test('when more are, reading stops, and goes on when the clocks agree', () => {
  const { clock, holds, all } = watch()
  expect(all(200, minutes(10))).toBe(true)
  expect(holds(minutes(10))).toBe(false)
  expect(holds(minutes(10))).toBe(false)
  clock.time += 10 * 60_000
  expect(all(1_000, minutes(10))).toBe(true)
})

test('up to 5 minutes are within what clocks differ by', () => {
  expect(watch().all(2_000, minutes(4.9))).toBe(true)
})
