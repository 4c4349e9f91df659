/** Event stream frames: bytes to typed messages (spec: event stream, "Framing"; sync, "Firehose"). */
import { InvalidEventError } from '../shared/errors.ts'
import { timestamp } from '../shared/events.ts'
import {
  CborError,
  decodeCbor,
  decodeFirst,
  type Ipld,
  type IpldMap,
  isMap,
} from '../shared/repo/cbor.ts'
import { Cid } from '../shared/repo/cid.ts'
import { isDid } from '../shared/repo/syntax.ts'
import { isTid } from '../shared/repo/tid.ts'

/** Largest frame, in bytes. */
export const maxFrameBytes = 5_000_000
/** Largest `blocks` of a commit or sync message, in bytes. */
export const maxBlocksBytes = 2_000_000
/** Most operations of one commit. */
export const maxOps = 200

export interface Op {
  action: 'create' | 'update' | 'delete'
  path: string
  /** Null for a delete. */
  cid: Cid | null
  /** What stood there before; null for a create, and in commits from before sync 1.1. */
  prev: Cid | null
}

interface Numbered {
  seq: number
  /** When the relay saw it: `YYYY-MM-DDTHH:mm:ss.SSSZ`. */
  time: string
  did: string
}

/** What is proved by its blocks. */
interface Signed extends Numbered {
  /** The bytes of the frame, for whoever proves it elsewhere. */
  frame: Uint8Array
}

export interface CommitMessage extends Signed {
  type: 'commit'
  rev: string
  since: string | null
  commit: Cid
  blocks: Uint8Array
  ops: readonly Op[]
  /** The tree's root before this commit; null in commits from before sync 1.1. */
  prevData: Cid | null
}

export interface SyncMessage extends Signed {
  type: 'sync'
  rev: string
  blocks: Uint8Array
}

export interface IdentityMessage extends Numbered {
  type: 'identity'
  handle: string | null
}

export interface AccountMessage extends Numbered {
  type: 'account'
  active: boolean
  /** Lower case, or null. */
  status: string | null
}

export interface LabelsMessage {
  type: 'labels'
  seq: number
  /** Each as it came, not yet checked. */
  labels: readonly Ipld[]
}

export interface InfoMessage {
  type: 'info'
  name: string
  message: string | null
}

/** An error frame; the server closes the socket after it. */
export interface ErrorMessage {
  type: 'error'
  error: string
  message: string | null
}

/** A well-formed frame of a kind that we do not know: legal, and ignored. */
export interface UnknownMessage {
  type: 'unknown'
  /** What was not known: `op` or `t`. */
  what: 'op' | 't'
  seq: number | null
}

/** The fields that a message can be refused for, and the bounds of two of them. */
export const malformations = [
  'seq',
  'time',
  'did',
  'repo',
  'rev',
  'commit',
  'blocks',
  'blocks-too-large',
  'ops',
  'too-many-ops',
  'path',
  'cid',
  'prev',
  'prevData',
  'active',
  'labels',
] as const
export type Malformation = (typeof malformations)[number]

/** A frame of a known kind whose fields can't be what they must be; `reason` names the first. */
export interface MalformedMessage {
  type: 'malformed'
  kind: string
  reason: Malformation
  seq: number | null
}

export type Message =
  | CommitMessage
  | SyncMessage
  | IdentityMessage
  | AccountMessage
  | LabelsMessage
  | InfoMessage
  | ErrorMessage
  | UnknownMessage
  | MalformedMessage

/** Bytes that are not a frame: the connection that they came from can't be trusted any more. */
export class FrameError extends Error {
  override readonly name = 'FrameError'
}

/** Reads one frame. Throws `FrameError` when it is too large or not two DAG-CBOR maps. */
export function decodeFrame(bytes: Uint8Array): Message {
  if (bytes.length > maxFrameBytes) {
    throw new FrameError(`a frame of ${bytes.length} bytes; the limit is ${maxFrameBytes}`)
  }
  const { header, body } = split(bytes)
  const op = header['op']
  if (op === -1) {
    return {
      type: 'error',
      error: textOr(body['error'], 'Unknown'),
      message: textOf(body, 'message'),
    }
  }
  if (op !== 1) return { type: 'unknown', what: 'op', seq: seqOf(body) }
  const kind = header['t']
  const read = typeof kind === 'string' ? readers[kind] : undefined
  if (read === undefined) return { type: 'unknown', what: 't', seq: seqOf(body) }
  try {
    return read(body, bytes)
  } catch (error) {
    if (!(error instanceof FieldError) && !(error instanceof InvalidEventError)) throw error
    const reason = error instanceof FieldError ? error.field : 'time'
    return { type: 'malformed', kind: String(kind), reason, seq: seqOf(body) }
  }
}

/** A field of a message that is missing or of the wrong form. */
class FieldError extends Error {
  readonly field: Malformation
  constructor(field: Malformation) {
    super(`the field ${field} is missing or wrong`)
    this.field = field
  }
}

const readers: { readonly [kind: string]: (body: IpldMap, frame: Uint8Array) => Message } = {
  __proto__: null as never,
  '#commit': readCommit,
  '#sync': (body, frame) => ({
    type: 'sync',
    frame,
    ...numbered(body, 'did'),
    rev: rev(body),
    blocks: blocks(body),
  }),
  '#identity': (body) => ({
    type: 'identity',
    ...numbered(body, 'did'),
    handle: textOf(body, 'handle'),
  }),
  '#account': (body) => ({
    type: 'account',
    ...numbered(body, 'did'),
    active: need(body, 'active', isBoolean),
    status: textOf(body, 'status')?.toLowerCase() ?? null,
  }),
  '#labels': (body) => ({
    type: 'labels',
    seq: need(body, 'seq', isSeq),
    labels: need(body, 'labels', Array.isArray),
  }),
  '#info': (body) => ({
    type: 'info',
    name: textOr(body['name'], 'Unknown'),
    message: textOf(body, 'message'),
  }),
}

function split(bytes: Uint8Array): { header: IpldMap; body: IpldMap } {
  try {
    const [header, rest] = decodeFirst(bytes)
    const body = decodeCbor(rest)
    if (isMap(header) && isMap(body)) return { header, body }
  } catch (cause) {
    if (!(cause instanceof CborError)) throw cause
    throw new FrameError(`a frame that is not DAG-CBOR: ${cause.message}`, { cause })
  }
  throw new FrameError('a frame whose header or body is not a map')
}

/** `tooBig`, `rebase` and `blobs` are deprecated: whatever they say is ignored. */
function readCommit(body: IpldMap, frame: Uint8Array): CommitMessage {
  const list = need(body, 'ops', Array.isArray)
  if (list.length > maxOps) throw new FieldError('too-many-ops')
  return {
    type: 'commit',
    frame,
    ...numbered(body, 'repo'),
    rev: rev(body),
    since: textOf(body, 'since'),
    commit: need(body, 'commit', isLink),
    blocks: blocks(body),
    ops: list.map(readOp),
    prevData: linkOrNull(body, 'prevData'),
  }
}

function readOp(value: Ipld): Op {
  if (!isMap(value)) throw new FieldError('ops')
  const { action } = value
  if (action !== 'create' && action !== 'update' && action !== 'delete') throw new FieldError('ops')
  const cid = linkOrNull(value, 'cid')
  if ((cid === null) !== (action === 'delete')) throw new FieldError('ops')
  return { action, path: need(value, 'path', isText), cid, prev: linkOrNull(value, 'prev') }
}

function numbered(body: IpldMap, did: 'did' | 'repo'): Numbered {
  return {
    seq: need(body, 'seq', isSeq),
    time: timestamp(need(body, 'time', isText)),
    did: need(body, did, (value): value is string => isText(value) && isDid(value)),
  }
}

function rev(body: IpldMap): string {
  return need(body, 'rev', (value): value is string => isText(value) && isTid(value))
}

function blocks(body: IpldMap): Uint8Array {
  const bytes = need(body, 'blocks', (value) => value instanceof Uint8Array)
  if (bytes.length > maxBlocksBytes) throw new FieldError('blocks-too-large')
  return bytes
}

function need<T extends Ipld>(
  map: IpldMap,
  field: Malformation,
  is: (value: Ipld | undefined) => value is T,
): T {
  const value = map[field]
  if (!is(value)) throw new FieldError(field)
  return value
}

function linkOrNull(map: IpldMap, field: Malformation): Cid | null {
  const value = map[field] ?? null
  if (value === null || value instanceof Cid) return value
  throw new FieldError(field)
}

/** The position that a body claims, as far as it can be read. */
function seqOf(body: IpldMap): number | null {
  const seq = body['seq']
  return isSeq(seq) ? seq : null
}

function textOf(map: IpldMap, field: string): string | null {
  const value = map[field]
  return isText(value) && value !== '' ? value : null
}

function textOr(value: Ipld | undefined, other: string): string {
  return isText(value) ? value : other
}

function isText(value: Ipld | undefined): value is string {
  return typeof value === 'string'
}

function isBoolean(value: Ipld | undefined): value is boolean {
  return typeof value === 'boolean'
}

function isLink(value: Ipld | undefined): value is Cid {
  return value instanceof Cid
}

function isSeq(value: Ipld | undefined): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0
}
