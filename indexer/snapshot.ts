/** The end of a whole snapshot of a repo: in its scope, what it does not contain is gone. */
import type { Complete } from '../shared/events.ts'
import type { Transaction } from '../shared/postgres.ts'
import { scopeOf } from '../shared/scope.ts'
import { type Snapshots, snapshotRev } from './repos.ts'
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

/** `known`: a newer snapshot is known for all of the scope. A number: so many records never came. */
export type Noted = 'noted' | 'known' | number

/**
 * Notes that the repo was read whole at `rev`, after which no older event changes anything in the
 * scope, and forgets the tombstones that this makes needless; unless records of it have not come.
 */
export async function noteSnapshot(
  sql: Transaction,
  { did, rev, complete }: { did: string; rev: string; complete: Complete },
  isIndexed: (collection: string) => boolean,
): Promise<Noted> {
  const { scope, collections = {} } = complete
  const [known] = await sql.unsafe<{ snapshots: Snapshots | null }[]>(
    'select "snapshotScope" as snapshots from repo_sync where did = $1',
    [did],
  )
  const snapshots: Record<string, string> = { ...known?.snapshots }
  // The same rev again says the same, and mends rows that something else has spoilt.
  const moving = scope.filter((pattern) => rev >= (snapshots[pattern] ?? ''))
  if (moving.length === 0) return 'known'
  // What a newer snapshot covers, its events alone decide.
  const expected = Object.entries(collections).filter(
    ([collection]) => isIndexed(collection) && (snapshotRev(snapshots, collection) ?? '') <= rev,
  )
  const lacking = await countLacking(sql, did, rev, expected)
  if (lacking > 0) return lacking
  for (const pattern of moving) snapshots[pattern] = rev
  await sql.unsafe(
    `update repo_sync set "snapshotScope" = $2::text::jsonb, "snapshotAt" = $3,
       "snapshotRev" = greatest("snapshotRev", $4)
     where did = $1`,
    [did, JSON.stringify(snapshots), new Date().toISOString(), rev],
  )
  await forgetTombstones(sql, did, rev, scope)
  return 'noted'
}

/**
 * How many of a snapshot's records have certainly not been applied: each that has left its row, or
 * its tombstone, at `rev` or later. What came after the snapshot may hide some.
 */
async function countLacking(
  sql: Transaction,
  did: string,
  rev: string,
  expected: readonly (readonly [collection: string, records: number])[],
): Promise<number> {
  if (expected.length === 0) return 0
  const [found] = await sql.unsafe<{ count: number }[]>(
    `select count(*) from (
       select uri from record where did = $1 and rev >= $2
       union all select uri from record_tombstone where did = $1 and rev >= $2
     ) as present where split_part(uri, '/', 4) = any($3::text[])`,
    [did, rev, expected.map(([collection]) => collection)],
  )
  return expected.reduce((sum, [, records]) => sum + records, 0) - Number(found?.count ?? 0)
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
