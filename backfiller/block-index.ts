/** Where each block lies, found by its digest: a table of numbers, so that millions stay cheap. */
import { randomBytes } from 'node:crypto'

/** Where a block lies. */
export interface Place {
  offset: number
  length: number
}

/** A slot is four words: two of the digest, then the offset's low word, its high byte and the length. */
const words = 4
const slotBytes = words * 4
const shards = 32
/** 2 KB in all: most repos are small. */
const firstSlots = 4
/** Secret, so that nobody can choose digests that fall into one slot. */
const seeds = [randomBytes(4).readUInt32LE() | 1, randomBytes(4).readUInt32LE() | 1] as const
/** Full up to four fifths, then half as large again: 20 to 30 bytes a block. */
const fullness = 0.8
const growth = 1.5

/**
 * A map from digest to place. It knows 64 bits of a digest: whoever reads the block at a place
 * compares the rest. In parts that grow one by one, so that growing never needs much at once.
 */
export class BlockIndex {
  readonly #shards: Uint32Array[] = Array.from(
    { length: shards },
    () => new Uint32Array(firstSlots * words),
  )
  readonly #counts = new Uint32Array(shards)
  #count = 0
  #bytes = shards * firstSlots * slotBytes

  get count(): number {
    return this.#count
  }

  /** Memory that the table takes. */
  get bytes(): number {
    return this.#bytes
  }

  has(cid: Uint8Array): boolean {
    const shard = this.#shardOf(cid)
    return shard[this.#find(shard, word(cid, 4), word(cid, 8)) + 3] !== 0
  }

  get(cid: Uint8Array): Place | undefined {
    const shard = this.#shardOf(cid)
    const slot = this.#find(shard, word(cid, 4), word(cid, 8))
    const last = shard[slot + 3] ?? 0
    if (last === 0) return undefined
    return {
      offset: (last >>> 24) * 0x1_0000_0000 + (shard[slot + 2] ?? 0),
      length: (last & 0xff_ffff) - 1,
    }
  }

  /** Notes a block that is not there yet: of less than 16 MB, within the first 1 TB. */
  add(cid: Uint8Array, { offset, length }: Place): void {
    const number = (cid[4] ?? 0) % shards
    let shard = this.#shardOf(cid)
    const count = (this.#counts[number] ?? 0) + 1
    if (count > (shard.length / words) * fullness) {
      shard = this.#enlarged(shard)
      this.#shards[number] = shard
    }
    const slot = this.#find(shard, word(cid, 4), word(cid, 8))
    shard[slot] = word(cid, 4)
    shard[slot + 1] = word(cid, 8)
    shard[slot + 2] = offset % 0x1_0000_0000
    // One more than the length: a slot with a block in it is never zero.
    shard[slot + 3] = Math.floor(offset / 0x1_0000_0000) * 0x100_0000 + length + 1
    this.#counts[number] = count
    this.#count += 1
  }

  #shardOf(cid: Uint8Array): Uint32Array {
    return this.#shards[(cid[4] ?? 0) % shards] as Uint32Array
  }

  /** The slot of a digest, or the free one where it belongs. */
  #find(shard: Uint32Array, high: number, low: number): number {
    const [first, second] = seeds
    let hash = Math.imul(high ^ first, 0x85eb_ca6b)
    hash = Math.imul(hash ^ (hash >>> 15) ^ low ^ second, 0xc2b2_ae35)
    hash = (hash ^ (hash >>> 16)) >>> 0
    const slots = shard.length / words
    let slot = Math.floor((hash * slots) / 0x1_0000_0000) * words
    while (shard[slot + 3] !== 0 && (shard[slot] !== high || shard[slot + 1] !== low)) {
      slot += words
      if (slot === shard.length) slot = 0
    }
    return slot
  }

  #enlarged(from: Uint32Array): Uint32Array {
    const to = new Uint32Array(Math.ceil((from.length / words) * growth) * words)
    for (let at = 0; at < from.length; at += words) {
      if (from[at + 3] === 0) continue
      to.set(from.subarray(at, at + words), this.#find(to, from[at] ?? 0, from[at + 1] ?? 0))
    }
    this.#bytes += to.byteLength - from.byteLength
    return to
  }
}

function word(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24)) >>>
    0
  )
}
