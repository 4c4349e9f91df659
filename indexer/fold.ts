/** Which of several events about one record counts: a total order, so that arrival does not matter. */

/** What orders the events of one URI. */
export interface Version {
  rev: string
  /** The record's CID, or null when the record is gone. */
  cid: string | null
}

/**
 * Positive when `a` is the later state: by rev, at the same rev a record before its absence, and
 * among records the higher CID. The last two never decide in a valid repo; they make the result the
 * same in any order when a host breaks the rules.
 */
export function compareVersions(a: Version, b: Version): number {
  if (a.rev !== b.rev) return a.rev > b.rev ? 1 : -1
  if (a.cid === b.cid) return 0
  if (a.cid === null || b.cid === null) return a.cid === null ? -1 : 1
  return a.cid > b.cid ? 1 : -1
}

/** The latest change of every URI, in the order of the URIs' code units. Of equal ones the first. */
export function fold<T extends Version & { uri: string }>(changes: readonly T[]): T[] {
  const latest = new Map<string, T>()
  for (const change of changes) {
    const known = latest.get(change.uri)
    if (known === undefined || compareVersions(change, known) > 0) latest.set(change.uri, change)
  }
  return [...latest.values()].sort((a, b) => compareText(a.uri, b.uri))
}

/** By code units: the one order in which every transaction of ours takes its locks. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
