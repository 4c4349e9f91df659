import { expect, test } from 'vitest'
import { createPositions, farAhead } from './chain-positions.ts'

function claims(cursor: number | null, ...seqs: number[]) {
  const positions = createPositions(cursor)
  return { said: seqs.map((seq) => positions.claim(seq)), last: positions.last }
}

test('gaps in seq are legal, seq going back is not', () => {
  expect(claims(100, 101, 105, 5, 105, 100, 1_000)).toEqual({
    said: ['new', 'new', 'back', 'back', 'back', 'new'],
    last: 1_000,
  })
})

test('without a position the first one is believed', () => {
  expect(claims(null, 31_527_015_322, 31_527_015_323).said).toEqual(['new', 'new'])
})

test.each(Array.from({ length: 53 }, (_, bit) => bit))(
  'a flipped bit %i in one seq moves the position past no true frame, and costs none of them',
  (bit) => {
    const from = 31_527_015_322
    const flipped = Number(BigInt(from + 1) ^ (1n << BigInt(bit)))
    const true_ = Array.from({ length: 50 }, (_, index) => from + 2 + index)
    const { said, last } = claims(from, flipped, ...true_)
    const taken = said.slice(1).filter((claim) => claim === 'new' || claim === 'corrects')
    // A flip to the next true position or two makes that one look like a replay.
    expect(taken.length).toBeGreaterThanOrEqual(true_.length - 1)
    expect(last).toBe(true_.at(-1))
  },
)

test('a jump far ahead is believed when the next frame confirms it', () => {
  const far = 100 + 2 * farAhead
  expect(claims(100, far, far + 1)).toEqual({ said: ['held', 'new'], last: far + 1 })
  expect(claims(100, far, 101, 102)).toEqual({ said: ['held', 'new', 'new'], last: 102 })
  expect(claims(100, far, 10 * far).said).toEqual(['held', 'held'])
})

test('a jump that the host has announced is believed', () => {
  const positions = createPositions(10)
  expect(positions.claim(10 * farAhead, { jumpIsKnown: true })).toBe('new')
})
