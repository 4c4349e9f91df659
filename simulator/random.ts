/** Random numbers that a seed decides. */
import { createHash } from 'node:crypto'

export interface Random {
  /** A number in [0, 1). */
  next(): number
  /** A whole number in [0, below). */
  below(below: number): number
  /** True with the given probability. */
  chance(probability: number): boolean
  /** One of the values; throws a RangeError when there are none. */
  pick<T>(values: readonly T[]): T
  bytes(length: number): Uint8Array
  /** An independent source; the same name always gives the same one, whatever was drawn before. */
  fork(name: string): Random
}

/** Equal seeds give equal sequences, on every machine. */
export function createRandom(seed: string): Random {
  const digest = createHash('sha256').update(seed).digest()
  const state = new Uint32Array([0, 4, 8, 12].map((at) => digest.readUInt32LE(at)))

  // sfc32: four words of state, passes PractRand, a few nanoseconds a number.
  const word = () => {
    const [a = 0, b = 0, c = 0, d = 0] = state
    const sum = (a + b + d) >>> 0
    state[0] = b ^ (b >>> 9)
    state[1] = c + (c << 3)
    state[2] = ((c << 21) | (c >>> 11)) + sum
    state[3] = d + 1
    return sum
  }
  const next = () => word() / 2 ** 32

  return {
    next,
    below: (below) => Math.floor(next() * below),
    chance: (probability) => next() < probability,
    pick: (values) => {
      const index = Math.floor(next() * values.length)
      if (index >= values.length) throw new RangeError('nothing to pick from')
      return values[index] as (typeof values)[number]
    },
    bytes: (length) => Uint8Array.from({ length }, () => word() & 0xff),
    fork: (name) => createRandom(`${seed}/${name}`),
  }
}
