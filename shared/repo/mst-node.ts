/** Nodes of the record tree: their one canonical form (spec: repository, "MST Structure"). */
import { hash } from 'node:crypto'
import { Cid, cidLength, isCidAt } from './cid.ts'

export type MstCode = 'malformed' | 'missing-block' | 'op-mismatch'

/** A tree that breaks its rules, lacks a block, or does not bear out an op; `code` says which. */
export class MstError extends Error {
  override name = 'MstError'
  readonly code: MstCode
  constructor(code: MstCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** One node as it is stored: a subtree before, between and after its keys (null where there is none). */
export interface MstNode {
  keys: string[]
  values: Cid[]
  /** One more than the keys. */
  trees: (Cid | null)[]
}

const longestKey = 1_024
const keyForm = /^[a-zA-Z0-9_~.:-]+\/[a-zA-Z0-9_~.:-]+$/

/** The layer of a key: how many pairs of zero bits its sha-256 begins with. */
export function keyLayer(key: string): number {
  const hex = hash('sha256', key, 'hex')
  let zeros = 0
  while (hex[zeros] === '0') zeros++
  // '1', '2' and '3' begin with one more pair.
  return zeros * 2 + ((hex[zeros] ?? '') < '4' ? 1 : 0)
}

/** How many leading bytes two keys share; keys are ASCII. */
export function commonPrefix(left: string, right: string): number {
  const most = Math.min(left.length, right.length)
  let length = 0
  while (length < most && left.charCodeAt(length) === right.charCodeAt(length)) length++
  return length
}

/** Where the parts of a canonical node are in its bytes. */
export interface NodeIndex {
  readonly count: number
  /** `placesEach` numbers of each entry, by the names of `place`. */
  readonly places: readonly number[]
  /** Of the first subtree: its link, or null. */
  readonly left: number
}

export const placesEach = 5
/** A suffix of the key, the length of the prefix before it, a link or null, the 36 bytes of a CID. */
export const place = { key: 0, keyEnd: 1, shared: 2, tree: 3, value: 4 } as const

/**
 * Finds the parts of a node and checks what can be seen in it alone: its one canonical encoding, the
 * syntax and the order of its keys, their compression. Throws MstError.
 */
export function indexNode(bytes: Uint8Array): NodeIndex {
  return new NodeReader(bytes).index()
}

/** Decodes a node, checked as by `indexNode`. Throws MstError. */
export function decodeNode(bytes: Uint8Array): MstNode {
  const { count, places, left } = indexNode(bytes)
  const node: MstNode = { keys: [], values: [], trees: [linkOrNull(bytes, left)] }
  const text = asBuffer(bytes)
  let last = ''
  for (let at = 0; at < count * placesEach; at += placesEach) {
    const start = places[at + place.key] ?? 0
    const end = places[at + place.keyEnd] ?? 0
    last = last.slice(0, places[at + place.shared]) + text.toString('latin1', start, end)
    node.keys.push(last)
    node.values.push(new Cid(bytes, places[at + place.value] ?? 0))
    node.trees.push(linkOrNull(bytes, places[at + place.tree] ?? 0))
  }
  return node
}

/** Where the first entry begins. */
export function entriesStart({ count }: NodeIndex): number {
  const sizeOfCount = count < 24 ? 1 : count < 0x100 ? 2 : 3
  return nodeHead.length + sizeOfCount
}

/** The link at a place that `indexNode` gave. */
export function linkOrNull(bytes: Uint8Array, at: number): Cid | null {
  return bytes[at] === nullByte ? null : new Cid(bytes, at + linkHead.length)
}

/** The same bytes, for whoever reads texts in them. */
export function asBuffer(bytes: Uint8Array): Buffer {
  if (bytes instanceof Buffer) return bytes
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** The canonical bytes of a node. */
export function encodeNode({ keys, values, trees }: MstNode): Uint8Array {
  const writer = new NodeWriter(keys.length, trees[0] ?? null)
  let last = ''
  for (const [index, key] of keys.entries()) {
    const value = values[index]
    if (value === undefined) throw malformed('a key without a value')
    writer.key(key, commonPrefix(last, key))
    writer.rest(trees[index + 1] ?? null, value)
    last = key
  }
  return writer.end()
}

/** Throws MstError unless the key is `collection/rkey` in the characters that either may have. */
export function checkKey(key: string): void {
  if (key.length > longestKey || !keyForm.test(key)) throw malformed('a key that is no record path')
}

/** The error for a tree that breaks a rule. */
export function malformed(message: string): MstError {
  return new MstError('malformed', message)
}

/** The fixed parts of `{e: [{k, p, t, v}…], l}` in DAG-CBOR. */
const nodeHead = [0xa2, 0x61, 0x65] as const
const keyHead = [0xa4, 0x61, 0x6b] as const
const prefixHead = [0x61, 0x70] as const
const treeHead = [0x61, 0x74] as const
const valueHead = [0x61, 0x76] as const
const leftHead = [0x61, 0x6c] as const
const linkHead = [0xd8, 0x2a, 0x58, cidLength + 1, 0x00] as const
/** From where a link begins to its CID, and from the field of a subtree to its link or null. */
export const linkHeadLength = linkHead.length
export const treeHeadLength = treeHead.length
const nullByte = 0xf6
const noNode = 'a block that is no tree node'

/** 1 for what may stand in either part of a key. */
const keyChars = new Uint8Array(256)
for (const char of 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_~.:-') {
  keyChars[char.charCodeAt(0)] = 1
}
const slash = '/'.charCodeAt(0)

/** The key that is being read, of which the next one may share a prefix. */
const lastKey = new Uint8Array(longestKey)

/** Reads and checks a node in one pass, without a string or an object for its parts. */
class NodeReader {
  readonly #bytes: Uint8Array
  #position = 0
  #lastLength = 0
  /** Where the slash of the last key is. */
  #slash = -1

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  index(): NodeIndex {
    this.#expect(nodeHead)
    const count = this.#argument(4)
    const places: number[] = []
    for (let index = 0; index < count; index++) this.#entry(places)
    this.#expect(leftHead)
    const left = this.#linkOrNull()
    if (this.#position !== this.#bytes.length) throw malformed('bytes after a tree node')
    return { count, places, left }
  }

  #expect(expected: readonly number[]): void {
    const position = this.#position
    for (let index = 0; index < expected.length; index++) {
      if (this.#bytes[position + index] !== expected[index]) throw malformed(noNode)
    }
    this.#position = position + expected.length
  }

  /** A length or number in its shortest form; none in a node is above 65,535. */
  #argument(type: number): number {
    const head = (this.#bytes[this.#position++] ?? 0xff) ^ (type << 5)
    if (head < 24) return head
    const first = this.#bytes[this.#position++] ?? 0
    if (head === 24 && first >= 24) return first
    const value = (first << 8) | (this.#bytes[this.#position++] ?? 0)
    if (head === 25 && value >= 0x100) return value
    throw malformed(noNode)
  }

  #entry(places: number[]): void {
    this.#expect(keyHead)
    const length = this.#argument(2)
    const start = this.#position
    const end = start + length
    if (end > this.#bytes.length) throw malformed(noNode)
    this.#position = end
    this.#expect(prefixHead)
    const shared = this.#argument(0)
    this.#key(start, end, shared)
    this.#expect(treeHead)
    const tree = this.#linkOrNull()
    this.#expect(valueHead)
    const value = this.#link() + linkHead.length
    places.push(start, end, shared, tree, value)
  }

  /** Checks in every respect what the bytes at a place and a prefix of the last key make. */
  #key(start: number, end: number, shared: number): void {
    const length = shared + end - start
    const lastLength = this.#lastLength
    if (shared > lastLength || length > longestKey) throw malformed('a key that is no record path')
    // The first byte that is its own decides order and compression alike; -1 where there is none.
    const own = start < end ? (this.#bytes[start] ?? -1) : -1
    const before = shared < lastLength ? (lastKey[shared] ?? -1) : -1
    if (own === before) throw malformed('a key twice, or compressed in another way')
    if (own < before) throw malformed('keys out of order')
    let slashAt = this.#slash < shared ? this.#slash : -1
    for (let index = start, at = shared; index < end; index++, at++) {
      const byte = this.#bytes[index] ?? 0
      lastKey[at] = byte
      if (keyChars[byte] === 1) continue
      if (byte !== slash || slashAt >= 0) throw malformed('a key that is no record path')
      slashAt = at
    }
    if (slashAt <= 0 || slashAt === length - 1) throw malformed('a key that is no record path')
    this.#slash = slashAt
    this.#lastLength = length
  }

  #linkOrNull(): number {
    if (this.#bytes[this.#position] !== nullByte) return this.#link()
    this.#position += 1
    return this.#position - 1
  }

  #link(): number {
    const start = this.#position
    this.#expect(linkHead)
    if (!isCidAt(this.#bytes, this.#position))
      throw malformed('a link in a tree node that is no cid')
    this.#position += cidLength
    return start
  }
}

/** Where nodes are put together; each is copied out of it. */
let scratch = new Uint8Array(4_096)

/** Writes one node: entry by entry, or runs of the entries of others, whose bytes are as they were. */
export class NodeWriter {
  readonly #left: Cid | null
  #position = 0

  /** One at a time: they share the place they write to. */
  constructor(count: number, left: Cid | null) {
    this.#left = left
    this.#put(nodeHead)
    this.#argument(4, count)
  }

  /** Begins an entry: the key, and how much of it the key before has as well. */
  key(key: string, shared: number): void {
    this.#keyHead(key.length - shared)
    for (let at = shared; at < key.length; at++) scratch[this.#position++] = key.charCodeAt(at)
    this.#put(prefixHead)
    this.#argument(0, shared)
  }

  /** As `key`, of bytes that another key begins with, and of more that stand at a place. */
  joinedKey(begin: string, from: Uint8Array, start: number, end: number, shared: number): void {
    const more = Math.max(0, begin.length - shared)
    this.#keyHead(more + end - start)
    for (let at = begin.length - more; at < begin.length; at++) {
      scratch[this.#position++] = begin.charCodeAt(at)
    }
    this.copy(from, start, end)
    this.#put(prefixHead)
    this.#argument(0, shared)
  }

  /** Ends an entry. */
  rest(tree: Cid | null, value: Cid): void {
    this.#put(treeHead)
    this.#link(tree)
    this.#put(valueHead)
    this.#link(value)
  }

  /** Bytes of a node that stay as they are. */
  copy(from: Uint8Array, start: number, end: number): void {
    this.#reserve(end - start)
    if (end - start > 32) scratch.set(from.subarray(start, end), this.#position)
    else
      for (let at = 0; at < end - start; at++) scratch[this.#position + at] = from[start + at] ?? 0
    this.#position += end - start
  }

  end(): Uint8Array {
    this.#put(leftHead)
    this.#link(this.#left)
    const bytes = Buffer.allocUnsafe(this.#position)
    bytes.set(scratch.subarray(0, this.#position))
    return bytes
  }

  #keyHead(length: number): void {
    this.#put(keyHead)
    this.#argument(2, length)
    this.#reserve(length)
  }

  /** Room for so many bytes, and for what has a fixed length after them. */
  #reserve(size: number): void {
    if (this.#position + size + 256 <= scratch.length) return
    const larger = new Uint8Array((this.#position + size + 256) * 2)
    larger.set(scratch.subarray(0, this.#position))
    scratch = larger
  }

  #put(bytes: readonly number[]): void {
    const position = this.#position
    for (let index = 0; index < bytes.length; index++) scratch[position + index] = bytes[index] ?? 0
    this.#position = position + bytes.length
  }

  #argument(type: number, value: number): void {
    const major = type << 5
    if (value < 24) {
      scratch[this.#position++] = major | value
    } else if (value < 0x100) {
      scratch[this.#position++] = major | 24
      scratch[this.#position++] = value
    } else {
      scratch[this.#position++] = major | 25
      scratch[this.#position++] = value >> 8
      scratch[this.#position++] = value & 0xff
    }
  }

  #link(link: Cid | null): void {
    this.#reserve(0)
    if (link === null) {
      scratch[this.#position++] = nullByte
      return
    }
    this.#put(linkHead)
    link.copyTo(scratch, this.#position)
    this.#position += cidLength
  }
}
