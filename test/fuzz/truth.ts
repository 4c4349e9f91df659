/**
 * What may come out of frames, told without the ingester's code: by other codecs, and by what the
 * accounts themselves wrote.
 *
 * What is signed (did, rev, commit, path, cid, record) must be what the account signed, whole. What
 * is not (seq, time, handle, status, a label without a signature) can be no more than what the frame
 * at hand says.
 */
import { decodeFirst } from '@atcute/cbor'
import { decode } from '@atproto/lex-cbor'
import { lexToJson } from '@atproto/lex-json'
import type { Label } from '../../simulator/labeler.ts'
import { opsOf, type Source } from './source.ts'

/** One commit as its account made it. */
export interface CommitTruth {
  did: string
  rev: string
  commit: string
  /** The CID by `action path`; null for a delete. */
  ops: ReadonlyMap<string, string | null>
  /** By path, all that is known to be in the repo after it. */
  present: ReadonlyMap<string, string>
}

export interface Truth {
  /** The commit of a source; undefined where nothing may come of it. */
  of(source: Source): CommitTruth | undefined
  /**
   * What is wrong with the events that were made of a frame; null when nothing is. `made` is the
   * commit that was signed anew for this very frame.
   */
  complaint(frame: Uint8Array, events: readonly WireEvent[], made?: CommitTruth): string | null
}

/** An event as it stands on the stream, as JSON. */
export type WireEvent = Record<string, unknown>

/** What a frame says, as far as it is not links and bytes. */
type Body = Record<string, unknown>

/** Nothing may come of accounts that `isKnown` denies: nobody can tell what they signed. */
export function createTruth(
  sources: readonly Source[],
  labels: readonly Label[],
  isKnown: (did: string) => boolean,
): Truth {
  const signedLabels = new Set(labels.map(({ sig: _, ...label }) => canonical(label)))
  const commits = new Map<string, CommitTruth>()
  const records = new Map<string, string>()
  const present = new Map<string, Map<string, string>>()
  for (const { type, did, body, blocks } of sources) {
    if (type !== '#commit' || !isKnown(did)) continue
    const paths = new Map(present.get(did))
    const ops = new Map<string, string | null>()
    for (const { action, path, cid } of opsOf(body)) {
      ops.set(`${action} ${path}`, cid ? String(cid) : null)
      if (cid) paths.set(String(path), String(cid))
      else paths.delete(String(path))
    }
    present.set(did, paths)
    const rev = String(body['rev'])
    commits.set(`${did} ${rev}`, { did, rev, commit: String(body['commit']), ops, present: paths })
    const put = new Set(ops.values())
    for (const { cid, bytes } of blocks) {
      if (put.has(String(cid))) records.set(String(cid), canonical(lexToJson(decode(bytes))))
    }
  }

  const recordComplaint = (event: WireEvent): string | null => {
    const { type, cid, record } = event
    if (type === 'delete') return null
    return records.get(String(cid)) === canonical(record) ? null : 'a record that nobody wrote'
  }

  /** Of a commit that is proved with all its ops exactly those, of another one what is so after it. */
  const commitComplaint = (
    body: Body,
    events: readonly WireEvent[],
    made: CommitTruth | undefined,
  ): string | null => {
    const [first] = events
    const name = `${first?.['did']} ${first?.['rev']}`
    const truth = name === `${made?.did} ${made?.rev}` ? made : commits.get(name)
    if (truth === undefined) return `a commit that nobody made: ${name}`
    const got = new Map<string, string | null>()
    for (const event of events) {
      const { did, rev, commit, type, collection, rkey, cid = null } = event
      const path = `${collection}/${rkey}`
      if (did !== truth.did || rev !== truth.rev) return 'events of two commits in one frame'
      if (commit !== truth.commit) return 'the cid of another commit'
      if (got.has(`${type} ${path}`)) return `one op twice: ${type} ${path}`
      got.set(`${type} ${path}`, cid as string | null)
      const complaint = unsignedComplaint(body, event) ?? recordComplaint(event)
      if (complaint !== null) return complaint
      if (body['prevData']) continue
      if ((truth.present.get(path) ?? null) !== cid) return `an op that is not so: ${type} ${path}`
    }
    if (!body['prevData']) return null
    const same =
      got.size === truth.ops.size && [...got].every(([op, cid]) => truth.ops.get(op) === cid)
    return same
      ? null
      : `other ops than were signed: ${[...got.keys()]}, not ${[...truth.ops.keys()]}`
  }

  const labelComplaint = (body: Body, event: WireEvent): string | null => {
    const { sig, ...label } = event['label'] as Body
    if (sig !== undefined) {
      return signedLabels.has(canonical(label)) ? null : 'a label that nobody signed'
    }
    const said = body['labels'] as Body[]
    const same = ({ src, uri, val, cts, sig = null }: Body) =>
      canonical([src, uri, val, cts, sig]) ===
      canonical([label['src'], label['uri'], label['val'], label['cts'], null])
    return said.some(same) ? null : 'a label that the frame does not hold'
  }

  return {
    of: ({ type, did, body }) =>
      type === '#commit' ? commits.get(`${did} ${body['rev']}`) : undefined,
    complaint(frame, events, made) {
      const [event] = events
      if (event === undefined) return null
      const body = bodyOf(frame)
      if (body === null) return 'an event of bytes that are no frame'
      switch (event['type']) {
        case 'create':
        case 'update':
        case 'delete':
          return commitComplaint(body, events, made)
        case 'label':
          return events.map((event) => labelComplaint(body, event)).find(Boolean) ?? null
        case 'account':
        case 'identity':
          return events.length > 1 ? 'two events of one message' : hintComplaint(body, event)
        default:
          return `an event of an unknown type: ${event['type']}`
      }
    },
  }
}

function bodyOf(frame: Uint8Array): Body | null {
  try {
    return decodeFirst(decodeFirst(frame)[1])[0] as Body
  } catch {
    return null
  }
}

/** Accounts and identities are the word of the host at hand: they may say what it says, and no more. */
function hintComplaint(body: Body, event: WireEvent): string | null {
  const { type, did, active, status, handle } = event
  const text = (value: unknown) => (typeof value === 'string' && value) || null
  if (did !== body['did']) return 'another account'
  if (type === 'identity') {
    if ((handle ?? null) !== text(body['handle'])) return 'another handle'
  } else if (
    active !== body['active'] ||
    status !== (text(body['status'])?.toLowerCase() ?? null)
  ) {
    return 'another status'
  }
  return unsignedComplaint(body, event)
}

function unsignedComplaint(body: Body, { seq, time }: WireEvent): string | null {
  if (seq !== body['seq']) return 'another seq'
  const same = Date.parse(String(time)) === Date.parse(String(body['time']))
  return same ? null : 'another time'
}

/** JSON text with the keys of every map in order. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, held: unknown) => {
    if (typeof held !== 'object' || held === null || Array.isArray(held)) return held
    return Object.fromEntries(Object.entries(held).sort(([a], [b]) => (a < b ? -1 : 1)))
  })
}
