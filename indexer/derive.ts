/** From an event to the rows that it asks for: pure, and all that depends on the record alone. */
import { type RecordEvent, uriOf } from '../shared/events.ts'
import type { Child, Collection, Row, Subject } from './collection.ts'
import type { Version } from './fold.ts'
import type { Validate } from './lexicons.ts'
import { cleanJson } from './text.ts'

/** What a record becomes in Postgres. */
export interface Came {
  json: string
  /** The row of the collection's table; null when the collection, or this record, has none. */
  row: Row | null
  children: readonly { child: Child<never>; rows: readonly Row[] }[]
  /** Something in the text could not be stored and was left out. */
  altered: boolean
}

/** What one event says about one URI. `cid` and `came` are null when the record is gone. */
export interface Change extends Version {
  uri: string
  did: string
  nsid: string
  /** What the table of collections says; null for a collection that it does not hold. */
  collection: Collection | null
  indexedAt: string
  /** It was not heard from a relay. */
  isBackfilled: boolean
  came: Came | null
  /** Why the record is not stored. For the rows it is then gone, at this rev. */
  refused: Refusal | null
}

interface Refusal {
  /** From a bounded set: it names an outcome and a metric's label. */
  reason: string
  detail: string
}

export interface Deriver {
  change: (event: RecordEvent) => Change
  /** The rows of a record that is stored already, or null when it can't have any. */
  stored: (collection: Collection, subject: Subject, json: string) => Came | null
}

/** Makes changes of events, by the table of collections and their lexicons. */
export function createDeriver(collections: readonly Collection[], validate: Validate): Deriver {
  const byNsid = new Map(collections.map((collection) => [collection.nsid, collection]))

  const change = (event: RecordEvent): Change => {
    const { did, rev, collection: nsid } = event
    const collection = byNsid.get(nsid) ?? null
    const uri = uriOf(event)
    const isBackfilled = event.seq < 0
    const indexedAt = event.time
    const gone = { uri, did, nsid, collection, rev, cid: null, indexedAt, isBackfilled, came: null }
    if (event.type === 'delete') return { ...gone, refused: null }

    const subject = { uri, did, rkey: event.rkey, cid: event.cid, indexedAt: event.time }
    const result = attempt(() => derive(collection, subject, event.record))
    if ('reason' in result) return { ...gone, refused: result }
    return { ...gone, cid: event.cid, came: result, refused: null }
  }

  const derive = (
    collection: Collection | null,
    subject: Subject,
    record: object,
  ): Came | Refusal => {
    const { value, json, altered } = cleanJson(record)
    if (collection === null) return { json, row: null, children: [], altered }
    if (collection.validated !== false) {
      const problem = validate(collection.nsid, value)
      if (problem !== null) return { reason: 'lexicon', detail: problem }
    }
    const refusal = collection.refuse?.(value as never, subject) ?? null
    if (refusal !== null) return { reason: refusal, detail: '' }
    return { json, ...rowsOf(collection, subject, value), altered }
  }

  const stored = (collection: Collection, subject: Subject, json: string): Came | null => {
    const result = attempt(() => derive(collection, subject, JSON.parse(json) as object))
    return 'reason' in result ? null : result
  }

  return { change, stored }
}

/** An unexpected exception refuses the one record that it happened in. */
function attempt(work: () => Came | Refusal): Came | Refusal {
  try {
    return work()
  } catch (error) {
    return { reason: 'bug', detail: error instanceof Error ? (error.stack ?? error.message) : '' }
  }
}

function rowsOf(
  collection: Collection,
  subject: Subject,
  record: object,
): Pick<Came, 'row' | 'children'> {
  const { rows, rkey } = collection
  if (rows === undefined) return { row: null, children: [] }
  if (rkey !== undefined && subject.rkey !== rkey) return { row: null, children: [] }
  const columns = rows.columns(record as never, subject)
  if (columns === null) return { row: null, children: [] }
  const { uri, cid, did, indexedAt } = subject
  const children = (rows.children ?? []).map((child) => ({
    child,
    rows: child.rows(record as never, subject),
  }))
  return { row: { uri, cid, creator: did, ...columns, indexedAt }, children }
}
