/** The blocks of one repo, held as bytes and not as objects, in memory or in a temporary file. */
import { type Cid, cidLength } from '../shared/repo/cid.ts'
import { BlockIndex } from './block-index.ts'
import { Failure } from './failures.ts'
import type { Memory, Share } from './memory.ts'
import { Spill } from './spill.ts'

/** The table of so many blocks takes 240 MB; the largest repos known have half of them. */
const maxBlocks = 8_000_000

/** A map from CID to block, found by its digest: the codec does not count. */
export class Blocks implements Disposable {
  readonly #share: Share
  readonly #index = new BlockIndex()
  readonly #spill: Spill
  /** What the share was told of the index. */
  #told = 0
  #bytes = 0

  constructor(memory: Memory) {
    this.#share = memory.share()
    this.#spill = new Spill(this.#share)
  }

  /** Distinct blocks. */
  get count(): number {
    return this.#index.count
  }

  /** Bytes of the distinct blocks. */
  get bytes(): number {
    return this.#bytes
  }

  /** Whether they are in a file by now. */
  get isSpilled(): boolean {
    return this.#spill.isFile
  }

  /** Keeps a copy of a block whose hash is proved. One that is there already is not kept twice. */
  add(cid: Cid, bytes: Uint8Array): void {
    const key = cid.bytes
    if (this.#index.has(key)) return
    if (this.#index.count === maxBlocks) throw new Failure('too-many-blocks', `${maxBlocks}`)
    this.#index.add(key, { offset: this.#spill.size, length: bytes.length })
    this.#spill.append(key, bytes)
    this.#bytes += bytes.length
  }

  /** Waits, where the table has grown beyond the memory for all, until this repo may have more. */
  settle(signal: AbortSignal): Promise<void> | null {
    const more = this.#index.bytes - this.#told
    if (more === 0) return null
    this.#told = this.#index.bytes
    if (this.#share.take(more)) return null
    return this.#share.exceed(signal).then(() => void this.#share.take(more))
  }

  has(cid: Cid): boolean {
    return this.#index.has(cid.bytes)
  }

  /** The block, or undefined. */
  get(cid: Cid): Uint8Array | undefined {
    return this.#find(cid, (offset, length) => this.#spill.read(offset, length))
  }

  /** As `get`; what it gives holds until the next call: a million records leave nothing to collect. */
  peek(cid: Cid): Uint8Array | undefined {
    return this.#find(cid, (offset, length) => this.#spill.peek(offset, length))
  }

  #find(cid: Cid, read: (offset: number, length: number) => Uint8Array): Uint8Array | undefined {
    const key = cid.bytes
    const place = this.#index.get(key)
    if (place === undefined) return undefined
    const found = read(place.offset, cidLength + place.length)
    // The index knows a quarter of the digest.
    for (let at = 12; at < cidLength; at++) if (found[at] !== key[at]) return undefined
    return found.subarray(cidLength)
  }

  [Symbol.dispose](): void {
    this.#spill[Symbol.dispose]()
    this.#share[Symbol.dispose]()
  }
}
