/** The state of whole repos: the row that a batch locks, and what is stored about its records. */
import { type Transaction, together } from '../shared/postgres.ts'
import { covers } from '../shared/scope.ts'
import type { Stored } from './decide.ts'
import { compareText } from './fold.ts'
import { columnar } from './write.ts'

/** A commit of a repo. */
export interface Head {
  did: string
  rev: string
  commit: string
}

/** The newest commit of every repo. */
export function newestHeads(heads: readonly Head[]): Head[] {
  const newest = new Map<string, Head>()
  for (const { did, rev, commit } of heads) {
    const known = newest.get(did)
    if (known === undefined || rev > known.rev) newest.set(did, { did, rev, commit })
  }
  return [...newest.values()]
}

/**
 * Locks the repos until the transaction ends, and notes the highest rev seen of each. It must be a
 * statement of its own, before all others: what follows then sees what the previous holder wrote.
 * `others` are accounts that were told of without a commit.
 */
export async function lockRepos(
  sql: Transaction,
  heads: readonly Head[],
  others: readonly string[] = [],
): Promise<void> {
  const revs = new Map<string, string | null>(others.map((did) => [did, null]))
  for (const { did, rev } of heads) revs.set(did, rev)
  if (revs.size === 0) return
  const rows = [...revs].sort(([a], [b]) => compareText(a, b)).map(([did, rev]) => ({ did, rev }))
  const { relation, parameters } = columnar(['did', 'rev'], rows)
  // The update locks the row even where its condition is false.
  await sql.unsafe(
    `insert into repo_sync as s (did, rev) select did, rev from ${relation}
     on conflict (did) do update set rev = excluded.rev where s.rev is null or s.rev < excluded.rev`,
    parameters,
  )
}

/**
 * True, in SQL, of an account `r.did` that was deleted and of which nothing newer has come: what is
 * older must not make it known again.
 */
export const isGone = `exists (
  select from repo_sync gone where gone.did = r.did and gone."purgedRev" >= gone.rev)`

/** What makes every event up to `rev` stale, and none after it: a snapshot's rev just above it. */
export const fenceAbove = (rev: string): string => `${rev}~`

/** Moves `actor_sync` of repos that are not gone forward, and returns those that moved. */
export async function moveActorSync(
  sql: Transaction,
  heads: readonly Head[],
): Promise<ReadonlySet<string>> {
  if (heads.length === 0) return new Set()
  const { relation, parameters } = columnar(
    ['did', 'rev', 'commit'],
    heads.map(({ did, rev, commit }) => ({ did, rev, commit })),
  )
  const moved = await sql.unsafe<{ did: string }[]>(
    `insert into actor_sync as s (did, "commitCid", "repoRev")
     select did, commit, rev from ${relation}
     on conflict (did) do update set "commitCid" = excluded."commitCid", "repoRev" = excluded."repoRev"
     where s."repoRev" is null or s."repoRev" < excluded."repoRev" returning did`,
    parameters,
  )
  return new Set(moved.map(({ did }) => did))
}

/** Inserts an `actor` row for every account that has none, and was not deleted. */
export async function ensureActors(
  sql: Transaction,
  seen: ReadonlyMap<string, string>,
): Promise<void> {
  const rows = [...seen].map(([did, time]) => ({ did, time }))
  if (rows.length === 0) return
  rows.sort((a, b) => compareText(a.did, b.did))
  const { relation, parameters } = columnar(['did', 'time'], rows)
  await sql.unsafe(
    `insert into actor (did, "indexedAt") select r.did, r.time from ${relation}
     where not exists (select from actor where actor.did = r.did) and not ${isGone}
     on conflict do nothing`,
    parameters,
  )
}

/** For every pattern of a snapshot's scope, the rev at which it was last covered whole. */
export type Snapshots = Readonly<Record<string, string>>

/** The rev of the newest snapshot that covers a collection, or null. */
export function snapshotRev(
  snapshots: Snapshots | null | undefined,
  collection: string,
): string | null {
  let newest: string | null = null
  for (const [pattern, rev] of Object.entries(snapshots ?? {})) {
    if (covers(pattern, collection) && (newest === null || rev > newest)) newest = rev
  }
  return newest
}

/** What a batch must know of a repo beside its records. */
export interface Repo {
  snapshots: Snapshots | null
  /** Its account was deleted, and nothing newer of it has come. */
  isGone: boolean
}

/** The repos that have been read whole, or were purged. */
export async function readRepos(
  sql: Transaction,
  dids: readonly string[],
): Promise<ReadonlyMap<string, Repo>> {
  const found = await sql.unsafe<(Repo & { did: string })[]>(
    `select r.did, r."snapshotScope" as snapshots, ${isGone} as "isGone" from repo_sync r
     where r.did = any($1::text[]) and (r."snapshotScope" is not null or r."purgedRev" is not null)`,
    [dids as string[]],
  )
  return new Map(found.map(({ did, ...repo }) => [did, repo]))
}

/** What is stored about records; the snapshot is found by the caller, who knows the collection. */
export async function readStored(
  sql: Transaction,
  uris: readonly string[],
): Promise<ReadonlyMap<string, Omit<Stored, 'snapshot'>>> {
  if (uris.length === 0) return new Map()
  const [records, tombstones] = await together([
    sql.unsafe<{ uri: string; cid: string; rev: string | null }[]>(
      'select uri, cid, rev from record where uri = any($1::text[])',
      [uris as string[]],
    ),
    sql.unsafe<{ uri: string; rev: string }[]>(
      'select uri, rev from record_tombstone where uri = any($1::text[])',
      [uris as string[]],
    ),
  ])
  const stored = new Map<string, Omit<Stored, 'snapshot'>>()
  for (const { uri, cid, rev } of records)
    stored.set(uri, { record: { cid, rev }, tombstone: null })
  for (const { uri, rev } of tombstones) {
    stored.set(uri, { record: stored.get(uri)?.record ?? null, tombstone: rev })
  }
  return stored
}
