/** Proofs of commits and sync messages, and the events they hold (spec: sync, "Validating Commits"). */
import type { RecordEvent } from '../shared/events.ts'
import { type Car, type CarCode, CarError, parseCar } from '../shared/repo/car.ts'
import { CborError, decodeCbor, type Ipld, isMap, toLexJson } from '../shared/repo/cbor.ts'
import type { Cid } from '../shared/repo/cid.ts'
import { type Commit, CommitError, openCommit } from '../shared/repo/commit.ts'
import { type MstCode, MstError } from '../shared/repo/mst-node.ts'
import { invertOps, openTree } from '../shared/repo/mst-tree.ts'
import { isNsid, isRkey } from '../shared/repo/syntax.ts'
import { tidTime } from '../shared/repo/tid.ts'
import type { Scope } from '../shared/scope.ts'
import type { CommitMessage, Op, SyncMessage } from './frame.ts'

/** Largest block, and so the largest record, in bytes. */
export const maxRecordBytes = 1_000_000
/** How far a rev may be ahead of the later of our clock and the relay's. */
export const maxAheadMs = 5 * 60_000

/** Why a commit or sync message was refused. */
export const refusals = [
  'car',
  'block-hash',
  'record-too-large',
  'root',
  'commit',
  'cid',
  'did',
  'rev',
  'rev-ahead',
  'tree',
  'tree-blocks',
  'op',
  'prev-data',
  'record-missing',
  'identity',
  'signature',
] as const
export type Refusal = (typeof refusals)[number]

/** A message that is not what the account signed, or can't be shown to be; `reason` says in which way. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError'
  readonly reason: Refusal
  constructor(reason: Refusal, message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}

/** A message whose blocks are what their CIDs say, and whose commit is the one that it names. */
export interface Opened {
  signed: Commit
  /** The bytes that the signature covers. */
  unsigned: Uint8Array
  blocks: Car['blocks']
}

/** What was proved of the ops: `unproven` for commits from before sync 1.1, which lack `prevData`. */
export type Proof = 'proven' | 'unproven'

/** Why an op was left out while the rest of its commit was taken. */
export const droppedOps = ['path', 'record'] as const
export type DroppedOp = (typeof droppedOps)[number]

export interface CommitEvents {
  events: RecordEvent[]
  /** Ops out of scope. */
  filtered: number
  dropped: DroppedOp[]
}

/**
 * Opens the blocks: every one is hashed, unless they need not be checked; the root is the commit; its DID, rev and, for a commit
 * message, its CID are those of the message; its rev is not ahead of `now`. Throws `RefusedError`.
 */
export function openMessage(
  message: CommitMessage | SyncMessage,
  now: number,
  checked = true,
): Opened {
  const { roots, blocks } = openCar(message, checked)
  const root = roots[0]?.toString()
  const bytes = root === undefined ? undefined : blocks.get(root)
  if (bytes === undefined) throw new RefusedError('root', 'the root of the car is not in it')
  if (message.type === 'commit' && message.commit.toString() !== root) {
    throw new RefusedError('cid', 'the root of the car is not the commit of the message')
  }
  const { commit: signed, unsigned } = openSigned(bytes)
  if (signed.did !== message.did) throw new RefusedError('did', 'a commit of another account')
  if (signed.rev !== message.rev) throw new RefusedError('rev', 'a commit of another rev')
  if (tidTime(signed.rev) > Math.max(now, Date.parse(message.time)) + maxAheadMs) {
    throw new RefusedError('rev-ahead', 'a rev from the future')
  }
  return { signed, unsigned, blocks }
}

/**
 * Undoes the ops on the part of the tree that came along: the result is `prevData`, and each op's
 * `prev` is what the tree gives back. Without `prevData` the tree must show what each op leaves.
 * Throws `RefusedError`.
 */
export function proveOps(message: CommitMessage, { signed, blocks }: Opened): Proof {
  try {
    if (message.prevData === null) return agreeWithTree(message.ops, signed.data, blocks)
    const before = invertOps(signed.data, blocks, message.ops)
    if (before === message.prevData.toString()) return 'proven'
  } catch (cause) {
    if (!(cause instanceof MstError)) throw cause
    throw new RefusedError(mstReasons[cause.code], cause.message, { cause })
  }
  throw new RefusedError('prev-data', 'the ops undone do not lead to prevData')
}

/**
 * The events of the ops in scope, in their order. What can't be an event is left out by itself;
 * without the record of one, which a host on the way kept back, the commit is refused.
 */
export function eventsOf(
  message: CommitMessage,
  blocks: Car['blocks'],
  scope: Scope,
): CommitEvents {
  const { seq, time, did, rev } = message
  const head = { seq, time, did, commit: message.commit.toString(), rev }
  const result: CommitEvents = { events: [], filtered: 0, dropped: [] }
  for (const { action, path, cid } of message.ops) {
    const [collection = '', rkey = '', ...more] = path.split('/')
    if (more.length > 0 || !isNsid(collection) || !isRkey(rkey)) {
      result.dropped.push('path')
      continue
    }
    if (!scope(collection)) {
      result.filtered += 1
      continue
    }
    if (action === 'delete' || cid === null) {
      result.events.push({ type: 'delete', ...head, collection, rkey })
      continue
    }
    const record = recordOf(cid, blocks)
    if (typeof record === 'string') result.dropped.push(record)
    else {
      const put = { collection, rkey, cid: cid.toString(), record }
      result.events.push({ type: action, ...head, ...put })
    }
  }
  return result
}

const carReasons: Record<CarCode, Refusal> = {
  truncated: 'car',
  malformed: 'car',
  'block-too-large': 'record-too-large',
  'hash-mismatch': 'block-hash',
}

const mstReasons: Record<MstCode, Refusal> = {
  malformed: 'tree',
  'missing-block': 'tree-blocks',
  'op-mismatch': 'op',
}

function openCar(message: CommitMessage | SyncMessage, checked: boolean): Car {
  const ops = message.type === 'commit' ? message.ops : []
  const only = checked ? {} : { only: ops.flatMap(({ cid }) => cid ?? []) }
  try {
    return parseCar(message.blocks, { maxBlockBytes: maxRecordBytes, ...only })
  } catch (cause) {
    if (!(cause instanceof CarError)) throw cause
    throw new RefusedError(carReasons[cause.code], cause.message, { cause })
  }
}

function openSigned(bytes: Uint8Array): { commit: Commit; unsigned: Uint8Array } {
  try {
    return openCommit(bytes)
  } catch (cause) {
    if (!(cause instanceof CommitError)) throw cause
    throw new RefusedError('commit', cause.message, { cause })
  }
}

/** Without `prevData` what was there before is nobody's word; what is there now the tree must show. */
function agreeWithTree(ops: readonly Op[], root: Cid, blocks: Car['blocks']): Proof {
  if (ops.length === 0) return 'unproven'
  const tree = openTree(root, blocks)
  const seen = new Set<string>()
  for (const { path, cid } of ops) {
    if (seen.has(path)) throw new MstError('op-mismatch', 'two ops of one commit on one record')
    seen.add(path)
    if (tree.get(path)?.toString() !== cid?.toString()) {
      throw new MstError('op-mismatch', 'an op that the tree does not hold')
    }
  }
  return 'unproven'
}

function recordOf(cid: Cid, blocks: Car['blocks']): Record<string, unknown> | DroppedOp {
  const bytes = blocks.get(cid.toString())
  if (bytes === undefined) throw new RefusedError('record-missing', 'a record that did not come')
  const value = decoded(bytes)
  return isMap(value) ? (toLexJson(value) as Record<string, unknown>) : 'record'
}

/** The value of a record's block; undefined when it is not strict DAG-CBOR. */
function decoded(bytes: Uint8Array): Ipld | undefined {
  try {
    return decodeCbor(bytes)
  } catch (error) {
    if (error instanceof CborError) return undefined
    throw error
  }
}
