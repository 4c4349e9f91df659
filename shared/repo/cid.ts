/** CIDs in the one form that atproto blesses: version 1, dag-cbor or raw, sha-256 (spec: data model, "Links"). */
import { hash } from 'node:crypto'

export type Codec = 'dag-cbor' | 'raw'

/** Bytes of a binary CID: version, codec, hash type, hash length, 32 bytes of digest. */
export const cidLength = 36

const version = 0x01
const codecs = { 'dag-cbor': 0x71, raw: 0x55 } as const
const sha256 = 0x12
const digestLength = 32
/** 36 bytes in base32 without padding, after the multibase prefix `b`. */
const textLength = 59

const alphabet = 'abcdefghijklmnopqrstuvwxyz234567'
const charCodes = Uint8Array.from(alphabet, (char) => char.charCodeAt(0))
const values = new Int8Array(256).fill(-1)
for (const [value, code] of charCodes.entries()) values[code] = value

/** Not a CID, or not one of the blessed form. */
export class CidError extends Error {
  override name = 'CidError'
}

/**
 * A link, as it stands in decoded DAG-CBOR: a place in the bytes it came from. Making one costs a
 * few nanoseconds; the text (0.2 µs) is made when it is first asked for.
 */
export class Cid {
  private readonly source: Uint8Array
  private readonly offset: number
  private text: string | null = null

  /** Promises nothing about the bytes: `cidAt`, `cidFromBytes` and `parseCid` check them. */
  constructor(source: Uint8Array, offset: number) {
    this.source = source
    this.offset = offset
  }

  get bytes(): Uint8Array {
    return this.source.subarray(this.offset, this.offset + cidLength)
  }

  /** Puts the 36 bytes at a place of the target. */
  copyTo(target: Uint8Array, at: number): void {
    const { source, offset } = this
    for (let index = 0; index < cidLength; index++) target[at + index] = source[offset + index] ?? 0
  }

  /** Whether these 36 bytes stand at a place of others. From the end: all begin alike. */
  isAt(other: Uint8Array, at: number): boolean {
    const { source, offset } = this
    let index = cidLength - 1
    while (index >= 0 && source[offset + index] === other[at + index]) index -= 1
    return index < 0
  }

  /** The same, out of the bytes that it came in, which it would keep from being freed. */
  copy(): Cid {
    return new Cid(Buffer.from(this.bytes), 0)
  }

  get codec(): Codec {
    return this.source[this.offset + 1] === codecs.raw ? 'raw' : 'dag-cbor'
  }

  /** The text form, base32 lower case. */
  toString(): string {
    this.text ??= cidText(this.source, this.offset)
    return this.text
  }

  toJSON(): { $link: string } {
    return { $link: this.toString() }
  }
}

/** The CID at a place in some bytes; what follows it is the caller's. Throws CidError. */
export function cidAt(source: Uint8Array, offset: number): Cid {
  if (source.length - offset < cidLength) throw new CidError('cid cut short')
  if (source[offset] !== version) throw new CidError('not a version 1 cid')
  const codec = source[offset + 1]
  if (codec !== codecs['dag-cbor'] && codec !== codecs.raw) {
    throw new CidError(`codec 0x${codec?.toString(16)} is neither dag-cbor nor raw`)
  }
  if (source[offset + 2] !== sha256 || source[offset + 3] !== digestLength) {
    throw new CidError('the hash of the cid is not sha-256')
  }
  return new Cid(source, offset)
}

/** Whether a CID of the blessed form begins at this place, and has all its bytes. */
export function isCidAt(source: Uint8Array, offset: number): boolean {
  const codec = source[offset + 1]
  return (
    source.length - offset >= cidLength &&
    source[offset] === version &&
    (codec === codecs['dag-cbor'] || codec === codecs.raw) &&
    source[offset + 2] === sha256 &&
    source[offset + 3] === digestLength
  )
}

/** The CID that these bytes are, nothing before or after. Throws CidError. */
export function cidFromBytes(bytes: Uint8Array): Cid {
  if (bytes.length !== cidLength) throw new CidError(`a cid has ${cidLength} bytes`)
  return cidAt(bytes, 0)
}

/** Reads the text form. Throws CidError on every other spelling of the same CID too. */
export function parseCid(text: string): Cid {
  if (text.length !== textLength || text[0] !== 'b') throw new CidError('not a base32 sha-256 cid')
  const bytes = new Uint8Array(cidLength)
  let buffer = 0
  let bits = 0
  let position = 0
  for (let index = 1; index < textLength; index++) {
    const value = values[text.charCodeAt(index)] ?? -1
    if (value < 0) throw new CidError('not a base32 sha-256 cid')
    buffer = ((buffer << 5) | value) & 0xfff
    bits += 5
    if (bits < 8) continue
    bits -= 8
    bytes[position++] = buffer >>> bits
  }
  // 58 characters hold 290 bits; a CID is 288. Two that are not zero would be a second spelling.
  if ((buffer & 0b11) !== 0) throw new CidError('stray bits at the end of a cid')
  return cidAt(bytes, 0)
}

/** True for the text form of a blessed CID. */
export function isCid(text: string): boolean {
  try {
    parseCid(text)
    return true
  } catch (error) {
    if (error instanceof CidError) return false
    throw error
  }
}

const scratch = Buffer.alloc(cidLength)
scratch[0] = version
scratch[2] = sha256
scratch[3] = digestLength

function fillScratch(block: Uint8Array, codec: Codec): void {
  scratch[1] = codecs[codec]
  // A text whose characters are the bytes; asking `hash` for a buffer costs 0.5 µs more.
  scratch.write(hash('sha256', block, 'binary'), 4, 'latin1')
}

/** The CID, as text, of a block. */
export function cidOf(bytes: Uint8Array, codec: Codec = 'dag-cbor'): string {
  fillScratch(bytes, codec)
  return cidText(scratch, 0)
}

/** The CID of a block, as a link. */
export function linkOf(bytes: Uint8Array, codec: Codec = 'dag-cbor'): Cid {
  fillScratch(bytes, codec)
  return new Cid(new Uint8Array(scratch), 0)
}

/** True when the CID at this place is that of the block. */
export function cidMatches(source: Uint8Array, offset: number, block: Uint8Array): boolean {
  const digest = hash('sha256', block, 'binary')
  for (let index = 0; index < digestLength; index++) {
    if (digest.charCodeAt(index) !== source[offset + 4 + index]) return false
  }
  return true
}

/** Where a text is written, two characters at once: the prefix stands before the first pair. */
const text = Buffer.allocUnsafeSlow(textLength + 1)
text[1] = 'b'.charCodeAt(0)
const pairsOfText = new Uint16Array(text.buffer, text.byteOffset)
/** Each ten bits as two characters, as they lie in memory. */
const pairs = new Uint16Array(1_024)
for (let bits = 0; bits < 1_024; bits++) {
  const chars = [charCodes[bits >>> 5] ?? 0, charCodes[bits & 31] ?? 0]
  pairs[bits] = new Uint16Array(Uint8Array.from(chars).buffer)[0] ?? 0
}

/** Base32 of the 36 bytes at a place: 5 bytes become 8 characters, the last one becomes 2. */
function cidText(source: Uint8Array, offset: number): string {
  let out = 1
  for (let at = offset; at < offset + 35; at += 5) {
    const high = ((source[at] ?? 0) << 12) | ((source[at + 1] ?? 0) << 4)
    const middle = source[at + 2] ?? 0
    const low = ((middle & 15) << 16) | ((source[at + 3] ?? 0) << 8) | (source[at + 4] ?? 0)
    const begin = high | (middle >>> 4)
    pairsOfText[out] = pairs[begin >>> 10] ?? 0
    pairsOfText[out + 1] = pairs[begin & 1_023] ?? 0
    pairsOfText[out + 2] = pairs[low >>> 10] ?? 0
    pairsOfText[out + 3] = pairs[low & 1_023] ?? 0
    out += 4
  }
  pairsOfText[out] = pairs[(source[offset + 35] ?? 0) << 2] ?? 0
  return text.toString('latin1', 1)
}
