/** The blocks of one repo, held as bytes and not as objects, so that a million of them stay cheap. */
import { randomBytes } from 'node:crypto'
import { type Cid, cidLength } from '../shared/repo/cid.ts'

/** Bytes taken at a time; a block lies within one segment. */
const segmentBytes = 4 * 1024 * 1024
const firstSlots = 1024

/**
 * A map from digest to block: the bytes lie one after another in segments, found through a table of
 * numbers. A block costs its length, 36 bytes of CID, and 16 to 28 bytes of table.
 */
export class Blocks {
  readonly #segments: Uint8Array[] = []
  /** Room left for the bytes that follow, in the last segment. */
  #free = 0
  /** Where each block begins, in its segment; and in which. */
  #offsets = new Uint32Array(firstSlots / 2)
  #places = new Uint16Array(firstSlots / 2)
  #lengths = new Uint32Array(firstSlots / 2)
  /** Open addressing, at most half full: the number of a block plus 1, or 0. */
  #slots = new Uint32Array(firstSlots)
  #count = 0
  #bytes = 0
  /** Secret, so that nobody can choose digests that fall into one slot. */
  readonly #seed = Array.from({ length: 4 }, () => randomBytes(4).readUInt32LE() | 1)

  /** Distinct blocks. */
  get count(): number {
    return this.#count
  }

  /** Bytes of the distinct blocks. */
  get bytes(): number {
    return this.#bytes
  }

  /** Keeps a copy of a block whose hash is proved. One that is there already is not kept twice. */
  add(cid: Cid, bytes: Uint8Array): void {
    const key = cid.bytes
    const slot = this.#find(key)
    if (this.#slots[slot] !== 0) return
    const { segment, offset } = this.#take(cidLength + bytes.length)
    segment.set(key, offset)
    segment.set(bytes, offset + cidLength)
    this.#offsets[this.#count] = offset
    this.#places[this.#count] = this.#segments.length - 1
    this.#lengths[this.#count] = bytes.length
    this.#count += 1
    this.#bytes += bytes.length
    this.#slots[slot] = this.#count
    if (this.#count * 2 >= this.#slots.length) this.#grow()
  }

  has(cid: Cid): boolean {
    return this.#slots[this.#find(cid.bytes)] !== 0
  }

  /** A view of the block, or undefined. */
  get(cid: Cid): Uint8Array | undefined {
    const number = this.#slots[this.#find(cid.bytes)] ?? 0
    if (number === 0) return undefined
    const segment = this.#segments[this.#places[number - 1] ?? 0]
    const start = (this.#offsets[number - 1] ?? 0) + cidLength
    return segment?.subarray(start, start + (this.#lengths[number - 1] ?? 0))
  }

  /** The slot that holds the digest, or the free one where it belongs. The codec does not count. */
  #find(key: Uint8Array): number {
    const mask = this.#slots.length - 1
    for (let slot = this.#hash(key) & mask; ; slot = (slot + 1) & mask) {
      const number = this.#slots[slot] ?? 0
      if (number === 0 || this.#isBlock(number - 1, key)) return slot
    }
  }

  #hash(key: Uint8Array): number {
    let hash = 0
    for (let index = 0; index < 4; index++) {
      const at = 4 + index * 4
      const word =
        (key[at] ?? 0) |
        ((key[at + 1] ?? 0) << 8) |
        ((key[at + 2] ?? 0) << 16) |
        ((key[at + 3] ?? 0) << 24)
      hash = Math.imul(hash ^ word, this.#seed[index] ?? 1)
      hash ^= hash >>> 15
    }
    return hash >>> 0
  }

  #isBlock(index: number, key: Uint8Array): boolean {
    const segment = this.#segments[this.#places[index] ?? 0]
    const offset = this.#offsets[index] ?? 0
    if (segment === undefined) return false
    for (let at = 4; at < cidLength; at++) if (segment[offset + at] !== key[at]) return false
    return true
  }

  #take(size: number): { segment: Uint8Array; offset: number } {
    let segment = this.#segments.at(-1)
    if (segment === undefined || this.#free < size) {
      // The first segment is small: most repos are.
      const least = this.#segments.length === 0 ? segmentBytes / 32 : segmentBytes
      segment = new Uint8Array(Math.max(least, size))
      this.#segments.push(segment)
      this.#free = segment.length
    }
    const offset = segment.length - this.#free
    this.#free -= size
    return { segment, offset }
  }

  #grow(): void {
    this.#offsets = enlarged(this.#offsets, new Uint32Array(this.#offsets.length * 2))
    this.#places = enlarged(this.#places, new Uint16Array(this.#places.length * 2))
    this.#lengths = enlarged(this.#lengths, new Uint32Array(this.#lengths.length * 2))
    this.#slots = new Uint32Array(this.#slots.length * 2)
    const mask = this.#slots.length - 1
    for (let index = 0; index < this.#count; index++) {
      const segment = this.#segments[this.#places[index] ?? 0]
      const offset = this.#offsets[index] ?? 0
      if (segment === undefined) continue
      let slot = this.#hash(segment.subarray(offset, offset + cidLength)) & mask
      while (this.#slots[slot] !== 0) slot = (slot + 1) & mask
      this.#slots[slot] = index + 1
    }
  }
}

function enlarged<T extends Uint32Array | Uint16Array>(from: T, to: T): T {
  to.set(from)
  return to
}
