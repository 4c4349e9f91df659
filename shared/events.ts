/** The wire shapes of the streams: the only copy of them. Reading is liberal, writing is strict. */
import { InvalidEventError } from './errors.ts'
import { healRecord } from './heal.ts'
import { isDid, isNsid, isRkey } from './repo/syntax.ts'
import { isTid } from './repo/tid.ts'

interface CommitEvent {
  /** The relay's position; below 0 for what a backfill found. */
  seq: number
  /** When the relay saw it: `YYYY-MM-DDTHH:mm:ss.SSSZ`. */
  time: string
  did: string
  /** The CID of the signed commit. */
  commit: string
  rev: string
}

export interface PutEvent extends CommitEvent {
  type: 'create' | 'update'
  collection: string
  rkey: string
  cid: string
  /** The record in its JSON form (`$link`, `$bytes`), its keys in the order they were decoded. */
  record: Record<string, unknown>
}

export interface DeleteEvent extends CommitEvent {
  type: 'delete'
  collection: string
  rkey: string
}

/** What a snapshot of a whole repo held. */
export interface Complete {
  records: number
  scope: readonly string[]
  /** The records of each collection, where those are not too many to tell: they add up to `records`. */
  collections?: Readonly<Record<string, number>>
}

/** That a repo was read at a rev; with `complete`, the last word of a snapshot of all of it. */
export interface RepoEvent extends CommitEvent {
  type: 'repo'
  complete?: Complete
}

export interface AccountEvent {
  type: 'account'
  seq: number
  time: string
  did: string
  active: boolean
  /** Lower case, or null. */
  status: string | null
}

/** A hint that the DID document or handle of an account has changed. */
export interface IdentityEvent {
  type: 'identity'
  seq: number
  time: string
  did: string
  handle?: string
}

export type RecordEvent = PutEvent | DeleteEvent
export type Event = RecordEvent | RepoEvent | AccountEvent | IdentityEvent

export interface Label {
  ver?: number
  src: string
  uri: string
  cid?: string
  val: string
  neg?: boolean
  /** As the labeler wrote it. */
  cts: string
  exp?: string
  sig?: unknown
}

/** What one entry of `label_live` says; the older Rust ingester put several labels in one entry. */
export interface LabelEvent {
  type: 'label'
  seq: number | null
  labels: readonly Label[]
}

export interface BackfillRequest {
  did: string
  /** The relay that listed the repo (not its PDS). */
  host?: string
  rev?: string
  status?: string | null
  active?: boolean
  reason?: 'bulk' | 'manual' | 'resync'
  /** Not to be tried before this time (RFC 3339). */
  notBefore?: string
  /** Tries that failed, and when the first of them did. */
  attempts?: number
  firstFailedAt?: string
  /** Where the repo was found to live: only a hint for when not to ask. */
  pds?: string
}

/** Whether the event is from a backfill: the older families mark it -1, -2, or not at all. */
export function isBackfill(event: Event): boolean {
  return event.seq < 0
}

export function uriOf(event: RecordEvent): string {
  return `at://${event.did}/${event.collection}/${event.rkey}`
}

/** The fields of a stream entry, in the form that both older families read. */
export function encodeEvent(event: Event): string[] {
  return ['event', JSON.stringify(wireForm(event))]
}

/** The JSON of an event whose commit nobody could verify: readers of both families ignore the mark. */
export function withoutProof(json: Uint8Array): Buffer {
  return Buffer.concat([json.subarray(0, -1), unverified])
}
const unverified = Buffer.from(',"verified":false}')

function wireForm(event: Event): Record<string, unknown> {
  const { type, seq, did } = event
  const head = { type, seq, time: timestamp(event.time), did }
  switch (event.type) {
    case 'create':
    case 'update': {
      const { commit, rev, collection, rkey, cid, record } = event
      return { ...head, commit, rev, collection, rkey, cid, record }
    }
    case 'delete': {
      const { commit, rev, collection, rkey } = event
      return { ...head, commit, rev, collection, rkey }
    }
    case 'repo': {
      const { commit, rev, complete } = event
      return { ...head, commit, rev, ...(complete && { complete: true, ...complete }) }
    }
    case 'account':
      return { ...head, active: event.active, status: event.status?.toLowerCase() ?? null }
    case 'identity':
      return { ...head, ...(event.handle === undefined ? {} : { handle: event.handle }) }
    default:
      return event satisfies never
  }
}

/** Reads an entry of a firehose stream, as we or either older family wrote it, or throws `InvalidEventError`. */
export function decodeEvent(fields: readonly string[]): Event {
  const json = parseField(fields, 'event')
  const type = json['type']
  const head = { seq: seqOf(json), time: timestamp(textOf(json, 'time')), did: didOf(json) }
  switch (type) {
    case 'create':
    case 'update': {
      const cid = textOf(json, 'cid')
      return { type, ...head, ...commitOf(json), ...pathOf(json), cid, record: recordOf(json, cid) }
    }
    case 'delete':
      return { type, ...head, ...commitOf(json), ...pathOf(json) }
    case 'repo':
      return { type, ...head, ...commitOf(json), ...completeOf(json) }
    case 'account':
      return { type, ...head, active: json['active'] !== false, status: statusOf(json) }
    case 'identity': {
      const handle = json['handle']
      return { type, ...head, ...(typeof handle === 'string' && handle !== '' ? { handle } : {}) }
    }
    default:
      throw new InvalidEventError(`unknown event type ${JSON.stringify(type)}`)
  }
}

/**
 * The fields of one label's entry: `event` as the TypeScript workers wrote it, `labels` as the Rust
 * ones. These know no expiry: for them a label that has expired by `now` is one taken back.
 */
export function encodeLabel(label: Label, seq: number, now = 0): string[] {
  const { src, uri, val, exp } = label
  const expired = exp !== undefined && Date.parse(exp) <= now
  const cts = timestamp(label.cts).replace('T', ' ').replace('Z', ' UTC')
  const rust = { src, uri, cid: label.cid ?? null, val, neg: expired || (label.neg ?? null), cts }
  return [
    'event',
    JSON.stringify({ type: 'label', label }),
    'labels',
    JSON.stringify({ seq, labels: [rust] }),
  ]
}

/** Reads an entry of the label stream in either form, or throws `InvalidEventError`. */
export function decodeLabels(fields: readonly string[]): LabelEvent {
  const rust = fieldOf(fields, 'labels') === undefined ? null : parseField(fields, 'labels')
  const seq = rust !== null && Number.isSafeInteger(rust['seq']) ? Number(rust['seq']) : null
  if (fieldOf(fields, 'event') !== undefined) {
    const event = parseField(fields, 'event')
    if (event['type'] !== 'label') {
      throw new InvalidEventError(`expected a label, got ${JSON.stringify(event['type'])}`)
    }
    return { type: 'label', seq, labels: [labelOf(event['label'])] }
  }
  if (rust === null) throw new InvalidEventError(missing(fields, 'event" or "labels'))
  if (!Array.isArray(rust['labels'])) throw new InvalidEventError('labels is not an array')
  return { type: 'label', seq, labels: rust['labels'].map(labelOf) }
}

export function encodeRequest(request: BackfillRequest): string[] {
  const { did, host, rev, status = null, active = true, reason } = request
  const { notBefore, attempts, firstFailedAt, pds } = request
  const retry = { pds, not_before: notBefore, attempts, first_failed_at: firstFailedAt }
  return ['repo', JSON.stringify({ did, host, rev, status, active, reason, ...retry })]
}

/** Reads an entry of `repo_backfill`; a request by hand may hold the DID alone. */
export function decodeRequest(fields: readonly string[]): BackfillRequest {
  const json = parseField(fields, 'repo')
  const { host, rev, reason, active, not_before: notBefore } = json
  const { attempts, first_failed_at: firstFailedAt, pds } = json
  return {
    did: didOf(json),
    status: statusOf(json),
    active: active !== false,
    ...(typeof host === 'string' ? { host } : {}),
    ...(typeof rev === 'string' ? { rev } : {}),
    ...(reason === 'bulk' || reason === 'manual' || reason === 'resync' ? { reason } : {}),
    ...(typeof notBefore === 'string' ? { notBefore: timestamp(notBefore) } : {}),
    ...(Number.isSafeInteger(attempts) ? { attempts: Number(attempts) } : {}),
    ...(typeof firstFailedAt === 'string' ? { firstFailedAt: timestamp(firstFailedAt) } : {}),
    ...(typeof pds === 'string' && URL.canParse(pds) ? { pds } : {}),
  }
}

/**
 * Any RFC 3339 time, also the Rust workers' `2025-10-30 06:56:52.123 UTC`, in the one form that we
 * write: milliseconds and `Z`. Throws `InvalidEventError`.
 */
export function timestamp(value: string): string {
  if (isPlainTimestamp(value)) return value
  const match =
    /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d(?:\.\d+)?) ?(UTC|[Zz]|[+-]\d\d:?\d\d)$/.exec(value)
  if (match === null)
    throw new InvalidEventError(`not a time: ${JSON.stringify(value).slice(0, 80)}`)
  const zone = match[3] === 'UTC' || match[3] === 'z' ? 'Z' : match[3]
  const date = new Date(`${match[1]}T${match[2]}${zone}`)
  if (Number.isNaN(date.getTime())) throw new InvalidEventError(`no such time: ${value}`)
  return date.toISOString()
}

const plainForm =
  /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$/

/** What is in our form already; a day that not every month has is looked at more closely. */
function isPlainTimestamp(value: string): boolean {
  return value.length === 24 && plainForm.test(value)
}

type Json = Record<string, unknown>

function fieldOf(fields: readonly string[], name: string): string | undefined {
  for (let index = 0; index + 1 < fields.length; index += 2) {
    if (fields[index] === name) return fields[index + 1]
  }
  return undefined
}

function parseField(fields: readonly string[], name: string): Json {
  const value = fieldOf(fields, name)
  if (value === undefined) throw new InvalidEventError(missing(fields, name))
  return objectOf(parseJson(value, name), `field "${name}"`)
}

function missing(fields: readonly string[], name: string): string {
  const names = fields.filter((_, index) => index % 2 === 0).join(', ')
  return `no field "${name}" in the entry, only: ${names.slice(0, 200)}`
}

function parseJson(value: string, name: string): unknown {
  try {
    return JSON.parse(value)
  } catch (cause) {
    throw new InvalidEventError(`field "${name}" is not JSON`, { cause })
  }
}

function objectOf(value: unknown, name: string): Json {
  if (!isObject(value)) throw new InvalidEventError(`${name} is not an object`)
  return value
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function textOf(json: Json, key: string): string {
  const value = json[key]
  if (typeof value !== 'string' || value === '') throw new InvalidEventError(`${key} is missing`)
  return value
}

function checked(json: Json, key: string, holds: (value: string) => boolean): string {
  const value = textOf(json, key)
  if (!holds(value)) {
    throw new InvalidEventError(`${key} is not valid: ${JSON.stringify(value.slice(0, 120))}`)
  }
  return value
}

function didOf(json: Json): string {
  return checked(json, 'did', isDid)
}

function seqOf(json: Json): number {
  const seq = json['seq'] ?? -1
  if (!Number.isSafeInteger(seq)) throw new InvalidEventError('seq is not a whole number')
  return seq as number
}

function commitOf(json: Json): { commit: string; rev: string } {
  return { commit: textOf(json, 'commit'), rev: checked(json, 'rev', isTid) }
}

function pathOf(json: Json): { collection: string; rkey: string } {
  return { collection: checked(json, 'collection', isNsid), rkey: checked(json, 'rkey', isRkey) }
}

function recordOf(json: Json, cid: string): Json {
  return healRecord(objectOf(json['record'], 'record'), cid)
}

function completeOf(json: Json): Pick<RepoEvent, 'complete'> {
  if (json['complete'] !== true) return {}
  const { records, scope, collections } = json
  const isScope = Array.isArray(scope) && scope.every((part) => typeof part === 'string')
  if (!Number.isSafeInteger(records) || !isScope) {
    throw new InvalidEventError('a complete repo needs its number of records and its scope')
  }
  const complete = { records: records as number, scope }
  return { complete: isCounts(collections) ? { ...complete, collections } : complete }
}

function isCounts(value: unknown): value is Record<string, number> {
  return isObject(value) && Object.values(value).every((count) => Number.isSafeInteger(count))
}

function statusOf(json: Json): string | null {
  const status = json['status']
  return typeof status === 'string' && status !== '' ? status.toLowerCase() : null
}

function labelOf(value: unknown): Label {
  const json = objectOf(value, 'label')
  const { ver, cid, neg, exp, sig } = json
  return {
    ...(typeof ver === 'number' ? { ver } : {}),
    src: checked(json, 'src', isDid),
    uri: textOf(json, 'uri'),
    ...(typeof cid === 'string' && cid !== '' ? { cid } : {}),
    val: textOf(json, 'val'),
    ...(typeof neg === 'boolean' ? { neg } : {}),
    cts: textOf(json, 'cts'),
    ...(typeof exp === 'string' ? { exp } : {}),
    ...(sig === undefined ? {} : { sig }),
  }
}
