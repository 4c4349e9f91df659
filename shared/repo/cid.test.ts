import { expect, test } from 'vitest'
import { sharedLines } from '../../test/data.ts'
import { CidError, cidAt, cidFromBytes, cidLength, cidOf, isCid, parseCid } from './cid.ts'

const syntax = 'vectors/atproto-interop-tests/syntax/cid_syntax'

/** Valid CIDs elsewhere, but none that atproto would write: other bases, codecs and hashes. */
const notBlessed = new Map([
  ['bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi', 'codec dag-pb'],
  ['bafybeie5gq4jxvzmsym6hjlwxej4rwdoxt7wadqvmmwbqi7r27fclha2va', 'codec dag-pb'],
  ['zdj7WWeQ43G6JJvLWQWZpyHuAMq6uYWRjkBXFad11vE2LHhQ7', 'base58'],
  ['zdj7WhuEjrB52m1BisYCtmjH1hSKa7yZ3jEZ9JcXaFRD51wVz', 'base58'],
  ['z7x3CtScH765HvShXT', 'base58, identity hash'],
  ['mBcDxtdWx0aWhhc2g+', 'base64, identity hash'],
  ['7134036155352661643226414134664076', 'octal, identity hash'],
  ['f017012202c5f688262e0ece8569aa6f94d60aad55ca8d9d83734e4a7430d0cff6588ec2b', 'hex'],
])

test.each(sharedLines(`${syntax}_valid.txt`))(
  'a valid CID is read if it is blessed: %s',
  (text) => {
    expect(isCid(text)).toBe(!notBlessed.has(text))
  },
)

test.each(sharedLines(`${syntax}_invalid.txt`))('what is no CID is refused: %s', (text) => {
  expect(isCid(text)).toBe(false)
})

test('a CID has one text, and the text one CID', () => {
  for (const codec of ['dag-cbor', 'raw'] as const) {
    const text = cidOf(Buffer.from('bytes'), codec)
    const cid = parseCid(text)
    expect([cid.toString(), cid.codec]).toEqual([text, codec])
    expect(cidFromBytes(cid.bytes).toString()).toBe(text)
    expect(JSON.stringify(cid)).toBe(`{"$link":"${text}"}`)
  }
})

test('a CID is found where all of its bytes stand, and its copy keeps none of those', () => {
  const cid = parseCid(cidOf(Buffer.from('bytes')))
  const source = Buffer.concat([Buffer.from('..'), cid.bytes])
  const there = cidAt(source, 2)
  const copy = there.copy()
  expect([cid.isAt(source, 2), cid.isAt(source, 1), cid.isAt(source, 3)]).toEqual([
    true,
    false,
    false,
  ])
  for (let index = 0; index < cidLength; index++) {
    const changed = Uint8Array.from(source)
    changed[2 + index] = (changed[2 + index] ?? 0) ^ 1
    expect(cid.isAt(changed, 2)).toBe(false)
  }
  source.fill(0)
  expect(copy.toString()).toBe(cid.toString())
})

test('another spelling of the same CID is refused', () => {
  const text = cidOf(Buffer.from('bytes'))
  const last = text.at(-1) ?? ''
  const next = String.fromCharCode(last.charCodeAt(0) + 1)
  for (const other of [text.toUpperCase(), `${text}=`, ` ${text}`, text.slice(0, -1) + next]) {
    expect(isCid(other)).toBe(false)
  }
})

test('bytes cut short, or of another version, codec or hash, are refused', () => {
  const { bytes } = parseCid(cidOf(Buffer.from('bytes')))
  expect(() => cidFromBytes(bytes.subarray(1))).toThrow(CidError)
  for (const index of [0, 1, 2, 3]) {
    const changed = bytes.slice()
    changed[index] = 0x70
    expect(() => cidFromBytes(changed)).toThrow(CidError)
  }
})
