/** The end of a whole snapshot of a repo: in its scope, what it does not contain is gone. */
import type { Transaction } from '../shared/postgres.ts'
import { scopeOf } from '../shared/scope.ts'
import { partsOf } from './uri.ts'

/** The URIs of stored records that a snapshot at `rev` does not contain: all that it did not raise. */
export async function missingFrom(
  sql: Transaction,
  did: string,
  rev: string,
  scope: readonly string[],
): Promise<string[]> {
  const inScope = scopeOf(scope)
  const older = await sql.unsafe<{ uri: string }[]>(
    'select uri from record where did = $1 and (rev is null or rev < $2)',
    [did, rev],
  )
  return older.map(({ uri }) => uri).filter((uri) => inScope(partsOf(uri).collection))
}

/**
 * Notes that the repo was read whole at `rev`, after which no older event changes anything in the
 * scope, and forgets the tombstones that this makes needless. False when a newer snapshot is known
 * for all of the scope.
 */
export async function noteSnapshot(
  sql: Transaction,
  did: string,
  rev: string,
  scope: readonly string[],
): Promise<boolean> {
  const [known] = await sql.unsafe<{ snapshots: Record<string, string> | null }[]>(
    'select "snapshotScope" as snapshots from repo_sync where did = $1',
    [did],
  )
  const snapshots = { ...known?.snapshots }
  const moving = scope.filter((pattern) => rev > (snapshots[pattern] ?? ''))
  if (moving.length === 0) return false
  for (const pattern of moving) snapshots[pattern] = rev
  await sql.unsafe(
    `update repo_sync set "snapshotScope" = $2::text::jsonb, "snapshotAt" = $3,
       "snapshotRev" = greatest("snapshotRev", $4)
     where did = $1`,
    [did, JSON.stringify(snapshots), new Date().toISOString(), rev],
  )
  await forgetTombstones(sql, did, rev, scope)
  return true
}

async function forgetTombstones(
  sql: Transaction,
  did: string,
  rev: string,
  scope: readonly string[],
): Promise<void> {
  const inScope = scopeOf(scope)
  const old = await sql.unsafe<{ uri: string }[]>(
    'select uri from record_tombstone where did = $1 and rev < $2',
    [did, rev],
  )
  const needless = old.map(({ uri }) => uri).filter((uri) => inScope(partsOf(uri).collection))
  if (needless.length === 0) return
  await sql.unsafe('delete from record_tombstone where uri = any($1::text[])', [needless])
}
