/** Account and identity events: the newest one counts, whichever arrives last. */
import type { AccountEvent, IdentityEvent } from '../shared/events.ts'
import type { Transaction } from '../shared/postgres.ts'
import { compareText } from './fold.ts'
import { relation } from './write.ts'

export type HostedEvent = AccountEvent | IdentityEvent

/** The statuses that hide an account for as long as they last, as readers know them. */
const hiding = new Set(['takendown', 'suspended', 'deactivated'])
/** The statuses of an account whose host can't serve it now: what is indexed stays visible. */
const harmless = new Set(['desynchronized', 'throttled'])

/**
 * What `actor.upstreamStatus` says. A status nobody knows hides an inactive account, as does
 * `deleted` until the deletion is confirmed.
 */
export function upstreamStatus(active: boolean, status: string | null): string | null {
  if (active) return null
  if (status !== null && hiding.has(status)) return status
  return status !== null && harmless.has(status) ? null : 'deactivated'
}

/** Positive when `a` is the later event. */
export function compareHosted(a: HostedEvent, b: HostedEvent): number {
  return compareText(a.time, b.time) || a.seq - b.seq
}

/** The last event of each kind of each account, in the order of their locks. */
export function newestHosted<E extends HostedEvent>(events: readonly E[]): E[] {
  const newest = new Map<string, E>()
  for (const event of events) {
    const key = `${event.did} ${event.type}`
    const known = newest.get(key)
    if (known === undefined || compareHosted(event, known) > 0) newest.set(key, event)
  }
  return [...newest].sort(([a], [b]) => compareText(a, b)).map(([, event]) => event)
}

/** Notes the events that are newer than what is known, and returns them. */
export async function noteHosted(
  sql: Transaction,
  events: readonly HostedEvent[],
): Promise<readonly HostedEvent[]> {
  if (events.length === 0) return []
  const rows = events.map((event) => ({
    did: event.did,
    type: event.type,
    time: event.time,
    seq: event.seq,
    active: event.type === 'account' ? event.active : null,
    status: event.type === 'account' ? event.status : null,
  }))
  const columns = ['did', 'type', 'time', 'seq', 'active', 'status']
  const moved = await sql.unsafe<{ did: string; type: string }[]>(
    `insert into account_event as a (did, type, "time", seq, active, status)
     select did, type, r."time", r.seq::bigint, r.active::boolean, status from ${relation(columns)}
     on conflict (did, type) do update set
       "time" = excluded."time", host = excluded.host, seq = excluded.seq,
       active = excluded.active, status = excluded.status
     where (a."time", a.host, coalesce(a.seq, 0))
         < (excluded."time", excluded.host, coalesce(excluded.seq, 0))
     returning did, type`,
    [JSON.stringify(rows)],
  )
  const keys = new Set(moved.map(({ did, type }) => `${did} ${type}`))
  return events.filter(({ did, type }) => keys.has(`${did} ${type}`))
}

/** Makes the visibility of accounts what their newest account event says. */
export async function setStatuses(sql: Transaction, events: readonly HostedEvent[]): Promise<void> {
  const rows = events
    .filter((event) => event.type === 'account')
    .map(({ did, active, status }) => ({ did, status: upstreamStatus(active, status) }))
  if (rows.length === 0) return
  await sql.unsafe(
    `update actor set "upstreamStatus" = r.status from ${relation(['did', 'status'])}
     where actor.did = r.did and actor."upstreamStatus" is distinct from r.status`,
    [JSON.stringify(rows)],
  )
}
