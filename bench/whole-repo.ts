/** Writes a signed repo of any size to a CAR file, in little memory: its tree is built bottom up. */
import { closeSync, openSync, readSync, renameSync, writeSync } from 'node:fs'
import { writeCar } from '../shared/repo/car.ts'
import { encodeCbor } from '../shared/repo/cbor.ts'
import { type Cid, cidLength, linkOf } from '../shared/repo/cid.ts'
import { encodeCommit } from '../shared/repo/commit.ts'
import { encodeNode, keyLayer, type MstNode } from '../shared/repo/mst-node.ts'
import { tidOf } from '../shared/repo/tid.ts'
import { createRandom } from '../simulator/random.ts'

export const did = 'did:plc:bench234bench234bench234'
const cid = 'bafyreihrulqpzqf2vrjc6ef3phj27x2ohidkpf2ctk23mlk2fdyitegqeu'

/** `written`: records and nodes as the tree is built; `shuffled`: by chance. */
export type BlockOrder = 'written' | 'shuffled'

/** Gives the key that the repo is signed with, and the bytes of the file. */
export async function writeRepo(
  path: string,
  { records, order, padding = 0 }: { records: number; order: BlockOrder; padding?: number },
): Promise<{ key: string; bytes: number }> {
  const out = createWriter(path)
  const root = writeTree(records, padding, out.block)
  const { Secp256k1Keypair } = await import('@atproto/crypto')
  const key = await Secp256k1Keypair.create()
  const unsigned = { did, rev: tidOf(1_750_000_000_000_000), data: root, prev: null }
  const sig = await key.sign(encodeCommit(unsigned))
  const commit = encodeCommit({ ...unsigned, sig })
  out.block(linkOf(commit), commit)
  const bytes = out.end(linkOf(commit))
  if (order === 'shuffled') shuffle(path, out.offsets())
  return { key: key.did(), bytes }
}

/** Three likes to a post; keys come in the order of the tree. */
function writeTree(records: number, padding: number, put: (cid: Cid, bytes: Uint8Array) => void) {
  const open: MstNode[] = []
  const at = (layer: number) => {
    open[layer] ??= { keys: [], values: [], trees: [null] }
    return open[layer]
  }
  const close = (layer: number) => {
    const node = at(layer)
    if (node.keys.length === 0 && node.trees[0] === null) return
    const bytes = encodeNode(node)
    const link = linkOf(bytes)
    put(link, bytes)
    at(layer + 1).trees[at(layer + 1).trees.length - 1] = link
    open[layer] = { keys: [], values: [], trees: [null] }
  }
  let top = 0
  for (let number = 0; number < records; number += 1) {
    const record = number < (records * 3) / 4 ? like(number) : post(number, padding)
    const bytes = encodeCbor(record)
    const link = linkOf(bytes)
    put(link, bytes)
    const key = `${record.$type}/${tidOf(1_600_000_000_000_000 + number * 50_000_003)}`
    const layer = keyLayer(key)
    top = Math.max(top, layer)
    for (let below = 0; below < layer; below += 1) close(below)
    at(layer).keys.push(key)
    at(layer).values.push(link)
    at(layer).trees.push(null)
  }
  for (let below = 0; below < top; below += 1) close(below)
  const bytes = encodeNode(at(top))
  put(linkOf(bytes), bytes)
  return linkOf(bytes)
}

function like(number: number) {
  return {
    $type: 'app.bsky.feed.like',
    subject: {
      cid,
      uri: `at://did:plc:5zspv27pk4iqtrl2ql2nykjh/app.bsky.feed.post/${tidOf(number * 1_000)}`,
    },
    createdAt: new Date(1_700_000_000_000 + number).toISOString(),
  }
}

function post(number: number, padding: number) {
  return {
    $type: 'app.bsky.feed.post',
    langs: ['en'],
    text: `post number ${number}, ${'and so on '.repeat(number % 20)}${'.'.repeat(padding)}`,
    createdAt: new Date(1_700_000_000_000 + number).toISOString(),
  }
}

const bufferBytes = 4 * 1024 * 1024

function createWriter(path: string) {
  const file = openSync(path, 'w')
  const buffer = Buffer.alloc(bufferBytes)
  let used = 0
  let total = 0
  let offsets = new Float64Array(1024)
  let count = 0
  const flush = () => {
    writeSync(file, buffer, 0, used)
    used = 0
  }
  const put = (bytes: Uint8Array) => {
    if (used + bytes.length > buffer.length) flush()
    buffer.set(bytes, used)
    used += bytes.length
    total += bytes.length
  }
  // The root is known at the end; the header is as long with any other.
  put(writeCar([linkOf(new Uint8Array())], []))
  return {
    block(link: Cid, bytes: Uint8Array) {
      if (count === offsets.length) {
        const larger = new Float64Array(count * 2)
        larger.set(offsets)
        offsets = larger
      }
      offsets[count++] = total
      put(varint(cidLength + bytes.length))
      put(link.bytes)
      put(bytes)
    },
    offsets: () => ({ offsets: offsets.subarray(0, count), end: total }),
    end(root: Cid) {
      flush()
      const header = writeCar([root], [])
      writeSync(file, header, 0, header.length, 0)
      closeSync(file)
      return total
    },
  }
}

function varint(value: number): Uint8Array {
  return value < 0x80
    ? Uint8Array.of(value)
    : value < 0x4000
      ? Uint8Array.of((value & 0x7f) | 0x80, value >> 7)
      : Uint8Array.of((value & 0x7f) | 0x80, ((value >> 7) & 0x7f) | 0x80, value >> 14)
}

/** Puts the sections of a CAR into an order by chance. */
function shuffle(path: string, { offsets, end }: { offsets: Float64Array; end: number }): void {
  const random = createRandom('shuffle')
  const order = Uint32Array.from(offsets.keys())
  for (let index = order.length - 1; index > 0; index -= 1) {
    const other = Math.floor(random.next() * (index + 1))
    const held = order[index] ?? 0
    order[index] = order[other] ?? 0
    order[other] = held
  }
  const from = openSync(path, 'r')
  const to = openSync(`${path}.shuffled`, 'w')
  const section = Buffer.alloc(bufferBytes)
  const out = Buffer.alloc(bufferBytes)
  let used = 0
  const copy = (start: number, stop: number) => {
    if (used + stop - start > out.length) {
      writeSync(to, out, 0, used)
      used = 0
    }
    readSync(from, section, 0, stop - start, start)
    used += section.copy(out, used, 0, stop - start)
  }
  copy(0, offsets[0] ?? end)
  for (const index of order) copy(offsets[index] ?? 0, offsets[index + 1] ?? end)
  writeSync(to, out, 0, used)
  for (const file of [from, to]) closeSync(file)
  renameSync(`${path}.shuffled`, path)
}
