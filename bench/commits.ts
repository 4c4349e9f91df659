/** A file of signed commits for `bench/replay.ts`: `node bench/commits.ts <file> [commits]`. */
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { Secp256k1Keypair } from '@atproto/crypto'
import { decodeFrame } from '../ingester/frame.ts'
import { parseCar, writeCar } from '../shared/repo/car.ts'
import { encodeCbor } from '../shared/repo/cbor.ts'
import { type Cid, cidOf, linkOf, parseCid } from '../shared/repo/cid.ts'
import { encodeCommit } from '../shared/repo/commit.ts'
import type { Blocks } from '../shared/repo/mst.ts'
import { invertOps, openTree, type Tree } from '../shared/repo/mst-tree.ts'
import { tidOf } from '../shared/repo/tid.ts'
import { type DidDocument, documentOf } from '../simulator/documents.ts'
import { corpusFrames } from '../test/corpus.ts'
import { firstSeq, framed } from './replay.ts'

/** With repos of this size a frame has that of the recorded ones, 5.2 KB. */
const recordsEach = 8_000
const accounts = 1_000
/** Of a hundred commits, as on the network. */
const deletes = 8

const { ecdsaSign } = createRequire(import.meta.url)('secp256k1') as {
  ecdsaSign(hash: Uint8Array, key: Uint8Array): { signature: Uint8Array }
}
const header = encodeCbor({ t: '#commit', op: 1 })

interface Content {
  collection: string
  cid: Cid
  bytes: Uint8Array
}

/** The records of the recorded frames. */
function contents(): Content[] {
  return corpusFrames().flatMap((frame) => {
    const message = decodeFrame(frame)
    if (message.type !== 'commit') return []
    const { blocks } = parseCar(message.blocks)
    return message.ops.flatMap(({ path, cid }) => {
      const bytes = cid === null ? undefined : blocks.get(cid.toString())
      const [collection = ''] = path.split('/')
      return cid === null || bytes === undefined ? [] : [{ collection, cid, bytes }]
    })
  })
}

interface Writer {
  did: string
  key: Uint8Array
  tree: Tree
  root: string
  rev: string | null
  /** The nodes that it made, and with those the ones that it began with. */
  mine: Map<string, Uint8Array>
  all: Blocks
  written: { path: string; cid: Cid }[]
}

async function writersOf(records: readonly Content[], began: number) {
  // All begin with the same records: a tree does not say whose it is.
  const grown = openTree(null, new Map())
  for (let index = 0; index < recordsEach; index++) {
    const { collection, cid } = at(records, index)
    grown.set(`${collection}/${tidOf(began - (recordsEach - index) * 1e6)}`, cid)
  }
  const { root, blocks } = grown.write()
  const writers: Writer[] = []
  const documents: DidDocument[] = []
  for (let index = 0; index < accounts; index++) {
    const pair = await Secp256k1Keypair.create({ exportable: true })
    const did = `did:plc:${cidOf(Buffer.from(`${index}`)).slice(-24)}`
    const names = { alsoKnownAs: [`at://a${index}.test`], services: {} }
    documents.push(documentOf(did, { ...names, verificationMethods: { atproto: pair.did() } }))
    const mine = new Map<string, Uint8Array>()
    const all = { get: (cid: string) => mine.get(cid) ?? blocks.get(cid) }
    const rest = { root, rev: null, mine, all, written: [] }
    writers.push({ did, key: await pair.export(), tree: openTree(root, all), ...rest })
  }
  return { writers, documents }
}

function at<T>(list: readonly T[], index: number): T {
  const item = list[index % list.length]
  if (item === undefined) throw new Error('an empty list')
  return item
}

/** The body of a commit that creates a record, or deletes one that was created. */
function commitOf(writer: Writer, rev: string, record: Content, gone?: { path: string; cid: Cid }) {
  const { did, key, tree, root: before, rev: since, mine, all } = writer
  const path = gone?.path ?? `${record.collection}/${rev}`
  const [cid, prev] = gone === undefined ? [record.cid, null] : [null, gone.cid]
  const op = { action: gone === undefined ? 'create' : 'delete', path, cid, prev } as const
  if (cid === null) tree.delete(path)
  else tree.set(path, cid)
  const { root, blocks: fresh } = tree.write()
  for (const [name, node] of fresh) mine.set(name, node)
  const proof = new Map(fresh)
  const noting = {
    get(name: string) {
      const node = all.get(name)
      if (node !== undefined) proof.set(name, node)
      return node
    },
  }
  if (invertOps(root, noting, [op]) !== before) throw new Error('a commit that proves nothing')
  const unsigned = { did, rev, data: parseCid(root), prev: null }
  const digest = new Uint8Array(Buffer.from(hash('sha256', encodeCommit(unsigned), 'hex'), 'hex'))
  const signed = encodeCommit({ ...unsigned, sig: ecdsaSign(digest, key).signature })
  const commit = linkOf(signed)
  const nodes = [...proof].map(([name, bytes]) => ({ cid: name, bytes }))
  const put = cid === null ? [] : [{ cid, bytes: record.bytes }]
  const car = writeCar([commit], [{ cid: commit, bytes: signed }, ...nodes, ...put])
  if (cid !== null) writer.written.push({ path, cid })
  Object.assign(writer, { root, rev })
  const ops = [{ action: op.action, path, cid, ...(prev === null ? {} : { prev }) }]
  const old = { blobs: [], rebase: false, tooBig: false }
  return { repo: did, rev, since, commit, blocks: car, ops, prevData: parseCid(before), ...old }
}

/** Writes the frames, and beside them the documents of their accounts. */
export async function makeCommits(path: string, commits: number): Promise<number> {
  const began = Date.now() * 1_000 - 3_600e6
  const records = contents()
  const { writers, documents } = await writersOf(records, began)
  const file = createWriteStream(path)
  let bytes = 0
  for (let index = 0; index < commits; index++) {
    // In an order without a pattern that a cache could profit from.
    const writer = at(writers, index * 7_919)
    const gone = index % 100 < deletes ? writer.written.shift() : undefined
    const microseconds = began + index * 1_000
    const body = commitOf(writer, tidOf(microseconds), at(records, index * 31), gone)
    const time = new Date(microseconds / 1_000).toISOString()
    const message = framed(Buffer.concat([header, encodeCbor({ ...body, seq: firstSeq, time })]))
    bytes += message.length
    if (!file.write(message)) await once(file, 'drain')
  }
  file.end()
  await once(file, 'finish')
  await writeFile(`${path}.json`, JSON.stringify(documents))
  return bytes / commits
}

if (import.meta.main) {
  const [path = '', commits = '80000'] = process.argv.slice(2)
  const bytes = await makeCommits(path, Number(commits))
  console.log(`${commits} commits of ${accounts} accounts, ${Math.round(bytes)} bytes each`)
}
