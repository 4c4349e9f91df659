/** Strict DAG-CBOR: what it accepts, it writes back byte for byte (spec: data model; IPLD DAG-CBOR). */
import { isUtf8 } from 'node:buffer'
import { Cid, CidError, cidAt, cidLength, parseCid } from './cid.ts'

/** A value of the data model. Byte strings are views of the input, links are `Cid`. */
export type Ipld = null | boolean | number | string | Uint8Array | Cid | Ipld[] | IpldMap
export interface IpldMap {
  [key: string]: Ipld
}

/** A value of lex JSON: links are `{"$link"}`, byte strings `{"$bytes"}`. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

export const cborCodes = [
  'truncated',
  'trailing-bytes',
  'not-canonical',
  'unsupported',
  'integer-too-large',
  'invalid-text',
  'invalid-link',
  'too-deep',
] as const
export type CborCode = (typeof cborCodes)[number]

/** Bytes or a value that are not strict DAG-CBOR; `code` says which rule is broken. */
export class CborError extends Error {
  override name = 'CborError'
  readonly code: CborCode
  constructor(code: CborCode, message: string) {
    super(message)
    this.code = code
  }
}

/** Maps and lists within each other. Real records stay below 20; a stack frame each is affordable. */
export const maxDepth = 256

const linkTag = 42
/** Longer texts are decoded by one native call; shorter ones are cheaper by hand. */
const shortText = 12

/** Decodes exactly one value. Throws CborError. */
export function decodeCbor(bytes: Uint8Array): Ipld {
  const reader = new Reader(bytes)
  const value = reader.value(0)
  if (reader.position !== bytes.length) {
    throw new CborError('trailing-bytes', `${bytes.length - reader.position} bytes after the value`)
  }
  return value
}

/** Decodes the first value and gives the bytes that follow it. Throws CborError. */
export function decodeFirst(bytes: Uint8Array): [value: Ipld, rest: Uint8Array] {
  const reader = new Reader(bytes)
  const value = reader.value(0)
  return [value, bytes.subarray(reader.position)]
}

/** True for a map, and not for a list, a link or bytes. */
export function isMap(value: Ipld | undefined): value is IpldMap {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Cid) &&
    !(value instanceof Uint8Array)
  )
}

/** Sets an own property whatever the key: a plain assignment of `__proto__` would set the prototype. */
function setOwn<T>(map: Record<string, T>, key: string, value: T): void {
  if (key !== '__proto__') map[key] = value
  else {
    Object.defineProperty(map, key, {
      value,
      enumerable: true,
      configurable: true,
      writable: true,
    })
  }
}

/** Keys of maps that were read lately, each in the place of its length and its first and last byte. */
const metKeys = new Array<string | undefined>(1_024)
const longestMetKey = 64

class Reader {
  readonly #bytes: Uint8Array
  readonly #buffer: Buffer
  position = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#buffer =
      bytes instanceof Buffer
        ? bytes
        : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  value(depth: number): Ipld {
    const head = this.#byte()
    const info = head & 31
    switch (head >>> 5) {
      case 0:
        return this.#argument(info)
      case 1: {
        const value = -1 - this.#argument(info)
        if (Number.isSafeInteger(value)) return value
        throw new CborError('integer-too-large', 'an integer below -(2^53-1)')
      }
      case 2:
        return this.#take(this.#length(info))
      case 3:
        return this.#text(this.#length(info))
      case 4:
        return this.#list(this.#length(info), depth)
      case 5:
        return this.#map(this.#length(info), depth)
      case 6:
        return this.#link(this.#argument(info))
      default:
        return this.#simple(info)
    }
  }

  #byte(): number {
    const byte = this.#bytes[this.position]
    if (byte === undefined) throw new CborError('truncated', 'the bytes end within a value')
    this.position += 1
    return byte
  }

  #take(length: number): Uint8Array {
    const start = this.position
    this.#need(length)
    this.position = start + length
    return this.#bytes.subarray(start, start + length)
  }

  #need(length: number): void {
    if (length > this.#bytes.length - this.position) {
      throw new CborError('truncated', 'the bytes end within a value')
    }
  }

  /** A count of bytes or of items, each of which takes a byte at least: nothing is allocated on trust. */
  #length(info: number): number {
    const length = this.#argument(info)
    this.#need(length)
    return length
  }

  #argument(info: number): number {
    if (info < 24) return info
    if (info > 27) throw new CborError('not-canonical', 'an indefinite or reserved length')
    const size = 1 << (info - 24)
    this.#need(size)
    const at = this.position
    this.position = at + size
    const value = size < 8 ? this.#buffer.readUIntBE(at, size) : this.#wide(at)
    if (value < (smallest[info - 24] ?? 0))
      throw new CborError('not-canonical', 'a number not in its shortest form')
    return value
  }

  #wide(at: number): number {
    const high = this.#buffer.readUInt32BE(at)
    const value = high * 2 ** 32 + this.#buffer.readUInt32BE(at + 4)
    if (high > 0x1fffff) throw new CborError('integer-too-large', 'an integer above 2^53-1')
    return value
  }

  #text(length: number): string {
    const start = this.position
    const end = start + length
    this.position = end
    if (length <= shortText) {
      let text = ''
      let index = start
      for (; index < end; index++) {
        const byte = this.#bytes[index] ?? 0
        if (byte > 127) break
        text += String.fromCharCode(byte)
      }
      if (index === end) return text
    }
    const text = this.#buffer.toString('utf8', start, end)
    // A replacement character is either in the text, or the trace of bytes that are not UTF-8.
    if (text.includes('\ufffd') && !isUtf8(this.#bytes.subarray(start, end))) {
      throw new CborError('invalid-text', 'text that is not UTF-8')
    }
    return text
  }

  /** The text of a map key, most of which were met before: then there is no string to make. */
  #key(length: number): string {
    const start = this.position
    const end = start + length
    const place =
      (length * 31 + (this.#bytes[start] ?? 0) * 7 + (this.#bytes[end - 1] ?? 0)) & 1_023
    const met = metKeys[place]
    if (met !== undefined && met.length === length) {
      let same = 0
      while (same < length && met.charCodeAt(same) === this.#bytes[start + same]) same++
      if (same === length) {
        this.position = end
        return met
      }
    }
    const text = this.#text(length)
    // Of so many bytes as characters only if all are ASCII.
    if (text.length === length && length <= longestMetKey) metKeys[place] = text
    return text
  }

  #list(length: number, depth: number): Ipld[] {
    if (depth >= maxDepth) throw new CborError('too-deep', `nested deeper than ${maxDepth}`)
    const list: Ipld[] = []
    for (let index = 0; index < length; index++) list.push(this.value(depth + 1))
    return list
  }

  #map(length: number, depth: number): IpldMap {
    if (depth >= maxDepth) throw new CborError('too-deep', `nested deeper than ${maxDepth}`)
    const map: IpldMap = {}
    let lastStart = 0
    let lastLength = -1
    for (let index = 0; index < length; index++) {
      const head = this.#byte()
      if (head >>> 5 !== 3) throw new CborError('unsupported', 'a map key that is not text')
      const keyLength = this.#length(head & 31)
      const start = this.position
      if (!this.#sorted(lastStart, lastLength, start, keyLength)) {
        throw new CborError('not-canonical', 'map keys that are repeated or not in order')
      }
      lastStart = start
      lastLength = keyLength
      const key = this.#key(keyLength)
      setOwn(map, key, this.value(depth + 1))
    }
    return map
  }

  /** Keys are ordered by length, then byte by byte (RFC 7049, 3.9). */
  #sorted(lastStart: number, lastLength: number, start: number, length: number): boolean {
    if (length !== lastLength) return length > lastLength
    for (let index = 0; index < length; index++) {
      const order = (this.#bytes[start + index] ?? 0) - (this.#bytes[lastStart + index] ?? 0)
      if (order !== 0) return order > 0
    }
    return false
  }

  #link(tag: number): Cid {
    if (tag !== linkTag) throw new CborError('unsupported', `tag ${tag}; only links (42) have one`)
    const head = this.#byte()
    if (head >>> 5 !== 2) throw new CborError('invalid-link', 'a link that is not a byte string')
    const length = this.#length(head & 31)
    if (length !== cidLength + 1 || this.#bytes[this.position] !== 0) {
      throw new CborError('invalid-link', 'a link that is not a sha-256 cid')
    }
    try {
      const link = cidAt(this.#bytes, this.position + 1)
      this.position += length
      return link
    } catch (error) {
      if (error instanceof CidError) throw new CborError('invalid-link', error.message)
      throw error
    }
  }

  #simple(info: number): boolean | number | null {
    if (info === 20) return false
    if (info === 21) return true
    if (info === 22) return null
    if (info !== 27) throw new CborError('unsupported', `simple value or short float ${info}`)
    this.#need(8)
    const value = this.#buffer.readDoubleBE(this.position)
    this.position += 8
    if (!Number.isFinite(value)) throw new CborError('unsupported', 'NaN or infinity')
    // As a JavaScript number it could not be told from the integer, and would be written as one.
    if (Number.isInteger(value))
      throw new CborError('unsupported', 'a float with an integral value')
    return value
  }
}

/** The least value that needs an argument of 1, 2, 4, 8 bytes. */
const smallest: readonly number[] = [24, 0x100, 0x10000, 0x1_0000_0000]

/**
 * Encodes a value; a property that is `undefined` is left out. Throws CborError on what has no
 * DAG-CBOR form: numbers beyond 2^53-1, NaN, lone surrogates, other classes.
 */
export function encodeCbor(value: Ipld): Uint8Array {
  const writer = new Writer()
  writer.value(value, 0)
  return writer.bytes()
}

class Writer {
  #buffer = Buffer.allocUnsafe(512)
  #position = 0

  bytes(): Uint8Array {
    return Uint8Array.prototype.slice.call(this.#buffer, 0, this.#position)
  }

  value(value: Ipld, depth: number): void {
    if (depth > maxDepth) throw new CborError('too-deep', `nested deeper than ${maxDepth}`)
    if (value === null) this.#head(7, 22)
    else if (typeof value === 'string') this.#text(value)
    else if (typeof value === 'number') this.#number(value)
    else if (typeof value === 'boolean') this.#head(7, value ? 21 : 20)
    else if (value instanceof Cid) this.#link(value)
    else if (value instanceof Uint8Array) this.#bytes(value)
    else if (Array.isArray(value)) {
      this.#head(4, value.length)
      for (const item of value) this.value(item, depth + 1)
    } else if (typeof value === 'object') this.#map(value, depth)
    else throw new CborError('unsupported', `a ${typeof value} has no DAG-CBOR form`)
  }

  #reserve(size: number): void {
    const needed = this.#position + size
    if (needed <= this.#buffer.length) return
    const larger = Buffer.allocUnsafe(Math.max(needed, this.#buffer.length * 2))
    this.#buffer.copy(larger, 0, 0, this.#position)
    this.#buffer = larger
  }

  #head(type: number, argument: number): void {
    this.#reserve(9)
    const buffer = this.#buffer
    const at = this.#position
    const major = type << 5
    if (argument < 24) {
      buffer[at] = major | argument
      this.#position = at + 1
    } else if (argument < 0x100) {
      buffer[at] = major | 24
      buffer[at + 1] = argument
      this.#position = at + 2
    } else if (argument < 0x10000) {
      buffer[at] = major | 25
      this.#position = buffer.writeUInt16BE(argument, at + 1)
    } else if (argument < 0x1_0000_0000) {
      buffer[at] = major | 26
      this.#position = buffer.writeUInt32BE(argument, at + 1)
    } else {
      buffer[at] = major | 27
      buffer.writeUInt32BE(Math.floor(argument / 0x1_0000_0000), at + 1)
      this.#position = buffer.writeUInt32BE(argument % 0x1_0000_0000, at + 5)
    }
  }

  #number(value: number): void {
    if (Number.isInteger(value)) {
      if (!Number.isSafeInteger(value))
        throw new CborError('integer-too-large', 'an integer beyond 2^53-1')
      if (value < 0) this.#head(1, -1 - value)
      else this.#head(0, value)
      return
    }
    if (!Number.isFinite(value)) throw new CborError('unsupported', 'NaN or infinity')
    this.#reserve(9)
    this.#buffer[this.#position] = 0xfb
    this.#position = this.#buffer.writeDoubleBE(value, this.#position + 1)
  }

  #text(text: string): void {
    if (!text.isWellFormed()) throw new CborError('invalid-text', 'text with a lone surrogate')
    const length = Buffer.byteLength(text)
    this.#head(3, length)
    this.#reserve(length)
    this.#position += this.#buffer.write(text, this.#position)
  }

  #bytes(bytes: Uint8Array): void {
    this.#head(2, bytes.length)
    this.#reserve(bytes.length)
    this.#buffer.set(bytes, this.#position)
    this.#position += bytes.length
  }

  #link(link: Cid): void {
    this.#head(6, linkTag)
    this.#head(2, cidLength + 1)
    this.#reserve(cidLength + 1)
    this.#buffer[this.#position] = 0
    this.#buffer.set(link.bytes, this.#position + 1)
    this.#position += cidLength + 1
  }

  #map(map: IpldMap, depth: number): void {
    const prototype = Object.getPrototypeOf(map)
    if (prototype !== Object.prototype && prototype !== null) {
      throw new CborError('unsupported', 'an object of a class has no DAG-CBOR form')
    }
    const keys = Object.keys(map).filter((key) => map[key] !== undefined)
    keys.sort(compareKeys)
    this.#head(5, keys.length)
    for (const key of keys) {
      this.#text(key)
      this.value(map[key] ?? null, depth + 1)
    }
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: this is what ASCII is
const ascii = /^[\x00-\x7f]*$/

/** The order of map keys: shorter first, then by bytes (of ASCII, the order of strings). */
function compareKeys(left: string, right: string): number {
  if (ascii.test(left) && ascii.test(right)) {
    if (left.length !== right.length) return left.length - right.length
    return left < right ? -1 : 1
  }
  const [a, b] = [Buffer.from(left), Buffer.from(right)]
  return a.length - b.length || Buffer.compare(a, b)
}

/** The lex JSON of a decoded value, keys in their decoded order (spec: data model, "JSON"). */
export function toLexJson(value: Ipld): Json {
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Cid) return { $link: value.toString() }
  if (value instanceof Uint8Array) return { $bytes: base64(value) }
  if (Array.isArray(value)) return value.map(toLexJson)
  const json: { [key: string]: Json } = {}
  for (const key of Object.keys(value)) setOwn(json, key, toLexJson(value[key] ?? null))
  return json
}

/**
 * The value that lex JSON stands for. Throws CborError on a malformed `$link` or `$bytes`, and on
 * whatever else has no DAG-CBOR form.
 */
export function fromLexJson(json: unknown, depth = 0): Ipld {
  if (typeof json === 'number') return checkNumber(json)
  if (json === null || typeof json === 'boolean' || typeof json === 'string') return json
  if (typeof json !== 'object') throw new CborError('unsupported', `a ${typeof json} is not JSON`)
  if (depth >= maxDepth) throw new CborError('too-deep', `nested deeper than ${maxDepth}`)
  if (Array.isArray(json)) return json.map((item) => fromLexJson(item, depth + 1))
  if ('$link' in json) return linkFromJson(json)
  if ('$bytes' in json) return bytesFromJson(json)
  const map: IpldMap = {}
  for (const [key, value] of Object.entries(json)) {
    if (value !== undefined) setOwn(map, key, fromLexJson(value, depth + 1))
  }
  return map
}

function checkNumber(value: number): number {
  if (Number.isSafeInteger(value) || (Number.isFinite(value) && !Number.isInteger(value)))
    return value
  throw new CborError('integer-too-large', 'a number beyond 2^53-1')
}

function linkFromJson(json: { $link: unknown }): Cid {
  const text = json.$link
  if (typeof text !== 'string' || Object.keys(json).length !== 1) {
    throw new CborError('invalid-link', 'a $link that is not one text and nothing else')
  }
  try {
    return parseCid(text)
  } catch (error) {
    if (error instanceof CidError) throw new CborError('invalid-link', error.message)
    throw error
  }
}

const base64Form = /^[A-Za-z0-9+/]*={0,2}$/

function bytesFromJson(json: { $bytes: unknown }): Uint8Array {
  const text = json.$bytes
  if (typeof text !== 'string' || Object.keys(json).length !== 1 || !base64Form.test(text)) {
    throw new CborError('invalid-text', 'a $bytes that is not one base64 text and nothing else')
  }
  return new Uint8Array(Buffer.from(text, 'base64'))
}

/** Base64 without padding, as atproto writes it. */
function base64(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
  return text.replace(/=+$/, '')
}
