import fc from 'fast-check'
import { expect, test } from 'vitest'
import { sharedBytes, sharedJson, sharedJsonLines } from '../../test/data.ts'
import { type Block, CarError, type CarOptions, parseCar, readCar, writeCar } from './car.ts'
import { encodeCbor } from './cbor.ts'
import { cidOf, parseCid } from './cid.ts'

interface Fixture {
  root: string
  blocks: { cid: string; bytes: string }[]
  car: string
}

const block = (value: string | Uint8Array) => {
  const bytes = encodeCbor(value)
  return { cid: cidOf(bytes), bytes }
}
const small = [block('a'), block('b'), block('c'.repeat(300))]
const root = small[0]?.cid ?? ''

/** The bytes in chunks of a size, and how many chunks were asked for. */
function source(bytes: Uint8Array, size: number) {
  const state = { pulled: 0, ended: false }
  async function* chunks() {
    try {
      for (let start = 0; start < bytes.length; start += size) {
        state.pulled += 1
        yield bytes.subarray(start, start + size)
      }
    } finally {
      state.ended = true
    }
  }
  return { chunks: chunks(), state }
}

async function readAll(bytes: Uint8Array, size: number, options?: CarOptions) {
  const { roots, blocks } = await readCar(source(bytes, size).chunks, options)
  const read: Block[] = []
  for await (const found of blocks) read.push(found)
  return {
    roots: roots.map(String),
    blocks: read.map(({ cid, bytes }) => ({ cid: cid.toString(), bytes })),
  }
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'no error',
    (error) => (error instanceof CarError ? error.code : String(error)),
  )

/** The code of both readers, which agree. */
async function refusal(bytes: Uint8Array, options?: CarOptions): Promise<string> {
  const streamed = await codeOf(readAll(bytes, 7, options))
  expect(await codeOf((async () => parseCar(bytes, options))())).toBe(streamed)
  return streamed
}

test.each(sharedJson<Fixture[]>('vectors/atproto-car-fixtures/car-file-fixtures.json'))(
  'the published CAR is read and written as published: $root',
  async ({ root, blocks, car }) => {
    const bytes = Buffer.from(car, 'base64')
    const parsed = parseCar(bytes)
    expect(parsed.roots.map(String)).toEqual([root])
    const written = [...parsed.blocks].map(([cid, block]) => ({ cid, bytes: block }))
    const published = blocks.map(({ cid, bytes }) => ({ cid, bytes: Buffer.from(bytes, 'base64') }))
    expect(written.map(({ cid }) => cid)).toEqual(published.map(({ cid }) => cid))
    for (const { cid, bytes } of published) expect(cidOf(bytes)).toBe(cid)
    expect(Buffer.compare(writeCar([root], published), bytes)).toBe(0)
    const streamed = await readAll(bytes, 100)
    expect(streamed.blocks.map(({ cid }) => cid)).toEqual(published.map(({ cid }) => cid))
  },
)

test.each(sharedJsonLines<{ car: string; blocks: number }>('cars/expected.jsonl'))(
  'the recorded CAR is read whole, in chunks of any size: $car',
  async ({ car, blocks }) => {
    const bytes = sharedBytes(car)
    const parsed = parseCar(bytes)
    expect(parsed.blocks.size).toBe(blocks)
    for (const size of [1_000, 65_536]) {
      const streamed = await readAll(bytes, size)
      expect(new Set(streamed.blocks.map(({ cid }) => cid))).toEqual(new Set(parsed.blocks.keys()))
    }
  },
)

test('property: however it is cut into chunks, a CAR is what was written', async () => {
  const bytes = writeCar([root], small)
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: bytes.length }), async (size) => {
      const { roots, blocks } = await readAll(bytes, size)
      expect(roots).toEqual([root])
      expect(blocks.map(({ cid }) => cid)).toEqual(small.map(({ cid }) => cid))
      for (const [index, { bytes }] of blocks.entries()) {
        expect(Buffer.compare(bytes, small[index]?.bytes ?? Buffer.alloc(0))).toBe(0)
      }
    }),
    { numRuns: 50 },
  )
})

test('of a CAR whose blocks need not be checked only the roots and those asked for are kept, as they are', () => {
  const spoiled = small.map(({ cid }, index) => ({ cid, bytes: Uint8Array.of(index) }))
  const [first, ...others] = spoiled
  const { blocks } = parseCar(writeCar([root], spoiled), {
    only: [parseCid(others.at(-1)?.cid ?? '')],
  })
  const kept = [first, others.at(-1)].map((block) => [block?.cid, block?.bytes])
  expect([...blocks].map(([cid, bytes]) => [cid, Uint8Array.from(bytes)])).toEqual(kept)
})

test('a CAR cut anywhere but between blocks is truncated', async () => {
  const bytes = writeCar([root], small)
  const whole = new Set(
    [small.slice(0, 0), small.slice(0, 1), small.slice(0, 2), small].map(
      (some) => writeCar([root], some).length,
    ),
  )
  for (let length = 0; length <= bytes.length; length++) {
    expect(await refusal(bytes.subarray(0, length))).toBe(
      whole.has(length) ? 'no error' : 'truncated',
    )
  }
})

test('a block that is not what its CID says is refused', async () => {
  const bytes = writeCar([root], small)
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
  expect(await refusal(bytes)).toBe('hash-mismatch')
})

test('property: a CAR with one bit flipped is refused, or says the same', async () => {
  const bytes = writeCar([root], small)
  const blocks = [...parseCar(bytes).blocks.keys()]
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length * 8 - 1), async (bit) => {
      const changed = Uint8Array.from(bytes)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      // Within the root of the header nothing protects a digest but the blocks that follow.
      if ((await refusal(changed)) === 'no error')
        expect([...parseCar(changed).blocks.keys()]).toEqual(blocks)
    }),
  )
})

test('a block over the limit is refused before it is read', async () => {
  const big = block(new Uint8Array(50_000))
  const bytes = writeCar([root], [big])
  expect(await refusal(bytes, { maxBlockBytes: 50_000 })).toBe('block-too-large')
  expect(await refusal(bytes, { maxBlockBytes: 50_003 })).toBe('no error')
  const { chunks, state } = source(bytes, 1_000)
  const { blocks } = await readCar(chunks, { maxBlockBytes: 10_000 })
  expect(await codeOf(blocks.next())).toBe('block-too-large')
  expect(state).toEqual({ pulled: 1, ended: true })
})

test.each([
  ['no bytes', '', 'truncated'],
  ['a header of length zero', '00', 'malformed'],
  ['a header of no end', 'ffffffffffffffff', 'malformed'],
  ['a header too long', 'ffffff7f', 'block-too-large'],
  ['a header that is no CBOR', '02ffff', 'malformed'],
  ['a header that is no map', '0180', 'malformed'],
  ['a version that is not 1', '11a265726f6f7473806776657273696f6e02', 'malformed'],
  ['no roots', '0aa16776657273696f6e01', 'malformed'],
  ['a root that is no link', '12a265726f6f747381016776657273696f6e01', 'malformed'],
  ['a length not in its shortest form', '11a265726f6f7473806776657273696f6e018100', 'malformed'],
  ['a section without a CID', '11a265726f6f7473806776657273696f6e0101ff', 'malformed'],
])('what is no CAR is refused: %s', async (_, bytes, code) => {
  expect(await refusal(Buffer.from(bytes, 'hex'))).toBe(code)
})

test('a section with a CID of another kind is refused', async () => {
  const { cid, bytes } = block('a')
  const car = writeCar([root], [{ cid, bytes }])
  const start = car.length - bytes.length - 36
  car[start + 1] = 0x70
  expect(await refusal(car)).toBe('malformed')
})

test('blocks keep nothing else alive', async () => {
  const { blocks } = await readAll(writeCar([root], small), 65_536)
  for (const { bytes } of blocks) expect(bytes.buffer.byteLength).toBeLessThan(bytes.length + 64)
})

test('no more is held than a block and a chunk', async () => {
  const bytes = writeCar(
    [root],
    Array.from({ length: 200 }, (_, index) => block(`${index}`.repeat(1_000))),
  )
  const { chunks, state } = source(bytes, 10_000)
  const { blocks } = await readCar(chunks)
  let position = 0
  for await (const { bytes } of blocks) {
    position += bytes.length
    expect(state.pulled * 10_000 - position).toBeLessThan(40_000)
  }
})

test('whoever stops reading early ends the source', async () => {
  const { chunks, state } = source(writeCar([root], small), 60)
  const { blocks } = await readCar(chunks)
  for await (const _ of blocks) break
  expect(state.ended).toBe(true)
})

test('an error of the source passes through, and an empty chunk is nothing', async () => {
  async function* broken() {
    yield writeCar([root], small).subarray(0, 70)
    yield new Uint8Array(0)
    throw new Error('connection reset')
  }
  const { blocks } = await readCar(broken())
  const readOn = async () => {
    for await (const _ of blocks);
  }
  await expect(readOn()).rejects.toThrow('connection reset')
})

test('a root may be given as a link or as text', () => {
  expect(writeCar([parseCid(root)], [])).toEqual(writeCar([root], []))
})
