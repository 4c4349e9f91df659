/** CAR v1 files: a header with roots, then blocks (spec: repository, "CAR File Serialization"). */
import { CborError, decodeCbor, encodeCbor, type Ipld, isMap } from './cbor.ts'
import { Cid, CidError, cidAt, cidLength, cidMatches, parseCid } from './cid.ts'

export type CarCode = 'truncated' | 'malformed' | 'block-too-large' | 'hash-mismatch'

/** Bytes that are not a CAR that we can take; `code` says why. */
export class CarError extends Error {
  override name = 'CarError'
  readonly code: CarCode
  constructor(code: CarCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

export interface CarOptions {
  /** Largest block, in bytes. */
  maxBlockBytes?: number
  /** The roots and these are all that is kept, unhashed; of other blocks nothing but the length is looked at. */
  only?: readonly Cid[]
}

/** A record has up to 1 MB and a commit's blocks 2 MB; a tree node is far smaller. */
export const defaultMaxBlockBytes = 2_000_000
/** A header holds a root or a few. */
const maxHeaderBytes = 4_096
/** Lengths here stay below 2^35. */
const maxVarintBytes = 5

export interface Car {
  roots: Cid[]
  /** By the text of their CID; the bytes are views of the input. */
  blocks: Map<string, Uint8Array>
}

export interface Block {
  cid: Cid
  bytes: Uint8Array
}

/** Reads a whole CAR in memory, every block checked against its CID unless told otherwise. Throws CarError. */
export function parseCar(bytes: Uint8Array, options: CarOptions = {}): Car {
  const { maxBlockBytes = defaultMaxBlockBytes, only } = options
  const header = sectionAt(bytes, 0, maxHeaderBytes)
  if (header === null) throw truncated()
  const roots = readHeader(bytes.subarray(header.start, header.end))
  const wanted = only === undefined ? null : [...roots, ...only]
  const blocks = new Map<string, Uint8Array>()
  for (let position = header.end; position < bytes.length; ) {
    const section = sectionAt(bytes, position, maxBlockBytes + cidLength)
    if (section === null) throw truncated()
    position = section.end
    if (wanted === null) {
      const { cid, bytes: block } = readBlock(bytes, section)
      blocks.set(cid.toString(), block)
      continue
    }
    const cid = foundAt(bytes, section.start, wanted)
    if (cid !== null) blocks.set(cid.toString(), blockAt(bytes, section).bytes)
  }
  return { roots, blocks }
}

/** Which of these CIDs stands there. */
function foundAt(bytes: Uint8Array, at: number, wanted: readonly Cid[]): Cid | null {
  for (const cid of wanted) if (cid.isAt(bytes, at)) return cid
  return null
}

/**
 * Reads a CAR as it arrives. Holds at most one block and one chunk. Each block is checked against
 * its CID, and its bytes are a copy that keeps nothing else alive. Throws CarError: here for the
 * header, and out of `blocks` for the rest; an error of the source passes through unchanged.
 * `blocks` can be iterated once; leaving it early ends the source.
 */
export async function readCar(
  chunks: AsyncIterable<Uint8Array>,
  options: CarOptions = {},
): Promise<{ roots: Cid[]; blocks: AsyncGenerator<Block, void, undefined> }> {
  const { maxBlockBytes = defaultMaxBlockBytes } = options
  const input = new Input(chunks)
  try {
    const header = await input.section(maxHeaderBytes)
    if (header === null) throw truncated()
    const roots = readHeader(input.take(header))
    return { roots, blocks: readBlocks(input, maxBlockBytes) }
  } catch (error) {
    await input.end()
    throw error
  }
}

async function* readBlocks(input: Input, maxBlockBytes: number) {
  try {
    for (;;) {
      const section =
        input.ready(maxBlockBytes + cidLength) ?? (await input.section(maxBlockBytes + cidLength))
      if (section === null) return
      const copy = input.take(section)
      yield readBlock(copy, { start: 0, end: copy.length })
    }
  } finally {
    await input.end()
  }
}

/** Where a section lies, its length prefix passed over. */
interface Section {
  start: number
  end: number
}

/** The section at a place, or null when the bytes end before it does. */
function sectionAt(bytes: Uint8Array, position: number, maxLength: number): Section | null {
  let length = 0
  for (let index = 0, scale = 1; index < maxVarintBytes; index++, scale *= 128) {
    const byte = bytes[position + index]
    if (byte === undefined) return null
    length += (byte & 0x7f) * scale
    if (byte >= 0x80) continue
    if (byte === 0)
      throw new CarError('malformed', 'a length that is zero or not in its shortest form')
    if (length > maxLength) throw tooLarge(length, maxLength)
    const start = position + index + 1
    return start + length > bytes.length ? null : { start, end: start + length }
  }
  throw new CarError('malformed', 'a length that is no length')
}

function tooLarge(length: number, maxLength: number): CarError {
  return new CarError('block-too-large', `a section of ${length} bytes; the limit is ${maxLength}`)
}

function truncated(): CarError {
  return new CarError('truncated', 'the car ends within a section')
}

function readHeader(bytes: Uint8Array): Cid[] {
  const header = decodeHeader(bytes)
  if (!isMap(header) || header['version'] !== 1)
    throw new CarError('malformed', 'not a car of version 1')
  const roots = header['roots']
  if (!Array.isArray(roots)) throw new CarError('malformed', 'a car without roots')
  return roots.map((root) => {
    if (root instanceof Cid) return root
    throw new CarError('malformed', 'a root that is not a link')
  })
}

function decodeHeader(bytes: Uint8Array): Ipld {
  try {
    return decodeCbor(bytes)
  } catch (cause) {
    if (!(cause instanceof CborError)) throw cause
    throw new CarError('malformed', 'the header of the car is not DAG-CBOR', { cause })
  }
}

function readBlock(source: Uint8Array, section: Section): Block {
  const block = blockAt(source, section)
  if (cidMatches(source, section.start, block.bytes)) return block
  throw new CarError('hash-mismatch', `a block is not what its cid ${block.cid} says`)
}

function blockAt(source: Uint8Array, { start, end }: Section): Block {
  if (end - start < cidLength) throw new CarError('malformed', 'a section too short for a cid')
  return { cid: readCid(source, start), bytes: source.subarray(start + cidLength, end) }
}

function readCid(source: Uint8Array, start: number): Cid {
  try {
    return cidAt(source, start)
  } catch (cause) {
    if (!(cause instanceof CidError)) throw cause
    throw new CarError('malformed', cause.message, { cause })
  }
}

/** Chunks of a source as one run of bytes, of which only the unread rest is held. */
class Input {
  readonly #source: AsyncIterator<Uint8Array>
  #chunk: Uint8Array = new Uint8Array(0)
  #position = 0
  #ended = false

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#source = chunks[Symbol.asyncIterator]()
  }

  /** The next section if it is here already. */
  ready(maxLength: number): Section | null {
    return sectionAt(this.#chunk, this.#position, maxLength)
  }

  /** Waits for the next section; null at a clean end. Throws CarError on an end within a section. */
  async section(maxLength: number): Promise<Section | null> {
    for (;;) {
      const section = this.ready(maxLength)
      if (section) return section
      if (await this.#more(maxLength)) continue
      if (this.#position === this.#chunk.length) return null
      throw truncated()
    }
  }

  /** A copy of the section, which is then read. */
  take({ start, end }: Section): Uint8Array {
    this.#position = end
    return Uint8Array.prototype.slice.call(this.#chunk, start, end)
  }

  async end(): Promise<void> {
    if (this.#ended) return
    this.#ended = true
    await this.#source.return?.()
  }

  /** Gathers chunks until the section that has begun is whole, so that each byte moves once. */
  async #more(maxLength: number): Promise<boolean> {
    const parts = [this.#chunk.subarray(this.#position)]
    let have = this.#chunk.length - this.#position
    const wanted = wantedBytes(this.#chunk, this.#position, maxLength)
    do {
      const { done, value } = await this.#source.next()
      if (done) {
        this.#ended = true
        break
      }
      parts.push(value)
      have += value.length
    } while (have < wanted)
    this.#chunk = parts.length === 2 && parts[0]?.length === 0 && parts[1] ? parts[1] : join(parts)
    this.#position = 0
    return parts.length > 1
  }
}

/** How many bytes the section at a place needs in all, as far as its beginning tells. */
function wantedBytes(bytes: Uint8Array, position: number, maxLength: number): number {
  let length = 0
  for (let index = 0; index < maxVarintBytes; index++) {
    const byte = bytes[position + index]
    if (byte === undefined) return 1
    length += (byte & 0x7f) * 2 ** (7 * index)
    if (byte < 0x80) return Math.min(length, maxLength) + index + 1
  }
  return 1
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts)
}

/** Writes a CAR: the roots in its header, then the blocks in the order given. */
export function writeCar(
  roots: readonly (Cid | string)[],
  blocks: Iterable<{ cid: Cid | string; bytes: Uint8Array }>,
): Uint8Array {
  const header = encodeCbor({ version: 1, roots: roots.map(asCid) })
  const parts = [varint(header.length), header]
  for (const { cid, bytes } of blocks) {
    parts.push(varint(cidLength + bytes.length), asCid(cid).bytes, bytes)
  }
  return Buffer.concat(parts)
}

function asCid(cid: Cid | string): Cid {
  return typeof cid === 'string' ? parseCid(cid) : cid
}

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  let rest = value
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest & 0x7f) | 0x80)
  return Uint8Array.from([...bytes, rest])
}
