/** Nodes of the record tree: their one canonical form (spec: repository, "MST Structure"). */
import { hash } from 'node:crypto'
import { type Cid, CidError, cidAt, cidLength } from './cid.ts'

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

/**
 * Decodes a node and checks what can be seen in it alone: its one canonical encoding, the syntax and
 * the order of its keys, their compression. Throws MstError.
 */
export function decodeNode(bytes: Uint8Array): MstNode {
  const reader = new NodeReader(bytes)
  reader.expect(bytesOf.node)
  const length = reader.argument(4)
  const node: MstNode = { keys: [], values: [], trees: [] }
  let last = ''
  for (let index = 0; index < length; index++) {
    const { key, tree, value } = reader.entry(last)
    node.keys.push(key)
    node.values.push(value)
    node.trees.push(tree)
    last = key
  }
  reader.expect(bytesOf.left)
  node.trees.unshift(reader.linkOrNull())
  reader.end()
  return node
}

/** The canonical bytes of a node. */
export function encodeNode({ keys, values, trees }: MstNode): Uint8Array {
  const writer = new NodeWriter(64 + keys.reduce((sum, key) => sum + key.length + 110, 0))
  writer.put(bytesOf.node)
  writer.argument(4, keys.length)
  let last = ''
  for (const [index, key] of keys.entries()) {
    const shared = commonPrefix(last, key)
    writer.put(bytesOf.key)
    writer.argument(2, key.length - shared)
    writer.ascii(key, shared)
    writer.put(bytesOf.prefix)
    writer.argument(0, shared)
    writer.put(bytesOf.tree)
    writer.link(trees[index + 1] ?? null)
    writer.put(bytesOf.value)
    writer.link(values[index] ?? null)
    last = key
  }
  writer.put(bytesOf.left)
  writer.link(trees[0] ?? null)
  return writer.bytes()
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
const bytesOf = {
  node: [0xa2, 0x61, 0x65],
  left: [0x61, 0x6c],
  key: [0xa4, 0x61, 0x6b],
  prefix: [0x61, 0x70],
  tree: [0x61, 0x74],
  value: [0x61, 0x76],
  link: [0xd8, 0x2a, 0x58, cidLength + 1, 0x00],
} as const
const nullByte = 0xf6

class NodeReader {
  readonly #bytes: Uint8Array
  readonly #buffer: Buffer
  #position = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  expect(expected: readonly number[]): void {
    for (const byte of expected) {
      if (this.#bytes[this.#position++] !== byte) throw malformed('a block that is no tree node')
    }
  }

  end(): void {
    if (this.#position !== this.#bytes.length) throw malformed('bytes after a tree node')
  }

  /** A length or number in its shortest form; none in a node is above 65,535. */
  argument(type: number): number {
    const head = (this.#bytes[this.#position++] ?? 0xff) ^ (type << 5)
    if (head < 24) return head
    const first = this.#bytes[this.#position++] ?? 0
    if (head === 24 && first >= 24) return first
    const value = (first << 8) | (this.#bytes[this.#position++] ?? 0)
    if (head === 25 && value >= 0x100) return value
    throw malformed('a block that is no tree node')
  }

  entry(last: string): { key: string; tree: Cid | null; value: Cid } {
    this.expect(bytesOf.key)
    const length = this.argument(2)
    const from = this.#position
    this.#position = from + length
    if (this.#position > this.#bytes.length) throw malformed('a node cut short')
    this.expect(bytesOf.prefix)
    const shared = this.argument(0)
    const key = last.slice(0, shared) + this.#buffer.toString('latin1', from, from + length)
    checkKey(key)
    if (key <= last) throw malformed('keys out of order')
    if (commonPrefix(last, key) !== shared) throw malformed('a key compressed in another way')
    this.expect(bytesOf.tree)
    const tree = this.linkOrNull()
    this.expect(bytesOf.value)
    return { key, tree, value: this.#link() }
  }

  linkOrNull(): Cid | null {
    if (this.#bytes[this.#position] !== nullByte) return this.#link()
    this.#position += 1
    return null
  }

  #link(): Cid {
    this.expect(bytesOf.link)
    const start = this.#position
    this.#position = start + cidLength
    try {
      return cidAt(this.#bytes, start)
    } catch (cause) {
      if (!(cause instanceof CidError)) throw cause
      throw new MstError('malformed', 'a link in a tree node that is no cid', { cause })
    }
  }
}

class NodeWriter {
  readonly #buffer: Buffer
  #position = 0

  constructor(size: number) {
    this.#buffer = Buffer.allocUnsafe(size)
  }

  bytes(): Uint8Array {
    return Uint8Array.prototype.slice.call(this.#buffer, 0, this.#position)
  }

  put(bytes: readonly number[]): void {
    for (const byte of bytes) this.#buffer[this.#position++] = byte
  }

  argument(type: number, value: number): void {
    const major = type << 5
    if (value < 24) this.put([major | value])
    else if (value < 0x100) this.put([major | 24, value])
    else this.put([major | 25, value >> 8, value & 0xff])
  }

  ascii(text: string, from: number): void {
    for (let index = from; index < text.length; index++) {
      this.#buffer[this.#position++] = text.charCodeAt(index)
    }
  }

  link(link: Cid | null): void {
    this.put(link ? bytesOf.link : [nullByte])
    if (link === null) return
    this.#buffer.set(link.bytes, this.#position)
    this.#position += cidLength
  }
}
