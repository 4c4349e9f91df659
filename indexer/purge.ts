/**
 * Deleted accounts: confirmed by their PDS, then removed with everything of theirs, in portions.
 *
 *   asked ──hosted──▶ no purge            the account is shown again
 *     │ ╰──unsure──▶ asked, later
 *    gone
 *     ▼
 *   purging ─▶ portions of records ─▶ the rest ─▶ no purge, and a fence: `repo_sync."purgedRev"`;
 *                                                 its dead letters go beside it (letters.ts)
 *
 * Each arrow is one transaction, so a purge that was interrupted is continued by any indexer.
 */
import type { Logger } from '../shared/log.ts'
import { inTransaction, type Transaction } from '../shared/postgres.ts'
import { tidOf } from '../shared/repo/tid.ts'
import { retryTransient, sleep } from '../shared/retry.ts'
import { readmit } from './accounts.ts'
import type { ApplyOptions } from './apply.ts'
import { askHost, type Hosted, type HostedOptions } from './hosted.ts'
import { lettersKind } from './letters.ts'
import { forgetActor, removeRest, removeSome } from './purge-rows.ts'
import { fenceAbove, lockRepos } from './repos.ts'

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
    // A wrong clock must not shut the account out for years.
    const since = Math.min(Math.max(0, Date.parse(asked.since)), Date.now())
    const ended = tidOf(since * 1_000)
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

/** Removes a portion, and keeps the account in hand; false when all of it is gone but for the rest. */
async function removePortion(options: PurgeOptions, did: string): Promise<boolean> {
  return withRepo(options, did, async (tx) => {
    const some = await removeSome(tx, options.apply, did)
    await tx.unsafe('update account_purge set "notBefore" = $2 where did = $1', [
      did,
      timeOf(Date.now() + leaseMs),
    ])
    await options.probe?.('portion')
    return some
  })
}

/** The end of it; but an account that has returned meanwhile stays, and its repo is wished for. */
async function finish(options: PurgeOptions, did: string): Promise<void> {
  await withRepo(options, did, async (tx) => {
    await removeRest(tx, options.apply, did)
    await tx.unsafe('delete from account_purge where did = $1', [did])
    const [event] = await tx.unsafe<{ active: boolean }[]>(
      `select active from account_event where did = $1 and type = 'account'`,
      [did],
    )
    if (event?.active) await readmit(tx, did)
    else {
      await forgetActor(tx, did)
      await tx.unsafe(
        'insert into reconcile (kind, key) values ($1, $2) on conflict (kind, key) do nothing',
        [lettersKind, did],
      )
    }
    await options.probe?.('finished')
  })
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
