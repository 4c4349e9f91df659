/** Account and identity events: the newest one counts, whichever arrives last. */
import type { AccountEvent, IdentityEvent } from '../shared/events.ts'
import type { Transaction } from '../shared/postgres.ts'
import { compareText } from './fold.ts'
import { lettersKind } from './letters.ts'
import { isGone } from './repos.ts'
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

/** The kind of row in `reconcile` that names an account whose repo is to be read anew. */
export const resyncKind = 'resync'

interface Known {
  did: string
  type: HostedEvent['type']
  time: string
  active: boolean | null
  status: string | null
}

/**
 * Notes the events that are newer than what is known, with what follows for the accounts' repos, and
 * returns those that say something new: the copy that another relay tells is not news. The repos
 * must be locked.
 */
export async function noteHosted(
  sql: Transaction,
  events: readonly HostedEvent[],
): Promise<readonly HostedEvent[]> {
  if (events.length === 0) return []
  const before = await sql.unsafe<Known[]>(
    'select did, type, "time", active, status from account_event where did = any($1::text[])',
    [[...new Set(events.map(({ did }) => did))]],
  )
  const known = new Map(before.map((row) => [keyOf(row), row]))
  const moved = await moveEvents(sql, events)
  const news = events.filter(
    (event) => moved.has(keyOf(event)) && isNews(event, known.get(keyOf(event))),
  )
  const told = news.filter((event) => event.type === 'account')
  if (told.length === 0) return news
  await noteStatuses(sql, told)
  await askForPurges(sql, told)
  for (const event of told) {
    if (event.active && known.get(keyOf(event))?.active === false) await readmit(sql, event.did)
  }
  return news
}

const keyOf = ({ did, type }: Pick<Known, 'did' | 'type'>) => `${did} ${type}`

function isNews(event: HostedEvent, known: Known | undefined): boolean {
  if (known === undefined || known.time !== event.time) return true
  if (event.type === 'identity') return false
  return known.active !== event.active || known.status !== event.status
}

/** Of copies the one with the highest seq is kept, so that any order ends in the same row. */
async function moveEvents(
  sql: Transaction,
  events: readonly HostedEvent[],
): Promise<ReadonlySet<string>> {
  const rows = events.map((event) => ({
    did: event.did,
    type: event.type,
    time: event.time,
    seq: event.seq,
    active: event.type === 'account' ? event.active : null,
    status: event.type === 'account' ? event.status : null,
  }))
  const columns = ['did', 'type', 'time', 'seq', 'active', 'status']
  const moved = await sql.unsafe<Pick<Known, 'did' | 'type'>[]>(
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
  return new Set(moved.map(keyOf))
}

/** Why a repo is not to be had, for whoever asks how far the repos are. */
async function noteStatuses(sql: Transaction, events: readonly AccountEvent[]): Promise<void> {
  const rows = events.map(({ did, time, active, status }) => {
    return { did, time, status: active ? null : (status ?? 'inactive') }
  })
  await sql.unsafe(
    `update repo_sync set status = r.status, "statusAt" = r.time
     from ${relation(['did', 'time', 'status'])} where repo_sync.did = r.did`,
    [JSON.stringify(rows)],
  )
}

/**
 * An account that is said to be deleted is asked for at its PDS, beside the batches; one that is said
 * to be anything else is not asked for any more.
 */
async function askForPurges(sql: Transaction, events: readonly AccountEvent[]): Promise<void> {
  const isDeleted = ({ active, status }: AccountEvent) => !active && status === 'deleted'
  const others = events.filter((event) => !isDeleted(event)).map(({ did }) => did)
  await sql.unsafe(`delete from account_purge where did = any($1::text[]) and state = 'asked'`, [
    others,
  ])
  const rows = events.filter(isDeleted).map(({ did, time }) => ({ did, time }))
  await sql.unsafe(
    `insert into account_purge as p (did, state, since, "notBefore")
     select did, 'asked', r.time, $2 from ${relation(['did', 'time'])}
     where not ${isGone}
     on conflict (did) do update set since = excluded.since`,
    [JSON.stringify(rows), new Date().toISOString()],
  )
}

/**
 * An account is back: its repo is wished for anew, for what we have of it is old, or purged. What a
 * finished purge keeps away is let in again, for the repo may come back as it was; so are its dead
 * letters.
 */
export async function readmit(sql: Transaction, did: string): Promise<void> {
  await sql.unsafe(
    `update repo_sync set "purgedRev" = null, rev = nullif(rev, "purgedRev"), "snapshotScope" = case
       when "snapshotScope" ->> '*' = "purgedRev" || '~' then "snapshotScope" - '*'
       else "snapshotScope" end
     where did = $1 and "purgedRev" is not null
       and not exists (select from account_purge p where p.did = $1)`,
    [did],
  )
  await sql.unsafe('delete from reconcile where kind = $1 and key = $2', [lettersKind, did])
  await sql.unsafe(
    'insert into reconcile (kind, key) values ($1, $2) on conflict (kind, key) do nothing',
    [resyncKind, did],
  )
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
