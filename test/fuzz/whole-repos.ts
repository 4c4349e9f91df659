/** The fuzz of whole repos: spoilt CARs through the backfiller's own reading, proving and walking. */
import { Blocks } from '../../backfiller/blocks.ts'
import { failureOf } from '../../backfiller/failures.ts'
import { createMemory } from '../../backfiller/memory.ts'
import { isSignedBy, readBlocks } from '../../backfiller/read.ts'
import { openRepo, proveTree, recordsOf } from '../../backfiller/walk.ts'
import { parseCar, writeCar } from '../../shared/repo/car.ts'
import { linkOf } from '../../shared/repo/cid.ts'
import { encodeCommit, openCommit } from '../../shared/repo/commit.ts'
import { decodeNode, encodeNode, type MstNode } from '../../shared/repo/mst-node.ts'
import { parseVerificationKey } from '../../shared/repo/signature.ts'
import { createRandom, type Random } from '../../simulator/random.ts'
import { carOf, completeRepos, documentOf } from '../recorded-repos.ts'

/** A repo that is whole, and what it holds. */
interface Source {
  did: string
  key: string
  car: Uint8Array
  blocks: { cid: string; bytes: Uint8Array }[]
  roots: string[]
  /** CIDs by key. */
  truth: ReadonlyMap<string, string>
}

export interface CarFuzz {
  made: Map<string, number>
  reasons: Map<string, number>
  /** The slowest of all, in milliseconds. */
  slowestMs: number
}

const { signal } = new AbortController()
/** Larger ones are read now and then: a million times 3 ms would be an hour. */
const small = 10_000

export async function openSources(): Promise<Source[]> {
  const sources: Source[] = []
  for (const recorded of completeRepos) {
    const car = carOf(recorded)
    if (car.length > 300_000) continue
    const [method] = documentOf(recorded).verificationMethod
    const { didKey } = parseVerificationKey(method?.type ?? '', method?.publicKeyMultibase ?? '')
    const { roots, blocks } = parseCar(car)
    const list = [...blocks].map(([cid, bytes]) => ({ cid, bytes }))
    const source = { did: recorded.did, key: didKey, car, blocks: list, roots: roots.map(String) }
    const truth = await outcome(source, car)
    if (typeof truth === 'string') throw new Error(`${recorded.car}: ${truth}`)
    sources.push({ ...source, truth })
  }
  return sources
}

/** Each mutation makes another CAR of a source, or the bytes of none. */
const mutations: Record<string, (source: Source, random: Random) => Uint8Array> = {
  flip({ car }, random) {
    const bytes = Uint8Array.from(car)
    for (let flips = 1 + random.below(3); flips > 0; flips -= 1) {
      const at = random.below(bytes.length)
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8))
    }
    return bytes
  },
  cut: ({ car }, random) => car.subarray(0, random.below(car.length)),
  /** A length that lies, at the beginning of a section or anywhere. */
  length({ car }, random) {
    const at = random.chance(0.5) ? 0 : random.below(car.length)
    const lie = random.pick([[0], [0x80, 0x00], [0xff, 0xff, 0xff, 0xff, 0x0f], [0x7f], [0x80]])
    return Buffer.concat([car.subarray(0, at), Uint8Array.from(lie), car.subarray(at + 1)])
  },
  shuffled: ({ roots, blocks }, random) => writeCar(roots, shuffled(blocks, random)),
  twice: ({ roots, blocks }, random) =>
    writeCar(roots, shuffled([...blocks, ...blocks.filter(() => random.chance(0.5))], random)),
  missing: ({ roots, blocks }, random) =>
    writeCar(roots, blocks.toSpliced(random.below(blocks.length), 1)),
  /** Two blocks under each other's names. */
  swapped({ roots, blocks }, random) {
    const [a, b] = [random.below(blocks.length), random.below(blocks.length)]
    const cidOf = (index: number) => blocks[index === a ? b : index === b ? a : index]?.cid ?? ''
    return writeCar(
      roots,
      blocks.map(({ bytes }, index) => ({ cid: cidOf(index), bytes })),
    )
  },
  root: ({ blocks }, random) =>
    writeCar(
      Array.from({ length: random.below(4) }, () => random.pick(blocks).cid),
      blocks,
    ),
  stray: ({ roots, blocks }, random) => {
    const bytes = random.bytes(1 + random.below(200))
    return writeCar(roots, shuffled([...blocks, { cid: linkOf(bytes).toString(), bytes }], random))
  },
  noise: (_, random) => random.bytes(random.below(2_000)),
  insert({ car }, random) {
    const at = random.below(car.length)
    return Buffer.concat([
      car.subarray(0, at),
      random.bytes(1 + random.below(40)),
      car.subarray(at),
    ])
  },
  /** Trees whose hashes are right and whose shape is not; the commit is signed by nobody. */
  tree: (source, random) => crafted(source, random),
}

const names = Object.keys(mutations)

/** Throws an Error that names seed and number of the first CAR that breaks a law. */
export async function fuzzCars(
  sources: readonly Source[],
  { seed, count, from = 0 }: { seed: string; count: number; from?: number },
): Promise<CarFuzz> {
  const result: CarFuzz = { made: new Map(), reasons: new Map(), slowestMs: 0 }
  const smallOnes = sources.filter(({ car }) => car.length <= small)
  for (let number = from; number < from + count; number += 1) {
    const random = createRandom(`${seed}/${number}`)
    const source = random.pick(random.chance(0.002) ? sources : smallOnes)
    const name = random.pick(names)
    const car = mutations[name]?.(source, random) ?? new Uint8Array()
    const started = performance.now()
    const found = await outcome(source, car).catch((cause: unknown) => {
      throw new Error(`${seed}/${number} (${name}) of ${source.did} was thrown out`, { cause })
    })
    result.slowestMs = Math.max(result.slowestMs, performance.now() - started)
    add(result.made, name)
    add(result.reasons, typeof found === 'string' ? found : 'done')
    if (typeof found !== 'string' && !isTrue(found, source.truth)) {
      throw new Error(`${seed}/${number} (${name}) of ${source.did} became a wrong repo`)
    }
  }
  return result
}

/** What a backfiller would make of these bytes: the records, or the reason why there are none. */
export async function outcome(
  { did, key }: Pick<Source, 'did' | 'key'>,
  car: Uint8Array,
): Promise<Map<string, string> | string> {
  using blocks = new Blocks(createMemory(1e8))
  try {
    const roots = await readBlocks(inChunks(car), blocks, signal)
    const repo = openRepo(did, roots, blocks, Date.now())
    // The walk is tried whoever has signed: it comes last in a worker, and must stand alone.
    const proving = proveTree(repo.commit.data, blocks)
    let step = proving.next()
    while (!step.done) step = proving.next()
    const records = new Map<string, string>()
    for (const found of recordsOf(repo.commit.data, blocks, () => true)) {
      if ('record' in found) records.set(`${found.collection}/${found.rkey}`, found.cid)
    }
    return isSignedBy(key, repo) ? records : 'signature'
  } catch (error) {
    const failure = failureOf(error)
    if (failure === null) throw error
    return failure.reason
  }
}

async function* inChunks(bytes: Uint8Array) {
  for (let at = 0; at < bytes.length; at += 1_500) yield bytes.subarray(at, at + 1_500)
}

function isTrue(found: ReadonlyMap<string, string>, truth: ReadonlyMap<string, string>): boolean {
  return found.size === truth.size && [...found].every(([key, cid]) => truth.get(key) === cid)
}

/** Nodes that are chained, shared, emptied, or given to one another, above those of the source. */
function crafted({ did, blocks }: Source, random: Random): Uint8Array {
  const all = new Map(blocks.map(({ cid, bytes }) => [cid, bytes]))
  const put = (node: MstNode) => {
    const bytes = encodeNode(node)
    const cid = linkOf(bytes)
    all.set(cid.toString(), bytes)
    return cid
  }
  const nodes = blocks.flatMap(({ bytes }) => {
    try {
      return [decodeNode(bytes)]
    } catch {
      return []
    }
  })
  let node = { ...random.pick(nodes) }
  let top = put(node)
  for (let steps = 1 + random.below(random.chance(0.01) ? 3_000 : 8); steps > 0; steps -= 1) {
    const other = random.pick(nodes)
    switch (random.below(4)) {
      case 0: // a chain of nodes without keys
        node = { keys: [], values: [], trees: [top] }
        break
      case 1: // one subtree everywhere
        node = { ...other, trees: other.trees.map(() => top) }
        break
      case 2: // a subtree where it may not be
        node = { ...other, trees: other.trees.with(random.below(other.trees.length), top) }
        break
      default: // nothing at all
        node = { keys: [], values: [], trees: [random.chance(0.5) ? null : top] }
    }
    top = put(node)
  }
  const commitBytes = blocks.find(({ bytes }) => isCommit(bytes))?.bytes
  const rev = commitBytes === undefined ? '' : openCommit(commitBytes).commit.rev
  const sig = random.bytes(64)
  const commit = encodeCommit({ did, rev, data: top, prev: null, sig })
  const cid = linkOf(commit).toString()
  const list = [...all].map(([name, bytes]) => ({ cid: name, bytes }))
  return writeCar([cid], [{ cid, bytes: commit }, ...list])
}

function isCommit(bytes: Uint8Array): boolean {
  try {
    openCommit(bytes)
    return true
  } catch {
    return false
  }
}

function shuffled<T>(list: readonly T[], random: Random): T[] {
  const result = [...list]
  for (let index = result.length - 1; index > 0; index -= 1) {
    const other = random.below(index + 1)
    ;[result[index], result[other]] = [result[other] as T, result[index] as T]
  }
  return result
}

function add(counts: Map<string, number>, name: string): void {
  counts.set(name, (counts.get(name) ?? 0) + 1)
}
