/** The table of collections as people read it: `sluice collections` and docs/collections.md. */
import type { Collection, RowsOf } from './collection.ts'
import { collections } from './collections/index.ts'
import { reasons } from './rules/notices.ts'

export interface Listed extends Record<string, string> {
  collection: string
  /** Its own table first, then those of its parts; `record` alone where it has none. */
  tables: string
  /** The columns of which only one record of each value has the row. */
  unique: string
  /** The counters that a row moves, as `table.column`. */
  counts: string
  /** Why accounts are notified. */
  notifications: string
  /** Which record keys have a row. */
  rkey: string
}

/** One row for each collection that is known by name; an empty field says that there is none. */
export function listCollections(): Listed[] {
  return collections.map(listed)
}

function listed({ nsid, rkey, rows }: Collection): Listed {
  const parts = rows?.children ?? []
  const counts = [rows, ...parts].flatMap((part) => part?.counts ?? [])
  return {
    collection: nsid,
    tables: rows === undefined ? 'record' : [rows, ...parts].map(({ table }) => table).join(', '),
    unique: (rows?.unique ?? []).join(', '),
    counts: counts.map(({ table, column }) => `${table}.${column}`).join(', '),
    notifications: reasonsOf(rows).join(', '),
    rkey: rkey ?? 'any',
  }
}

function reasonsOf(rows: RowsOf | undefined): readonly string[] {
  if (rows?.touches?.kind === 'post') return reasons
  return [...(rows?.notify ?? []), ...(rows?.notifyGone ?? [])].map(({ reason }) => reason)
}
