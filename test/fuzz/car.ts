/** CARs taken apart and put together without asking whether they are right. */
import { hash } from 'node:crypto'
import { decode, encode } from '@atproto/lex-cbor'
import { type Cid, createCid, decodeCid } from '@atproto/lex-data'

export interface Block {
  cid: Cid
  bytes: Uint8Array
}

const dagCbor = 0x71
const sha256 = 0x12
/** Of a binary CID of the one form that there is here. */
const cidLength = 36

/** The block of these bytes, as DAG-CBOR. */
export function blockOf(bytes: Uint8Array): Block {
  const digest = hash('sha256', bytes, 'buffer')
  return { cid: createCid(dagCbor, sha256, digest), bytes }
}

/** The blocks of a well-formed CAR: its root, then the others in their order. */
export function openCar(car: Uint8Array): Block[] {
  const header = sectionAt(car, 0)
  const { roots } = decode<{ roots: Cid[] }>(car.subarray(header.start, header.end))
  const blocks: Block[] = []
  for (let at = header.end; at < car.length; ) {
    const { start, end } = sectionAt(car, at)
    const cid = decodeCid(car.subarray(start, start + cidLength))
    blocks.push({ cid, bytes: car.subarray(start + cidLength, end) })
    at = end
  }
  const isRoot = ({ cid }: Block) => cid.equals(roots[0] as Cid)
  return [...blocks.filter(isRoot), ...blocks.filter((block) => !isRoot(block))]
}

/** A CAR that says of each block what it is told. */
export function carOf(roots: readonly Cid[], blocks: readonly Block[]): Uint8Array {
  const header = encode({ version: 1, roots: [...roots] })
  const parts = [varint(header.length), header]
  for (const { cid, bytes } of blocks) {
    parts.push(varint(cid.bytes.length + bytes.length), cid.bytes, bytes)
  }
  return Buffer.concat(parts)
}

function sectionAt(car: Uint8Array, at: number): { start: number; end: number } {
  let length = 0
  let start = at
  for (let more = true; more; start += 1) {
    const byte = car[start] ?? 0
    length += (byte & 127) * 2 ** (7 * (start - at))
    more = byte > 127
  }
  return { start, end: start + length }
}

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  let left = value
  for (; left > 127; left = Math.floor(left / 128)) bytes.push((left % 128) | 128)
  bytes.push(left)
  return Uint8Array.from(bytes)
}
