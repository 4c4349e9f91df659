/** Bytes that are written once, one after another, and read anywhere: in memory, then in a file. */
import { closeSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { errorText } from '../shared/errors.ts'
import { Failure } from './failures.ts'
import type { Share } from './memory.ts'

/** Bytes taken at a time, as many again as there are: most repos are small. What is put in lies within one. */
const leastSegmentBytes = 8 * 1024
const segmentBytes = 1024 * 1024
const bufferBytes = 256 * 1024
/** Read ahead when the last reads were close together: a CAR in the order of its tree is. */
const windowBytes = 64 * 1024
const pieceBytes = 32 * 1024

interface Segment {
  start: number
  bytes: Uint8Array
}

/**
 * In memory as long as the share allows; from then on in a temporary file that has no name, so that
 * it is gone with the process, however that ends. Throws Failure when the file can't be had.
 */
export class Spill implements Disposable {
  readonly #share: Share
  #segments: Segment[] = []
  /** Bytes used of the last segment. */
  #used = 0
  #held = 0
  #file: number | null = null
  /** What is not in the file yet. */
  #buffer = Buffer.alloc(0)
  #buffered = 0
  #size = 0
  #window = Buffer.alloc(0)
  #windowStart = 0
  #lastEnd = 0
  #piece = Buffer.alloc(0)
  #pieceUsed = 0
  #scratch = Buffer.alloc(0)

  constructor(share: Share) {
    this.#share = share
  }

  /** Bytes put in so far: where the next ones will lie. */
  get size(): number {
    return this.#size
  }

  get isFile(): boolean {
    return this.#file !== null
  }

  /** Puts in all parts, one after the other; they are read together. */
  append(...parts: readonly Uint8Array[]): void {
    const length = parts.reduce((sum, part) => sum + part.length, 0)
    if (this.#file === null && !this.#hasRoom(length)) this.#moveToFile()
    for (const part of parts) {
      if (this.#file === null) this.#keep(part)
      else this.#write(this.#file, part)
    }
  }

  /** A view or a copy of what was put in at a place, never of parts of two calls. */
  read(offset: number, length: number): Uint8Array {
    if (this.#file !== null) return this.#readFile(this.#file, offset, length)
    const segment = this.#segmentAt(offset)
    return segment.bytes.subarray(offset - segment.start, offset - segment.start + length)
  }

  /** As `read`; what it gives holds until the next call. */
  peek(offset: number, length: number): Uint8Array {
    if (this.#file === null) return this.read(offset, length)
    if (this.#scratch.length < length) this.#scratch = Buffer.allocUnsafeSlow(length * 2)
    return this.#readFile(this.#file, offset, length, this.#scratch)
  }

  [Symbol.dispose](): void {
    if (this.#file !== null) closeSync(this.#file)
    this.#file = null
    this.#segments = []
    this.#buffer = Buffer.alloc(0)
    this.#window = Buffer.alloc(0)
    this.#scratch = Buffer.alloc(0)
  }

  /** Whether the bytes fit, in the last segment or in one more. */
  #hasRoom(length: number): boolean {
    const last = this.#segments.at(-1)
    if (last !== undefined && this.#used + length <= last.bytes.length) return true
    const size = Math.max(Math.min(segmentBytes, Math.max(leastSegmentBytes, this.#size)), length)
    if (!this.#share.take(size)) return false
    this.#held += size
    this.#segments.push({ start: this.#size, bytes: new Uint8Array(size) })
    this.#used = 0
    return true
  }

  #keep(part: Uint8Array): void {
    this.#segments.at(-1)?.bytes.set(part, this.#used)
    this.#used += part.length
    this.#size += part.length
  }

  #segmentAt(offset: number): Segment {
    let low = 0
    let high = this.#segments.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if ((this.#segments[middle]?.start ?? 0) <= offset) low = middle
      else high = middle - 1
    }
    return this.#segments[low] as Segment
  }

  #moveToFile(): void {
    const file = guarded(nameless)
    const ends = [...this.#segments.slice(1).map(({ start }) => start), this.#size]
    guarded(() => {
      for (const [index, { start, bytes }] of this.#segments.entries())
        writeAll(file, bytes.subarray(0, (ends[index] ?? start) - start))
    })
    this.#file = file
    this.#buffer = Buffer.allocUnsafeSlow(bufferBytes)
    this.#segments = []
    this.#share.take(-this.#held)
    this.#held = 0
  }

  #write(file: number, part: Uint8Array): void {
    if (this.#buffered + part.length > this.#buffer.length) this.#flush(file)
    if (part.length > this.#buffer.length) guarded(() => writeAll(file, part))
    else {
      this.#buffer.set(part, this.#buffered)
      this.#buffered += part.length
    }
    this.#size += part.length
  }

  #flush(file: number): void {
    guarded(() => writeAll(file, this.#buffer.subarray(0, this.#buffered)))
    this.#buffered = 0
  }

  /** A read far from the last one goes to `scratch`, or to room of its own. */
  #readFile(file: number, offset: number, length: number, scratch?: Buffer): Uint8Array {
    if (this.#buffered > 0) this.#flush(file)
    const near = offset >= this.#lastEnd - windowBytes && offset <= this.#lastEnd + windowBytes
    this.#lastEnd = offset + length
    const at = offset - this.#windowStart
    if (at >= 0 && at + length <= this.#window.length) return this.#window.subarray(at, at + length)
    if (!near) {
      const bytes = scratch?.subarray(0, length) ?? this.#room(length)
      guarded(() => readAll(file, bytes, offset))
      return bytes
    }
    const bytes = Buffer.allocUnsafeSlow(
      Math.max(length, Math.min(windowBytes, this.#size - offset)),
    )
    guarded(() => readAll(file, bytes, offset))
    this.#window = bytes
    this.#windowStart = offset
    return bytes.subarray(0, length)
  }

  /** Room for one read, of a piece that others share: a buffer for each would be slow to free. */
  #room(length: number): Buffer {
    if (length > pieceBytes) return Buffer.allocUnsafeSlow(length)
    if (this.#pieceUsed + length > this.#piece.length) {
      this.#piece = Buffer.allocUnsafeSlow(pieceBytes)
      this.#pieceUsed = 0
    }
    this.#pieceUsed += length
    return this.#piece.subarray(this.#pieceUsed - length, this.#pieceUsed)
  }
}

/** Opens a file and takes its name away: nobody has to clean up after a kill. */
function nameless(): number {
  const path = join(tmpdir(), `sluice-car-${process.pid}-${crypto.randomUUID()}`)
  const file = openSync(path, 'wx+', 0o600)
  unlinkSync(path)
  return file
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at)
}

function readAll(file: number, bytes: Uint8Array, offset: number): void {
  for (let at = 0; at < bytes.length; ) {
    const read = readSync(file, bytes, at, bytes.length - at, offset + at)
    if (read === 0) throw new Error('the temporary file is shorter than what was written')
    at += read
  }
}

function guarded<T>(call: () => T): T {
  try {
    return call()
  } catch (cause) {
    throw new Failure('temporary-file', errorText(cause), { cause })
  }
}
