/** Signed commits: the root of a repo (spec: repository, "Commit Objects"). */
import { CborError, decodeCbor, encodeCbor, type IpldMap, isMap } from './cbor.ts'
import { Cid } from './cid.ts'
import { isDid } from './syntax.ts'
import { isTid } from './tid.ts'

export interface Commit {
  did: string
  /** Root of the record tree. */
  data: Cid
  rev: string
  /** Null in every commit of today; an older form linked the commit before. */
  prev: Cid | null
  /** 64 bytes, not yet verified. */
  sig: Uint8Array
}

export type CommitCode = 'malformed' | 'unsupported-version'

/** Not a commit that we can read; `code` says whether an older or newer one or none at all. */
export class CommitError extends Error {
  override name = 'CommitError'
  readonly code: CommitCode
  constructor(code: CommitCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

const version = 3
const signatureLength = 64
/** The key `sig` and the head of its bytes. */
const signatureHeadLength = 6
/** The head of a map of no entries. */
const smallMap = 0xa0

/** Reads a commit block of repo version 3; unknown fields are legal. Throws CommitError. */
export function decodeCommit(bytes: Uint8Array): Commit {
  return readCommit(decodeMap(bytes))
}

/** The bytes that the signature covers: the commit without `sig`. Throws CommitError. */
export function unsignedBytes(bytes: Uint8Array): Uint8Array {
  return withoutSignature(decodeMap(bytes))
}

/** Both at once, for whoever verifies. Throws CommitError. */
export function openCommit(bytes: Uint8Array): { commit: Commit; unsigned: Uint8Array } {
  const map = decodeMap(bytes)
  const commit = readCommit(map)
  return { commit, unsigned: cutSignature(bytes, commit.sig) ?? withoutSignature(map) }
}

/** The block of a commit; without `sig` it gives the bytes to sign. */
export function encodeCommit(commit: Omit<Commit, 'sig'> & { sig?: Uint8Array }): Uint8Array {
  const { did, data, rev, prev, sig } = commit
  return encodeCbor({ did, version, data, rev, prev, ...(sig ? { sig } : {}) })
}

function readCommit(map: IpldMap): Commit {
  const { did, data, rev, prev = null, sig } = map
  if (map['version'] !== version) {
    throw new CommitError('unsupported-version', `repo version ${String(map['version'])}, not 3`)
  }
  if (typeof did !== 'string' || !isDid(did)) throw malformed('did')
  if (!(data instanceof Cid) || data.codec !== 'dag-cbor') throw malformed('data')
  if (typeof rev !== 'string' || !isTid(rev)) throw malformed('rev')
  if (prev !== null && !(prev instanceof Cid)) throw malformed('prev')
  if (!(sig instanceof Uint8Array)) throw malformed('sig')
  return { did, data, rev, prev, sig }
}

function malformed(field: string): CommitError {
  return new CommitError('malformed', `the field ${field} of the commit is missing or wrong`)
}

function decodeMap(bytes: Uint8Array): IpldMap {
  try {
    const decoded = decodeCbor(bytes)
    if (isMap(decoded)) return decoded
  } catch (cause) {
    if (!(cause instanceof CborError)) throw cause
    throw new CommitError('malformed', 'the commit is not DAG-CBOR', { cause })
  }
  throw new CommitError('malformed', 'a commit is a map')
}

/** The same bytes as `withoutSignature` gives, without encoding; null where the head of the map changes its length. */
function cutSignature(bytes: Uint8Array, sig: Uint8Array): Uint8Array | null {
  const head = bytes[0] ?? 0
  if (head > smallMap + 23 || sig.length !== signatureLength) return null
  const end = sig.byteOffset - bytes.byteOffset + signatureLength
  const start = end - signatureLength - signatureHeadLength
  const unsigned = Buffer.allocUnsafe(bytes.length - (end - start))
  unsigned.set(bytes.subarray(0, start))
  unsigned.set(bytes.subarray(end), start)
  unsigned[0] = head - 1
  return unsigned
}

function withoutSignature({ sig: _, ...unsigned }: IpldMap): Uint8Array {
  return encodeCbor(unsigned)
}
