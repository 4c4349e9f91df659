import { readdirSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sharedBytes, sharedData, sharedFrames, sharedJson } from '../../test/data.ts'
import {
  CborError,
  decodeCbor,
  decodeFirst,
  encodeCbor,
  fromLexJson,
  type Ipld,
  isMap,
  maxDepth,
  toLexJson,
} from './cbor.ts'
import { Cid, cidOf, parseCid } from './cid.ts'

const hex = (text: string) => new Uint8Array(Buffer.from(text, 'hex'))
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

/** What becomes of some bytes: the code of the refusal, or what they are written back as. */
function outcome(bytes: Uint8Array): string {
  try {
    return text(encodeCbor(decodeCbor(bytes)))
  } catch (error) {
    if (error instanceof CborError) return error.code
    throw error
  }
}

function codeOf(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (error instanceof CborError) return error.code
    throw error
  }
  return 'no error'
}

describe('the vectors of DASL', () => {
  /** Rules of other specifications that contradict DAG-CBOR, or that this codec goes without. */
  const notFollowed: Record<string, string> = {
    'Big DASL CID': 'atproto blesses sha-256 only',
    'zero float64': 'as a JavaScript number it would be written back as an integer',
    'largest CBOR integer, 2^64-1': 'beyond 2^53-1, refused by its own code',
    'smallest CBOR integer, -(2^64)': 'beyond 2^53-1, refused by its own code',
    '2^53+1, unrepresentable in JS': 'beyond 2^53-1, refused by its own code',
    '-(2^53+1), unrepresentable in JS': 'beyond 2^53-1, refused by its own code',
  }
  const ours = ['basic', 'dag-cbor', 'dasl-cid']
  const files = readdirSync(sharedData('vectors/dasl-cbor')).filter((name) =>
    name.endsWith('.json'),
  )
  type Vector = { type: string; data: string; name: string; tags: string[] }
  const vectors = files
    .flatMap((name) => sharedJson<Vector[]>(`vectors/dasl-cbor/${name}`))
    .filter(({ tags }) => tags.some((tag) => ours.includes(tag)))

  test.each(vectors)('$type: $name', ({ type, data, name }) => {
    const follows = type === 'roundtrip' ? outcome(hex(data)) === data : outcome(hex(data)) !== data
    expect(follows).toBe(!(name in notFollowed))
  })
})

test('integers beyond 2^53-1 are refused by a code of their own, never rounded', () => {
  for (const data of [
    '1b0020000000000000',
    '1bffffffffffffffff',
    '3b001fffffffffffff',
    '3bffffffffffffffff',
  ]) {
    expect(outcome(hex(data))).toBe('integer-too-large')
  }
  expect(decodeCbor(hex('1b001fffffffffffff'))).toBe(Number.MAX_SAFE_INTEGER)
  expect(decodeCbor(hex('3b001ffffffffffffe'))).toBe(Number.MIN_SAFE_INTEGER)
  expect(codeOf(() => encodeCbor(2 ** 53))).toBe('integer-too-large')
})

test('of the RFC 8949 vectors, whatever is accepted is valid and written back as it was', () => {
  const vectors = sharedJson<{ hex: string; flags: string[] }[]>(
    'vectors/cbor-torture/rfc8949-vectors.json',
  )
  const accepted = vectors.filter(({ hex: data }) => outcome(hex(data)) === data.toLowerCase())
  const isRefused = (data: string) =>
    /^[a-z-]+$/.test(outcome(hex(data))) && !/^[0-9a-f]+$/.test(outcome(hex(data)))
  expect(accepted.length).toBe(36)
  expect(accepted.every(({ flags }) => flags.includes('valid'))).toBe(true)
  expect(vectors.filter(({ hex: data }) => isRefused(data)).length).toBe(vectors.length - 36)
})

test('a list of 100,000 links is written back as it was', () => {
  const bytes = sharedBytes('vectors/cbor-torture/torture_cids.dagcbor.gz')
  expect(Buffer.compare(encodeCbor(decodeCbor(bytes)), bytes)).toBe(0)
})

test.each(
  sharedJson<{ json: object; cbor_base64: string; cid: string }[]>(
    'vectors/atproto-interop-tests/data-model/data-model-fixtures.json',
  ),
)('the data model: JSON, DAG-CBOR and CID of a value agree: $cid', ({ json, cbor_base64, cid }) => {
  const bytes = encodeCbor(fromLexJson(json))
  expect(Buffer.from(bytes).toString('base64').replace(/=+$/, '')).toBe(cbor_base64)
  expect(cidOf(bytes)).toBe(cid)
  expect(toLexJson(decodeCbor(bytes))).toEqual(json)
})

type Noted = { note: string; json: object }

test.each(sharedJson<Noted[]>('vectors/atproto-interop-tests/data-model/data-model-valid.json'))(
  'the data model: valid JSON: $note',
  ({ json }) => {
    expect(toLexJson(decodeCbor(encodeCbor(fromLexJson(json))))).toEqual(json)
  },
)

describe('the data model: invalid JSON', () => {
  /** Rules of records rather than of values: they are decided where records are validated. */
  const notFollowed = [
    'top-level not an object',
    'float',
    'record with $type null',
    'record with $type wrong type',
    'record with empty $type string',
    'blob with string size',
    'blob with missing key',
  ]
  const vectors = sharedJson<Noted[]>(
    'vectors/atproto-interop-tests/data-model/data-model-invalid.json',
  )
  test.each(vectors)('$note', ({ note, json }) => {
    expect(codeOf(() => fromLexJson(json)) === 'no error').toBe(notFollowed.includes(note))
  })
})

test('every recorded frame is written back as it was, also by way of JSON', () => {
  const frames = sharedFrames('firehose/jetstream-corpus/frames.bin')
  expect(frames.length).toBe(100)
  for (const frame of frames) {
    const [header, body] = decodeFirst(frame)
    expect(isMap(header) && header['t']).toBe('#commit')
    expect(Buffer.compare(encodeCbor(decodeCbor(body)), body)).toBe(0)
    expect(Buffer.compare(encodeCbor(fromLexJson(toLexJson(decodeCbor(body)))), body)).toBe(0)
  }
})

test('a key __proto__ is a property like any other', () => {
  const bytes = hex('a1695f5f70726f746f5f5fa1616101')
  const value = decodeCbor(bytes)
  expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
  expect(JSON.stringify(toLexJson(value))).toBe('{"__proto__":{"a":1}}')
  expect(({} as Record<string, unknown>)['a']).toBeUndefined()
  expect(text(encodeCbor(value))).toBe(text(bytes))
  expect(text(encodeCbor(fromLexJson(JSON.parse('{"__proto__":{"a":1}}'))))).toBe(text(bytes))
})

test.each([
  ['lists', '81', maxDepth, '80'],
  ['maps', 'a16161', maxDepth, 'a0'],
])('%s within each other are bounded, not by the stack', (_, open, depth, inner) => {
  const nested = (count: number) => hex(open.repeat(count - 1) + inner)
  expect(outcome(nested(depth))).toBe(text(nested(depth)))
  expect(outcome(nested(depth + 1))).toBe('too-deep')
  expect(outcome(nested(200_000))).toBe('too-deep')
})

test('values too deep to be read are not written either', () => {
  let list: Ipld = []
  for (let index = 0; index < 100_000; index++) list = [list]
  expect(codeOf(() => encodeCbor(list))).toBe('too-deep')
  expect(codeOf(() => fromLexJson(list))).toBe('too-deep')
})

test('a length that the bytes do not bear out allocates nothing', () => {
  for (const data of [
    '9b001fffffffffffff',
    'bb001fffffffffffff',
    '5b001fffffffffffff',
    '7affffffff',
  ]) {
    expect(outcome(hex(data))).toBe('truncated')
  }
})

test('text keeps its marks, and a replacement character that was sent is not an error', () => {
  for (const value of ['\ufeffa', '\ufffd', 'é\u0301', '\u0000', '😀'.repeat(20)]) {
    expect(decodeCbor(encodeCbor(value))).toBe(value)
  }
  expect(codeOf(() => encodeCbor('\ud800'))).toBe('invalid-text')
})

test('map keys are ordered by their bytes, not by UTF-16', () => {
  expect(text(encodeCbor({ '😀': 1, '￿a': 2 }))).toBe('a264efbfbf610264f09f988001')
})

test('what has no form is refused', () => {
  for (const value of [
    Number.NaN,
    Number.POSITIVE_INFINITY,
    new Date(),
    new Map(),
    1n,
    Symbol('a'),
  ]) {
    expect(codeOf(() => encodeCbor(value as unknown as Ipld))).not.toBe('no error')
  }
  expect(text(encodeCbor({ a: undefined } as unknown as Ipld))).toBe('a0')
})

const { ipld } = fc.letrec<{ ipld: Ipld }>((tie) => ({
  ipld: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.string({ unit: 'binary' }),
    fc.uint8Array({ maxLength: 40 }),
    fc.uint8Array({ maxLength: 8 }).map((bytes) => parseCid(cidOf(bytes))),
    fc.array(tie('ipld'), { maxLength: 5 }),
    fc.dictionary(fc.string({ unit: 'binary', maxLength: 6 }), tie('ipld'), { maxKeys: 5 }),
  ),
}))

test('property: any value is read back as it was written', () => {
  const plain = (value: Ipld): unknown => {
    if (value instanceof Cid) return `cid ${value}`
    if (value instanceof Uint8Array) return `bytes ${text(value)}`
    if (Array.isArray(value)) return value.map(plain)
    if (isMap(value))
      return Object.entries(value)
        .map(([key, item]) => [key, plain(item)])
        .sort()
    return Object.is(value, -0) ? 0 : value
  }
  fc.assert(
    fc.property(ipld, (value) => {
      expect(plain(decodeCbor(encodeCbor(value)))).toEqual(plain(value))
    }),
  )
})

test('property: any bytes are refused by a code, or written back as they were', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 20 }), (bytes) => {
      const result = outcome(bytes)
      expect(
        result === text(bytes) ||
          result.includes('-') ||
          result === 'truncated' ||
          result === 'unsupported',
      ).toBe(true)
    }),
    { numRuns: 3_000 },
  )
})

test('property: real bytes with one changed are refused by a code, or written back as they were', () => {
  const [frame] = sharedFrames('firehose/jetstream-corpus/frames.bin')
  if (!frame) throw new Error('no frame')
  const [, body] = decodeFirst(frame)
  fc.assert(
    fc.property(fc.nat(body.length - 1), fc.nat(255), (index, byte) => {
      const changed = body.slice()
      changed[index] = byte
      const result = outcome(changed)
      expect(result === text(changed) || /^[a-z-]{8,20}$/.test(result)).toBe(true)
    }),
  )
})

test('a key is read as it stands, whatever keys were read before it', () => {
  const alike = ['a..a', 'a__a', 'aéa', 'abca', 'acba', 'aa', 'a', '', 'é', 'ü', 'a'.repeat(70)]
  for (const keys of [alike, alike.toReversed(), alike]) {
    for (const key of keys) expect(decodeCbor(encodeCbor({ [key]: 1 }))).toEqual({ [key]: 1 })
  }
})
