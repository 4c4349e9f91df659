/** Spoils the bytes of a frame without a look at what they mean. */
import type { Random } from '../../simulator/random.ts'
import type { Mutation } from './mutation.ts'

type Change = (bytes: Uint8Array, random: Random, other: Uint8Array) => Uint8Array

function bytewise(name: string, weight: number, change: Change): Mutation {
  const make: Mutation['make'] = ({ frame }, random, { sources }) => ({
    frame: change(frame, random, random.pick(sources).frame),
  })
  return { name, weight, make }
}

/** One to four bytes, set by this. */
function poke(set: (before: number, random: Random) => number): Change {
  return (bytes, random) => {
    const copy = Uint8Array.from(bytes)
    for (let left = 1 + random.below(4); left > 0; left -= 1) {
      const at = random.below(copy.length)
      copy[at] = set(copy[at] ?? 0, random)
    }
    return copy
  }
}

/** A place among the first bytes, where header and fields are, half of the time. */
function placeIn(bytes: Uint8Array, random: Random): number {
  return random.below(random.chance(0.5) ? Math.min(200, bytes.length) : bytes.length)
}

/** Heads of values that take their argument from the bytes after them, or end at no place at all. */
const heads = [
  0x18, 0x19, 0x1a, 0x1b, 0x3b, 0x5b, 0x7b, 0x9b, 0xbb, 0x5f, 0x9f, 0xbf, 0xd8, 0xf9, 0xfb,
]

export const byteMutations: readonly Mutation[] = [
  bytewise(
    'bits flipped',
    14,
    poke((before, random) => before ^ (1 << random.below(8))),
  ),
  bytewise(
    'bytes changed',
    8,
    poke((_, random) => random.below(256)),
  ),
  bytewise('a lying length', 10, (bytes, random) => {
    const copy = Uint8Array.from(bytes)
    const at = placeIn(copy, random)
    copy[at] = random.pick([...heads, (copy[at] ?? 0) + 1, (copy[at] ?? 0) - 1])
    return copy
  }),
  bytewise('a number too large', 2, (bytes, random) => {
    const at = placeIn(bytes, random)
    return Buffer.concat(
      [bytes.subarray(0, at), [0x1b, 255], random.bytes(7), bytes.subarray(at + 1)].map(
        Buffer.from,
      ),
    )
  }),
  bytewise('cut', 6, (bytes, random) => bytes.subarray(0, random.below(bytes.length))),
  bytewise('without its head', 2, (bytes, random) => bytes.subarray(placeIn(bytes, random))),
  bytewise('with more after it', 2, (bytes, random) =>
    Buffer.concat([bytes, random.bytes(1 + random.below(9))]),
  ),
  bytewise('a piece left out', 4, (bytes, random) => {
    const at = placeIn(bytes, random)
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(40))])
  }),
  bytewise('a piece put in', 4, (bytes, random) => {
    const at = placeIn(bytes, random)
    return Buffer.concat([
      bytes.subarray(0, at),
      random.bytes(1 + random.below(40)),
      bytes.subarray(at),
    ])
  }),
  bytewise('spliced', 4, (bytes, random, other) =>
    Buffer.concat([
      bytes.subarray(0, placeIn(bytes, random)),
      other.subarray(placeIn(other, random)),
    ]),
  ),
  bytewise('nothing of it', 0.5, (_, random) => random.bytes(random.below(200))),
]
