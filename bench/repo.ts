/** What it costs to decode, verify and walk: `node bench/repo.ts`, in CPU µs, on recorded data. */
import { decode as decodeAtcute } from '@atcute/cbor'
import { readCar as readCarReference } from '@atproto/repo'
import { parseCar, readCar } from '../shared/repo/car.ts'
import { decodeCbor, type Ipld, toLexJson } from '../shared/repo/cbor.ts'
import type { Cid } from '../shared/repo/cid.ts'
import { openCommit } from '../shared/repo/commit.ts'
import { walk } from '../shared/repo/mst.ts'
import { invertOps, type RecordOp } from '../shared/repo/mst-tree.ts'
import { type PublicKey, parseDidKey, verifier, verifySignature } from '../shared/repo/signature.ts'
import { sharedBytes, sharedFrames, sharedJson } from '../test/data.ts'

/** The best of 15 rounds, each of at least 40 ms, in µs per unit of work: the others ran beside something else. */
async function measure(name: string, units: number, work: () => unknown): Promise<void> {
  const rounds: number[] = []
  for (let round = 0; round < 15; round++) {
    const started = process.cpuUsage()
    let times = 0
    for (const until = performance.now() + 40; performance.now() < until; times++) await work()
    const { user, system } = process.cpuUsage(started)
    rounds.push((user + system) / times / units)
  }
  console.log(
    `${name.padEnd(60)} ${Math.min(...rounds)
      .toFixed(2)
      .padStart(8)} µs`,
  )
}

interface Body {
  repo: string
  commit: Cid
  blocks: Uint8Array
  ops: (Omit<RecordOp, 'prev'> & { prev?: Cid })[]
}

interface DidDocument {
  verificationMethod: { publicKeyMultibase: string }[]
}

const header = 15
const bodies = sharedFrames('firehose/jetstream-corpus/frames.bin').map((frame) =>
  frame.subarray(header),
)
const documents = sharedJson<Record<string, DidDocument>>('firehose/jetstream-corpus/did_docs.json')
const commits = bodies.map((bytes) => {
  const body = decodeCbor(bytes) as unknown as Body
  const { blocks } = parseCar(body.blocks)
  const block = blocks.get(body.commit.toString()) ?? new Uint8Array(0)
  const multibase = documents[body.repo]?.verificationMethod[0]?.publicKeyMultibase ?? ''
  const ops = body.ops.map((op) => ({ ...op, prev: op.prev ?? null }))
  const records: Uint8Array[] = ops.flatMap(({ cid }) => blocks.get(String(cid)) ?? [])
  return { body, blocks, block, key: parseDidKey(multibase), ops, records, ...openCommit(block) }
})

console.log(`a recorded commit, of ${commits.length}, ${process.version}`)
await measure('decode the body', 100, () => bodies.map((bytes) => decodeCbor(bytes)))
await measure('  by @atcute/cbor', 100, () => bodies.map((bytes) => decodeAtcute(bytes)))
await measure('read the blocks, hashes checked', 100, () =>
  commits.map(({ body }) => parseCar(body.blocks)),
)
await measure('open the commit block', 100, () => commits.map(({ block }) => openCommit(block)))
await measure('verify the signature', 100, () =>
  commits.map(({ key, unsigned, commit }) => verifySignature(key, unsigned, commit.sig)),
)
const byNode = commits.map(
  ({ key }): PublicKey => ({ ...key, verify: verifier(key.curve, key.bytes) }),
)
await measure('  by node:crypto', 100, () =>
  commits.map(({ unsigned, commit }, index) => {
    const key = byNode[index]
    return key && verifySignature(key, unsigned, commit.sig)
  }),
)
await measure('invert the ops', 100, () =>
  commits.map(({ commit, blocks, ops }) => invertOps(commit.data, blocks, ops)),
)
await measure('decode the records, to JSON text', 100, () =>
  commits.map(({ records }) =>
    records.map((bytes) => JSON.stringify(toLexJson(decodeCbor(bytes)))),
  ),
)
await measure('all of this', 100, () =>
  bodies.map((bytes, index) => {
    const body = decodeCbor(bytes) as unknown as Body
    const { blocks } = parseCar(body.blocks)
    const { commit, unsigned } = openCommit(blocks.get(body.commit.toString()) ?? new Uint8Array(0))
    const key = commits[index]?.key
    if (!key || !verifySignature(key, unsigned, commit.sig)) throw new Error('not signed')
    const ops = body.ops.map((op) => ({ ...op, prev: op.prev ?? null }))
    invertOps(commit.data, blocks, ops)
    return ops.map(({ cid }) => {
      const record = blocks.get(String(cid))
      return record && JSON.stringify(toLexJson(decodeCbor(record)))
    })
  }),
)

const repo = sharedBytes('cars/shrike-calabro-1.5m/repo.car')
const car = parseCar(repo)
const root = decodeCbor(car.blocks.get(String(car.roots[0])) ?? new Uint8Array(0)) as { data: Ipld }
const tree = root.data as Cid
const records = [...walk(tree, car.blocks)]
console.log(`\na record of a repo of ${records.length}, ${repo.length} bytes`)
await measure('parse the CAR, hashes checked', records.length, () => parseCar(repo))
await measure('stream the CAR in chunks of 64 KiB, hashes checked', records.length, async () => {
  const { blocks } = await readCar(chunksOf(repo))
  for await (const _ of blocks);
})
await measure('  by @atproto/repo', records.length, () => readCarReference(repo))
await measure('walk the tree, all rules checked', records.length, () => {
  let count = 0
  for (const _ of walk(tree, car.blocks)) count += 1
  return count
})
await measure('decode the records, to JSON text', records.length, () =>
  records.map(({ cid }) => {
    const bytes = car.blocks.get(cid.toString())
    return bytes && JSON.stringify(toLexJson(decodeCbor(bytes)))
  }),
)

async function* chunksOf(bytes: Uint8Array) {
  for (let start = 0; start < bytes.length; start += 65_536)
    yield bytes.subarray(start, start + 65_536)
}
