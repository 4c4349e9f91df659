/** Handles: which accounts need a look, and the look itself, beside the batches. */
import type { Transaction } from '../shared/postgres.ts'
import type { HostedEvent } from './accounts.ts'
import { compareText } from './fold.ts'
import { relation } from './write.ts'

const dayMs = 24 * 3_600_000
const hourMs = 3_600_000

/** The kind of row in `reconcile` that names an account whose handle is to be looked at. */
export const handleKind = 'handle'

/**
 * Notes the accounts of a batch whose handle is to be looked at: unknown ones, those last looked at
 * a day ago (an hour ago without a handle), and those that an identity event names. Returns them.
 */
export async function wantHandles(
  sql: Transaction,
  seen: ReadonlyMap<string, string>,
  news: readonly HostedEvent[],
): Promise<readonly string[]> {
  const now = Date.now()
  const hinted = news.filter(({ type }) => type === 'identity').map(({ did }) => did)
  const due = await sql.unsafe<{ did: string }[]>(
    `select r.did from ${relation(['did'])} left join actor a on a.did = r.did
     where a.did is null or a."indexedAt" < $2 or (a.handle is null and a."indexedAt" < $3)`,
    [
      JSON.stringify([...seen.keys()].map((did) => ({ did }))),
      new Date(now - dayMs).toISOString(),
      new Date(now - hourMs).toISOString(),
    ],
  )
  const wanted = [...new Set([...hinted, ...due.map(({ did }) => did)])].sort(compareText)
  if (wanted.length === 0) return []
  // The update locks the row, so that one who is just done with it sees this event before it goes.
  await sql.unsafe(
    `insert into reconcile (kind, key) select $2, r.did from ${relation(['did'])}
     on conflict (kind, key) do update set key = excluded.key`,
    [JSON.stringify(wanted.map((did) => ({ did }))), handleKind],
  )
  return wanted
}
