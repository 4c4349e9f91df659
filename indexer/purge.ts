/**
 * Deleted accounts: confirmed by their PDS, then removed with everything of theirs, in portions.
 *
 *   asked ──hosted──▶ no purge            the account is shown again
 *     │ ╰──unsure──▶ asked, later
 *    gone
 *     ▼
 *   purging ─▶ portions of records ─▶ the rest ─▶ no purge, and a fence: `repo_sync."purgedRev"`
 *
 * Each arrow is one transaction, so a purge that was interrupted is continued by any indexer.
 */
import type { Logger } from '../shared/log.ts'
import { inTransaction, type Transaction } from '../shared/postgres.ts'
import { tidOf } from '../shared/repo/tid.ts'
import { retryTransient, sleep } from '../shared/retry.ts'
import { readmit } from './accounts.ts'
import { type ApplyOptions, removeRecords } from './apply.ts'
import { compareText } from './fold.ts'
import { askHost, type Hosted, type HostedOptions } from './hosted.ts'
import { fenceAbove, lockRepos } from './repos.ts'
import { quoted } from './write.ts'

/** Where a test may hold a transaction. */
export type PurgePoint = 'confirmed' | 'portion' | 'finished'

export interface PurgeOptions extends HostedOptions {
  apply: ApplyOptions
  log: Logger
  /** Told of each account asked for, and of each that is gone. */
  onResult?: (result: Hosted | 'purged') => void
  everyMs?: number
  probe?: (point: PurgePoint) => Promise<void>
}

interface Due {
  did: string
  state: 'asked' | 'purging'
  attempts: number
}

const askedAtOnce = 4
/** Small enough that the counters of what the account liked are held for milliseconds. */
const portion = 500
/** Nobody else takes an account in hand for so long; whoever dies with it loses it after that. */
const leaseMs = 120_000
const firstPauseMs = 60_000
const longestPauseMs = 24 * 3_600_000

/** Confirms and purges until the signal aborts. */
export async function keepPurging(options: PurgeOptions, signal: AbortSignal): Promise<void> {
  const { everyMs = 5_000 } = options
  while (!signal.aborted) {
    try {
      const due = await retryTransient(() => takeDue(options.apply), { signal })
      await Promise.all(due.map((account) => purgeOne(options, account, signal)))
      if (due.length < askedAtOnce) await sleep(everyMs, signal)
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }
}

/** Takes accounts in hand whose time has come. */
async function takeDue({ sql, schema, statementTimeoutMs }: ApplyOptions): Promise<Due[]> {
  const now = Date.now()
  return inTransaction(sql, { schema, statementTimeoutMs }, (tx) =>
    tx.unsafe<Due[]>(
      `update account_purge set "notBefore" = $2 where did in (
         select did from account_purge where "notBefore" <= $1
         order by "notBefore" limit ${askedAtOnce} for update skip locked)
       returning did, state, attempts`,
      [timeOf(now), timeOf(now + leaseMs)],
    ),
  )
}

/** Brings one account as far as it can come now. */
export async function purgeOne(
  options: PurgeOptions,
  { did, state, attempts }: Due,
  signal: AbortSignal,
): Promise<void> {
  const { log, onResult } = options
  if (state === 'asked') {
    const hosted = await askHost(options, did, signal)
    onResult?.(hosted)
    const next = { hosted: keep, unsure: postpone, gone: confirm }[hosted]
    const confirmed = await retryTransient(() => next(options, did, attempts), { signal })
    if (hosted === 'hosted') log.info({ did }, 'account said to be deleted is at its host')
    if (!confirmed) return
  }
  const steps = () => retryTransient(() => removePortion(options, did), { signal })
  while (await steps()) if (signal.aborted) return
  await retryTransient(() => finish(options, did), { signal })
  log.info({ did }, 'account purged')
  onResult?.('purged')
}

/** The host has the account: it is shown again, as what the host says now. */
async function keep(options: PurgeOptions, did: string): Promise<boolean> {
  return withRepo(options, did, async (tx) => {
    const ended = await tx.unsafe(`delete from account_purge where did = $1 and state = 'asked'`, [
      did,
    ])
    if (ended.count === 0) return false
    await tx.unsafe('update actor set "upstreamStatus" = null where did = $1', [did])
    await tx.unsafe('update repo_sync set status = null where did = $1', [did])
    return false
  })
}

async function postpone(options: PurgeOptions, did: string, attempts: number): Promise<boolean> {
  const pauseMs = Math.min(longestPauseMs, firstPauseMs * 2 ** Math.min(attempts, 20))
  return withRepo(options, did, async (tx) => {
    await tx.unsafe(
      'update account_purge set attempts = attempts + 1, "notBefore" = $2 where did = $1',
      [did, timeOf(Date.now() + pauseMs)],
    )
    return false
  })
}

/**
 * From here on an event up to the fence changes nothing: the highest rev seen, or the moment of the
 * deletion where that is later. False when the account has returned meanwhile.
 */
async function confirm(options: PurgeOptions, did: string): Promise<boolean> {
  return withRepo(options, did, async (tx) => {
    const [asked] = await tx.unsafe<{ since: string; rev: string | null; stored: string | null }[]>(
      `select p.since, s.rev, (select max(rev) from record where record.did = p.did) as stored
       from account_purge p join repo_sync s on s.did = p.did
       where p.did = $1 and p.state = 'asked'`,
      [did],
    )
    if (asked === undefined) return false
    const ended = tidOf(Date.parse(asked.since) * 1_000)
    const fence = [ended, asked.rev ?? '', asked.stored ?? ''].sort().at(-1) ?? ended
    // A snapshot with nothing in it: the engine lets no older event past, as after any snapshot.
    await tx.unsafe(
      `update repo_sync set rev = $2, "purgedRev" = $2, "snapshotScope" = jsonb_build_object('*', $3::text)
       where did = $1`,
      [did, fence, fenceAbove(fence)],
    )
    await tx.unsafe(`update account_purge set state = 'purging' where did = $1`, [did])
    await options.probe?.('confirmed')
    return true
  })
}

/** Removes some of what the account has; false when all of it is gone but for the last. */
async function removePortion(options: PurgeOptions, did: string): Promise<boolean> {
  const { apply } = options
  return withRepo(options, did, async (tx) => {
    const records = await tx.unsafe<{ uri: string }[]>(
      `select r.uri from record r join repo_sync s on s.did = r.did
       where r.did = $1 and (r.rev is null or r.rev <= s."purgedRev") limit ${portion}`,
      [did],
    )
    const uris = records.map(({ uri }) => uri).sort(compareText)
    await removeRecords(tx, apply, uris)
    await tx.unsafe('update account_purge set "notBefore" = $2 where did = $1', [
      did,
      timeOf(Date.now() + leaseMs),
    ])
    await options.probe?.('portion')
    return uris.length > 0 || (await adoptOrphans(tx, apply, did)) || (await forgetNews(tx, did))
  })
}

/**
 * Older workers have left rows without a record: they are given one, so that the next portion takes
 * them and the counters follow. True when there were any.
 */
async function adoptOrphans(
  tx: Transaction,
  { collections }: ApplyOptions,
  did: string,
): Promise<boolean> {
  let adopted = 0
  for (const { nsid, rows } of collections) {
    if (rows === undefined) continue
    const result = await tx.unsafe(
      `insert into record (uri, cid, did, json, "indexedAt")
       select t.uri, t.cid, $1::text, '{}', t."indexedAt" from ${quoted(rows.table)} t
       where t.creator = $1 and t.uri like $2
         and not exists (select from record r where r.uri = t.uri) limit ${portion}`,
      [did, under(did, nsid)],
    )
    adopted += result.count
  }
  return adopted > 0
}

/** Notifications to the account, and what is left of those that it caused. */
async function forgetNews(tx: Transaction, did: string): Promise<boolean> {
  const gone = await tx.unsafe(
    `delete from notification where id = any(array(
       select id from notification n join repo_sync s on s.did = $1
       where (n.did = $1 or n.author = $1) and s.rev <= s."purgedRev" limit ${portion}))`,
    [did],
  )
  return gone.count > 0
}

/**
 * The last of it: rows that hang on no record, and the account itself; unless it has returned
 * meanwhile, and then its repo is wished for.
 */
async function finish(options: PurgeOptions, did: string): Promise<void> {
  const { collections } = options.apply
  await withRepo(options, did, async (tx) => {
    const lost = (key: string) =>
      `${key} like $1 and not exists (select from record r where r.uri = ${key})`
    for (const { table, key, softDelete } of childrenOf(collections)) {
      const first = quoted(softDelete?.primaryKey[0] ?? key)
      const column = `${quoted(table)}.${quoted(key)}`
      await tx.unsafe(`delete from ${quoted(table)} where ${first} like $1 and ${lost(column)}`, [
        under(did),
      ])
    }
    await tx.unsafe(`delete from duplicate_record where ${lost('duplicate_record.uri')}`, [
      under(did),
    ])
    await tx.unsafe(
      `delete from record_tombstone t using repo_sync s
       where t.did = $1 and s.did = $1 and t.rev <= s."purgedRev"`,
      [did],
    )
    await tx.unsafe(
      `delete from actor_sync using repo_sync s
       where actor_sync.did = $1 and s.did = $1 and s.rev <= s."purgedRev"`,
      [did],
    )
    await tx.unsafe('delete from account_purge where did = $1', [did])
    const [event] = await tx.unsafe<{ active: boolean }[]>(
      `select active from account_event where did = $1 and type = 'account'`,
      [did],
    )
    if (event?.active) await readmit(tx, did)
    else await forgetActor(tx, did)
    await options.probe?.('finished')
  })
}

/** Unless something newer of the account has come. */
async function forgetActor(tx: Transaction, did: string): Promise<void> {
  await tx.unsafe(
    `delete from actor using repo_sync s
     where actor.did = $1 and s.did = $1 and s.rev <= s."purgedRev"`,
    [did],
  )
}

function childrenOf(collections: ApplyOptions['collections']) {
  return collections.flatMap(({ rows }) => rows?.children ?? [])
}

/** The pattern of the URIs of an account, or of one collection of it. */
function under(did: string, nsid?: string): string {
  const path = nsid === undefined ? `at://${did}/` : `at://${did}/${nsid}/`
  return `${path.replaceAll(/[\\%_]/g, '\\$&')}%`
}

/** One transaction that holds the account's repo: batches about it come before or after. */
function withRepo<T>(
  { apply }: PurgeOptions,
  did: string,
  work: (tx: Transaction) => Promise<T>,
): Promise<T> {
  const { sql, schema, statementTimeoutMs } = apply
  return inTransaction(sql, { schema, statementTimeoutMs }, async (tx) => {
    await lockRepos(tx, [], [did])
    return work(tx)
  })
}

const timeOf = (at: number) => new Date(at).toISOString()
