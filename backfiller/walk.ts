/** From the blocks of a CAR to the records of a proved repo. Pure: what it finds it returns. */
import { CborError, decodeCbor, isMap, toLexJson } from '../shared/repo/cbor.ts'
import { type Cid, parseCid } from '../shared/repo/cid.ts'
import { type Commit, CommitError, openCommit } from '../shared/repo/commit.ts'
import { walk } from '../shared/repo/mst.ts'
import { MstError } from '../shared/repo/mst-node.ts'
import { isNsid, isRkey } from '../shared/repo/syntax.ts'
import { tidTime } from '../shared/repo/tid.ts'
import type { Scope } from '../shared/scope.ts'
import { Failure } from './failures.ts'

/** The blocks of a CAR, each proved to be what its CID says. */
export interface ProvedBlocks {
  /** Distinct blocks. */
  readonly count: number
  has: (cid: Cid) => boolean
  get: (cid: Cid) => Uint8Array | undefined
  /** As `get`, until the next call. */
  peek: (cid: Cid) => Uint8Array | undefined
}

/** What the root of a CAR says; its signature is the caller's to check. */
export interface OpenedRepo {
  /** The CID of the commit. */
  cid: string
  commit: Commit
  /** The bytes that the signature covers. */
  unsigned: Uint8Array
}

/** How far a rev may lie ahead of our clock. */
const maxAheadMs = 5 * 60_000

/** Opens the commit of a CAR and checks whose it is. Throws Failure, CommitError. */
export function openRepo(
  did: string,
  roots: readonly Cid[],
  blocks: ProvedBlocks,
  now: number,
): OpenedRepo {
  const opened = openRoot(roots, blocks)
  const { commit } = opened
  if (commit.did !== did) throw new Failure('wrong-did', `the CAR is the repo of ${commit.did}`)
  if (tidTime(commit.rev) > now + maxAheadMs) throw new Failure('future-rev', commit.rev)
  return opened
}

/** The first root is the commit; where there are more, the first one that is a commit. */
function openRoot(roots: readonly Cid[], blocks: ProvedBlocks): OpenedRepo {
  let problem: CommitError | Failure = new Failure('no-root')
  for (const root of roots.slice(0, maxRoots)) {
    const bytes = blocks.get(root)
    if (bytes === undefined) {
      if (problem instanceof Failure) {
        problem = new Failure('missing-block', `the commit ${root}, which is the root`)
      }
      continue
    }
    try {
      return { cid: root.toString(), ...openCommit(bytes) }
    } catch (error) {
      if (!(error instanceof CommitError)) throw error
      problem = error
    }
  }
  throw problem
}

const maxRoots = 16

/** How many steps are taken between two chances for others to run: about 2 ms of work. */
const stepsAtOnce = 1_000

/** What a whole tree holds. */
export interface Tree {
  records: number
  /** Blocks of the CAR that neither the tree nor the commit refers to. */
  ignored: number
}

/**
 * Walks the whole tree: its rules hold and every record of it is there. Yields now and then, so that
 * the caller can let others run. Throws Failure.
 */
export function* proveTree(data: Cid, blocks: ProvedBlocks): Generator<void, Tree, undefined> {
  let nodes = 0
  let records = 0
  const get = (cid: string) => {
    nodes += 1
    return blocks.get(parseCid(cid))
  }
  try {
    for (const { key, cid } of walk(data, { get })) {
      if (!blocks.has(cid)) throw new Failure('missing-block', `the record ${key}, ${cid}`)
      records += 1
      if (records % stepsAtOnce === 0) yield
    }
  } catch (error) {
    throw treeFailure(error)
  }
  // Where equal records share a block, this is too low by that much.
  return { records, ignored: Math.max(0, blocks.count - records - nodes - 1) }
}

function treeFailure(error: unknown): unknown {
  if (!(error instanceof MstError)) return error
  const reason = error.code === 'missing-block' ? 'missing-block' : 'mst'
  return new Failure(reason, error.message, { cause: error })
}

/** A record of the repo in the JSON form of the streams. */
export interface RepoRecord {
  collection: string
  rkey: string
  cid: string
  record: Record<string, unknown>
}

/** What stands at one key of the tree: a record, or why there is none to hand over. */
export type Found = RepoRecord | { outOfScope: true } | { refused: Refusal }

/** `bug` is ours: an exception that nobody foresaw. */
export type Refusal = 'bad-path' | 'not-dag-cbor' | 'not-a-record' | 'too-large' | 'bug'

/** The largest record that the network accepts, in bytes. */
const maxRecordBytes = 1_000_000

/** Yields what stands at each key of a proved tree, in order, records in their decoded key order. */
export function* recordsOf(
  data: Cid,
  blocks: ProvedBlocks,
  inScope: Scope,
): Generator<Found, void, undefined> {
  for (const { key, cid } of walk(data, { get: (cid) => blocks.get(parseCid(cid)) })) {
    const slash = key.indexOf('/')
    const collection = key.slice(0, slash)
    if (!inScope(collection)) yield { outOfScope: true }
    else yield recordAt(collection, key.slice(slash + 1), cid, blocks)
  }
}

function recordAt(collection: string, rkey: string, cid: Cid, blocks: ProvedBlocks): Found {
  if (!isNsid(collection) || !isRkey(rkey)) return { refused: 'bad-path' }
  const bytes = blocks.peek(cid)
  if (bytes === undefined || cid.codec !== 'dag-cbor') return { refused: 'not-dag-cbor' }
  if (bytes.length > maxRecordBytes) return { refused: 'too-large' }
  try {
    const value = decodeCbor(bytes)
    if (!isMap(value)) return { refused: 'not-a-record' }
    const record = toLexJson(value) as Record<string, unknown>
    return { collection, rkey, cid: cid.toString(), record }
  } catch (error) {
    return { refused: error instanceof CborError ? 'not-dag-cbor' : 'bug' }
  }
}
