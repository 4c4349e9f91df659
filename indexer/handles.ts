/** Handles: which accounts need a look, and the look itself, beside the batches. */
import { crashPoint } from '../shared/crash-point.ts'
import { type Identity, IdentityError } from '../shared/identity.ts'
import type { Logger } from '../shared/log.ts'
import { inTransaction, type Sql, schemaName, type Transaction } from '../shared/postgres.ts'
import { retryTransient, sleep } from '../shared/retry.ts'
import type { HostedEvent } from './accounts.ts'
import { compareText } from './fold.ts'
import { isGone } from './repos.ts'
import { columnar, isTaken, relation } from './write.ts'

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
  const hinted = new Set(news.filter(({ type }) => type === 'identity').map(({ did }) => did))
  const rows = [...seen.keys()].map((did) => ({ did, hinted: hinted.has(did) }))
  const { relation: seenRows, parameters } = columnar(['did', 'hinted'], rows)
  const [day, hour] = [parameters.length + 1, parameters.length + 2]
  const due = await sql.unsafe<{ did: string }[]>(
    `select r.did from ${seenRows} left join actor a on a.did = r.did
     where (r.hinted = 'true' or a.did is null or a."indexedAt" < $${day}
       or (a.handle is null and a."indexedAt" < $${hour})) and not ${isGone}`,
    [...parameters, new Date(now - dayMs).toISOString(), new Date(now - hourMs).toISOString()],
  )
  const wanted = due.map(({ did }) => did).sort(compareText)
  if (wanted.length === 0) return []
  // The update locks the row, so that one who is just done with it sees this event before it goes.
  await sql.unsafe(
    `insert into reconcile (kind, key) select $2, r.did from ${relation(['did'])}
     on conflict (kind, key) do update set key = excluded.key`,
    [JSON.stringify(wanted.map((did) => ({ did }))), handleKind],
  )
  return wanted
}

export interface HandleOptions {
  sql: Sql
  schema: string
  identity: Pick<Identity, 'resolve' | 'resolveHandle'>
  /** Accounts looked at side by side. */
  concurrency: number
  log: Logger
  /** Told of each account looked at, and how many are in hand. */
  onResult?: (result: HandleResult, queued: number) => void
  sweepEveryMs?: number
}

/** `valid` and `invalid` are stored; `unavailable` is tried again. */
export type HandleResult = 'valid' | 'invalid' | 'unavailable'

export interface Handles {
  /** Takes accounts in hand; those that do not fit are found by a later sweep. */
  want: (dids: readonly string[]) => void
  /** Looks at accounts until the signal aborts. */
  run: (signal: AbortSignal) => Promise<void>
}

const maxQueued = 10_000
const sweepPage = 500
const restMs = 300_000
const maxResting = 10_000

/**
 * Resolves the handles of the accounts in `reconcile`. First those that the batches of this process
 * named; leftovers of others are swept up from a random place, so that several indexers rarely meet.
 */
export function createHandles(options: HandleOptions): Handles {
  const { sql, schema, log, concurrency, onResult, sweepEveryMs = 10_000 } = options
  const queue = new Set<string>()
  const busy = new Set<string>()
  const resting = new Map<string, number>()
  let wake = Promise.withResolvers<void>()

  const want = (dids: readonly string[]) => {
    for (const did of dids) {
      if (queue.size >= maxQueued) break
      resting.delete(did)
      queue.add(did)
    }
    // A new one at once: whoever finds nothing to take must find something to wait for.
    const waiting = wake
    wake = Promise.withResolvers()
    waiting.resolve()
  }

  const sweep = async () => {
    const from = `did:plc:${Math.random().toString(36).slice(2)}`
    for (const [did, until] of resting) if (until < Date.now()) resting.delete(did)
    const page = (condition: string) =>
      sql.unsafe<{ key: string }[]>(
        `select key from "${schemaName(schema)}".reconcile
         where kind = $1 and key ${condition} $2 order by key limit ${sweepPage}`,
        [handleKind, from],
      )
    const found = [...(await page('>=')), ...(await page('<'))]
    want(found.map(({ key }) => key).filter((did) => !busy.has(did) && !resting.has(did)))
  }

  const take = (): string | undefined => {
    for (const did of queue) {
      if (busy.has(did)) continue
      queue.delete(did)
      return did
    }
    return undefined
  }

  const work = async (signal: AbortSignal) => {
    while (!signal.aborted) {
      const did = take()
      if (did === undefined) {
        await Promise.race([wake.promise, sleep(sweepEveryMs, signal)])
        continue
      }
      busy.add(did)
      const result = await retryTransient(() => look(options, did, signal), { signal })
      busy.delete(did)
      if (result === 'unavailable') {
        if (resting.size >= maxResting) resting.clear()
        resting.set(did, Date.now() + restMs)
        log.debug({ did }, 'handle can not be resolved now')
      }
      onResult?.(result, queue.size)
    }
  }

  const sweepAlways = async (signal: AbortSignal) => {
    while (!signal.aborted) {
      if (queue.size < sweepPage) await retryTransient(sweep, { signal })
      await sleep(sweepEveryMs, signal)
    }
  }

  const run = async (signal: AbortSignal) => {
    const ended = (error: unknown) => {
      if (!signal.aborted) throw error
    }
    const workers = Array.from({ length: concurrency }, () => work(signal).catch(ended))
    await Promise.all([sweepAlways(signal).catch(ended), ...workers])
  }
  return { want, run }
}

/** Looks at one account: what its document claims counts only when the handle leads back to it. */
async function look(
  options: HandleOptions,
  did: string,
  signal: AbortSignal,
): Promise<HandleResult> {
  const { sql, schema, identity } = options
  const hint = await hintedAt(sql, schema, did)
  const claim = await claimOf(identity, did, signal)
  if (claim === 'unavailable') return claim
  for (let attempt = 1; ; attempt += 1) {
    try {
      crashPoint('indexer.before-handle')
      await storeHandle(options, did, claim, hint)
      crashPoint('indexer.handle-stored')
      return claim.handle === null ? 'invalid' : 'valid'
    } catch (error) {
      // Two accounts claimed one handle at once: the later one takes it from the earlier.
      if (!isTaken(error) || attempt === 3) throw error
    }
  }
}

interface Claim {
  handle: string | null
  /** The handle could not be asked: what is stored stays if it is the same. */
  unsure: string | null
}

async function claimOf(
  identity: HandleOptions['identity'],
  did: string,
  signal: AbortSignal,
): Promise<Claim | 'unavailable'> {
  let claimed: string | null
  try {
    claimed = (await identity.resolve(did, { refresh: true, signal })).handle
  } catch (error) {
    if (!(error instanceof IdentityError)) throw error
    return error.kind === 'unavailable' ? 'unavailable' : { handle: null, unsure: null }
  }
  if (claimed === null) return { handle: null, unsure: null }
  try {
    const owner = await identity.resolveHandle(claimed, { signal })
    return { handle: owner === did ? claimed.toLowerCase() : null, unsure: null }
  } catch (error) {
    if (!(error instanceof IdentityError)) throw error
    const unsure = error.kind === 'unavailable' ? claimed.toLowerCase() : null
    return { handle: null, unsure }
  }
}

async function hintedAt(sql: Sql, schema: string, did: string): Promise<string | null> {
  const [event] = await sql.unsafe<{ time: string }[]>(
    `select "time" from "${schemaName(schema)}".account_event where did = $1 and type = 'identity'`,
    [did],
  )
  return event?.time ?? null
}

/** Sets the handle, takes it from whoever held it, and ends the wish unless a newer event came. */
async function storeHandle(
  { sql, schema }: HandleOptions,
  did: string,
  { handle, unsure }: Claim,
  hint: string | null,
): Promise<void> {
  await inTransaction(sql, { schema, statementTimeoutMs: 10_000 }, async (sql) => {
    await sql.unsafe('select from reconcile where kind = $1 and key = $2 for update', [
      handleKind,
      did,
    ])
    await sql.unsafe('select from actor where did = $1 or handle = $2 order by did for update', [
      did,
      handle,
    ])
    if (handle !== null) {
      await sql.unsafe('update actor set handle = null where handle = $1 and did <> $2', [
        handle,
        did,
      ])
    }
    // Never an insert: an account without a row was deleted since its handle was wished for.
    await sql.unsafe(
      `update actor set "indexedAt" = $3, handle = case when handle = $4 then handle else $2 end
       where did = $1`,
      [did, handle, new Date().toISOString(), unsure],
    )
    // A statement of its own: it sees an event that was noted while we waited for the row.
    await sql.unsafe(
      `delete from reconcile where kind = $1 and key = $2 and not exists (
         select from account_event where did = $2 and type = 'identity'
         and "time" is distinct from $3)`,
      [handleKind, did, hint],
    )
  })
}
