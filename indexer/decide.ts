/** What an event still changes, given what is stored about its record. */
import { compareVersions, type Version } from './fold.ts'

/** What is stored about one URI. */
export interface Stored {
  /** The row of `record`; a null rev, from before revs were kept, is older than any. */
  record: { cid: string; rev: string | null } | null
  /** The rev at which the record was last deleted, if that is remembered. */
  tombstone: string | null
  /** The rev of the last whole snapshot that covers the record's collection. */
  snapshot: string | null
}

/**
 * - `stale`: something newer is known; nothing changes.
 * - `raise`: the same record is confirmed at a later rev; only the rev moves.
 * - `write`: the record is new or another one.
 * - `remove`: the record is gone.
 */
export type Decision = 'stale' | 'raise' | 'write' | 'remove'

export function decide(event: Version, stored: Stored): Decision {
  const { record, tombstone, snapshot } = stored
  if (snapshot !== null && event.rev < snapshot) return 'stale'
  if (tombstone !== null && compareVersions(event, { rev: tombstone, cid: null }) <= 0) {
    return 'stale'
  }
  if (record === null) return event.cid === null ? 'remove' : 'write'
  if (compareVersions(event, { rev: record.rev ?? '', cid: record.cid }) <= 0) return 'stale'
  if (event.cid === null) return 'remove'
  return event.cid === record.cid ? 'raise' : 'write'
}
