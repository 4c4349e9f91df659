/**
 * Applying a batch of events in one transaction: lock, decide, write, count; and in a second one what
 * depends on other repos. The rows are a function of the set of events, whatever their order and
 * however often each of them comes.
 */
import { crashPoint } from '../shared/crash-point.ts'
import type { Event, RecordEvent, RepoEvent } from '../shared/events.ts'
import { inTransaction, type Sql, type Transaction, together } from '../shared/postgres.ts'
import type { Scope } from '../shared/scope.ts'
import type { Outcome } from '../shared/streams/consumer.ts'
import { type HostedEvent, newestHosted, noteHosted, setStatuses } from './accounts.ts'
import type { Collection } from './collection.ts'
import { addCounts, countersOf, Deltas } from './counts.ts'
import { type Decision, decide, type Stored } from './decide.ts'
import type { Change, Deriver } from './derive.ts'
import { compareText, fold } from './fold.ts'
import { wantHandles } from './handles.ts'
import { Notifications } from './notifications.ts'
import {
  ensureActors,
  lockRepos,
  moveActorSync,
  newestHeads,
  type Repo,
  readRepos,
  readStored,
  snapshotRev,
} from './repos.ts'
import { type Claim, type CollectionChange, changeRows } from './rows.ts'
import { type Key, Keys, putKeys } from './rules/keys.ts'
import { type RulePoint, reconcile } from './rules/reconcile.ts'
import { missingFrom, type Noted, noteSnapshot } from './snapshot.ts'
import { partsOf } from './uri.ts'
import { deleteRows, insertRows, isTaken, relation } from './write.ts'

/** Where a test may hold a transaction. */
export type Point = 'begun' | 'locked' | 'decided' | 'written' | 'counted' | RulePoint

export interface ApplyOptions {
  sql: Sql
  schema: string
  collections: readonly Collection[]
  deriver: Deriver
  /** The collections that are indexed; events of others are refused. */
  scope: Scope
  statementTimeoutMs: number
  /** Whether handles are resolved, so that accounts whose handle needs it are noted. */
  handles: boolean
  /** Whether notifications are made of what a backfill found too. */
  notifyBackfilled?: boolean
  probe?: (point: Point) => Promise<void>
}

/** What became of a batch. */
export interface Applied {
  /** One per event, in the order of the events. */
  outcomes: readonly Outcome[]
  /** The changes that the record events asked for; of others null. */
  changes: readonly (Change | null)[]
  /** Accounts whose handle should be looked at now. */
  handlesWanted: readonly string[]
  rowsWritten: number
  /** What the rules have still to look at: it is in the database, for any indexer. */
  left: readonly Key[]
}

export type Apply = (events: readonly Event[]) => Promise<Applied>

/** Deleting what a snapshot does not contain goes in portions of so many records. */
const portion = 5_000

/**
 * Makes the function that applies a batch. It is all or nothing, and applying a batch again changes
 * nothing. `complete` repo events come alone, when all that was appended before them is applied.
 */
export function createApply(options: ApplyOptions): Apply {
  const { sql, schema, deriver, scope, statementTimeoutMs } = options
  const counters = countersOf(options.collections)
  const probe = options.probe ?? (async (point) => crashPoint(`indexer.${point}`))

  return async (events) => {
    // Derived outside the transaction: it costs time, and a retry may not lock meanwhile.
    const changes = events.map((event) =>
      isRecordEvent(event) && scope(event.collection) ? deriver.change(event) : null,
    )
    const run = (isCareful: boolean) =>
      inTransaction(sql, { schema, statementTimeoutMs, keyed: true }, async (transaction) => {
        await probe('begun')
        const batch = new Batch(transaction, options, probe, isCareful)
        const result = await batch.run(events, changes)
        await addCounts(transaction, batch.deltas, counters)
        await probe('counted')
        return result
      })
    // Another worker has left rows where none of ours can be, or writes them now.
    const applied = await run(false).catch((error) => {
      if (isTaken(error)) return run(true)
      throw error
    })
    const left = await reconcile({ sql, schema, statementTimeoutMs, probe }, applied.left)
    return { ...applied, left }
  }
}

const isRecordEvent = (event: Event): event is RecordEvent =>
  event.type === 'create' || event.type === 'update' || event.type === 'delete'

const isHostedEvent = (event: Event): event is HostedEvent =>
  event.type === 'account' || event.type === 'identity'

const isComplete = (event: Event): event is RepoEvent & Required<Pick<RepoEvent, 'complete'>> =>
  event.type === 'repo' && event.complete !== undefined

const didsOf = (events: readonly Event[]) => events.map(({ did }) => did)

/**
 * Removes records, with all that hangs on them, from a transaction that has locked their repos. What
 * keeps them from coming back is the caller's business.
 */
export async function removeRecords(
  sql: Transaction,
  options: ApplyOptions,
  uris: readonly string[],
): Promise<void> {
  const batch = new Batch(sql, options, async () => {}, true)
  await batch.forget(uris)
  await batch.follow()
  await addCounts(sql, batch.deltas, countersOf(options.collections))
}

/**
 * Sets the rows of stored records anew, in a transaction that has locked their repos: what hangs on
 * them goes, and what they say comes. Nobody is told. Returns what the rules have still to look at.
 */
export async function rewriteRecords(
  sql: Transaction,
  options: ApplyOptions,
  changes: readonly Change[],
): Promise<readonly Key[]> {
  const batch = new Batch(sql, options, async () => {}, true)
  await batch.rewrite(changes)
  const left = await batch.follow()
  await addCounts(sql, batch.deltas, countersOf(options.collections))
  return left
}

/** One transaction's work. */
class Batch {
  readonly deltas = new Deltas()
  readonly #notifications = new Notifications()
  readonly #touched = new Keys()
  readonly #sql: Transaction
  readonly #options: ApplyOptions
  readonly #probe: (point: Point) => Promise<void>
  /** Whether rows may be there of records that are not. */
  readonly #isCareful: boolean
  #rowsWritten = 0

  constructor(
    sql: Transaction,
    options: ApplyOptions,
    probe: (point: Point) => Promise<void>,
    isCareful: boolean,
  ) {
    this.#sql = sql
    this.#options = options
    this.#probe = probe
    this.#isCareful = isCareful
  }

  async run(events: readonly Event[], changes: readonly (Change | null)[]): Promise<Applied> {
    const sql = this.#sql
    const heads = newestHeads(events.filter((event) => !isHostedEvent(event)))
    await lockRepos(sql, heads, didsOf(events.filter(isHostedEvent)))
    await this.#probe('locked')

    const latest = fold(changes.filter((change) => change !== null))
    const [repos, stored] = await together([
      readRepos(sql, [...new Set(didsOf(events))]),
      readStored(
        sql,
        latest.map(({ uri }) => uri),
      ),
    ])
    const decisions = await this.#applyChanges(latest, repos, stored)
    const completed = await this.#applySnapshots(events.filter(isComplete))
    const present = heads.filter(({ did }) => !repos.get(did)?.isGone)
    const [left, moved] = await together([this.follow(), moveActorSync(sql, present)])
    await this.#probe('written')

    const hosted = await noteHosted(sql, newestHosted(events.filter(isHostedEvent)))
    const seen = new Map(events.map(({ did, time }) => [did, time]))
    const handlesWanted = this.#options.handles ? await wantHandles(sql, seen, hosted) : []
    await ensureActors(sql, seen)
    await setStatuses(sql, hosted)

    const news = new Set<Event>(hosted)
    const outcomes = events.map((event, index): Outcome => {
      const change = changes[index]
      if (change) return outcomeOf(change, decisions)
      if (isRecordEvent(event)) return 'refused:collection'
      if (isComplete(event)) return outcomeOfSnapshot(completed.get(event) ?? 'known')
      if (isHostedEvent(event)) return news.has(event) ? 'applied' : 'stale'
      return moved.has(event.did) ? 'applied' : 'stale'
    })
    return { outcomes, changes, handlesWanted, rowsWritten: this.#rowsWritten, left }
  }

  /** Lets the newest change of each URI win against what is stored, and writes what won. */
  async #applyChanges(
    latest: readonly Change[],
    repos: ReadonlyMap<string, Repo>,
    stored: ReadonlyMap<string, Omit<Stored, 'snapshot'>>,
  ): Promise<ReadonlyMap<Change, Decision>> {
    const decisions = new Map<Change, Decision>()
    if (latest.length === 0) return decisions
    const known = new Set<string>()
    for (const change of latest) {
      const { record = null, tombstone = null } = stored.get(change.uri) ?? {}
      const snapshot = snapshotRev(repos.get(change.did)?.snapshots, change.nsid)
      decisions.set(change, decide(change, { record, tombstone, snapshot }))
      if (record !== null) known.add(change.uri)
    }
    await this.#probe('decided')

    const decided = (decision: Decision) =>
      latest.filter((change) => decisions.get(change) === decision)
    const buried = latest.filter(({ uri }) => stored.get(uri)?.tombstone != null)
    await together([
      this.#raise(decided('raise')),
      this.#bury(decided('remove'), buried, decisions),
      this.#write(decided('write'), decided('remove'), known),
    ])
    return decisions
  }

  /** The same records, confirmed at a later rev. */
  async #raise(changes: readonly Change[]): Promise<void> {
    if (changes.length === 0) return
    await this.#sql.unsafe(
      `update record set rev = r.rev from ${relation(['uri', 'rev'])} where record.uri = r.uri`,
      [JSON.stringify(changes.map(({ uri, rev }) => ({ uri, rev })))],
    )
    this.#rowsWritten += changes.length
  }

  async #write(
    written: readonly Change[],
    removed: readonly Change[],
    known: ReadonlySet<string>,
  ): Promise<void> {
    const sql = this.#sql
    const gone = removed.filter(({ uri }) => known.has(uri))
    const came = written.filter(hasCome)
    const uris = gone.map(({ uri }) => uri)
    const fresh = came.filter(({ uri }) => !known.has(uri))
    const changed = came.filter(({ uri }) => known.has(uri))
    await together([
      deleteRows(sql, 'record', 'uri', uris, []),
      this.#putRecords(fresh, this.#isCareful ? upsert : null),
      this.#putRecords(changed, upsert),
    ])
    this.#rowsWritten += gone.length + came.length
    const going = [...gone, ...changed]
    const isQuiet = (change: Change) => change.isBackfilled && !this.#options.notifyBackfilled
    const quiet = [...removed, ...written].filter(isQuiet).map(({ uri }) => uri)
    await this.#changeRows(going, came, new Set(quiet))
  }

  async #putRecords(changes: readonly CameChange[], onConflict: string | null): Promise<void> {
    await insertRows(this.#sql, {
      table: 'record',
      rows: changes.map(({ uri, cid, did, came: { json }, indexedAt, rev }) => {
        return { uri, cid, did, json, indexedAt, rev }
      }),
      returning: [],
      onConflict,
    })
  }

  /** Writes what follows from the rows that came and went, and returns the keys left to the rules. */
  async follow(): Promise<readonly Key[]> {
    const left = this.#touched.all()
    await together([
      this.#notifications.write(this.#sql, this.#isCareful),
      putKeys(this.#sql, left),
    ])
    return left
  }

  /** Every table at once: all rows of a batch belong to the repos that it has locked. */
  async #changeRows(
    going: readonly { uri: string; nsid: string }[],
    came: readonly CameChange[],
    quiet: ReadonlySet<string>,
  ): Promise<void> {
    const context = {
      sql: this.#sql,
      deltas: this.deltas,
      deriver: this.#options.deriver,
      notifications: this.#notifications,
      touched: this.#touched,
      isCareful: this.#isCareful,
    }
    const changes = this.#options.collections.map((collection): CollectionChange => {
      return {
        collection,
        going: going.filter(({ nsid }) => nsid === collection.nsid).map(({ uri }) => uri),
        coming: came.filter(({ nsid }) => nsid === collection.nsid).flatMap(claimOf),
        quiet,
      }
    })
    await together(
      changes
        .filter(({ going, coming }) => going.length > 0 || coming.length > 0)
        .map((change) => changeRows(context, change)),
    )
  }

  /** Remembers what is gone, so that an older event does not bring it back; forgets what is back. */
  async #bury(
    removed: readonly Change[],
    buried: readonly Change[],
    decisions: ReadonlyMap<Change, Decision>,
  ): Promise<void> {
    const deletedAt = new Date().toISOString()
    const back = buried.filter((change) => decisions.get(change) === 'write')
    const uris = back.map(({ uri }) => uri)
    await together([
      insertRows(this.#sql, {
        table: 'record_tombstone',
        rows: removed.map(({ uri, did, rev }) => ({ uri, did, rev, deletedAt })),
        returning: [],
        onConflict: `(uri) do update set rev = excluded.rev, "deletedAt" = excluded."deletedAt"`,
      }),
      deleteRows(this.#sql, 'record_tombstone', 'uri', uris, []),
    ])
  }

  /** A collection that is indexed no more is not in a snapshot's events, and yet not gone. */
  readonly #isIndexed = (collection: string) => this.#options.scope(collection)

  /** Returns what each of them was. */
  async #applySnapshots(
    events: readonly (RepoEvent & Required<Pick<RepoEvent, 'complete'>>)[],
  ): Promise<ReadonlyMap<Event, Noted>> {
    const results = new Map<Event, Noted>()
    for (const event of [...events].sort((a, b) => compareText(a.did, b.did))) {
      const { did, rev } = event
      const { scope } = event.complete
      crashPoint('indexer.before-snapshot')
      const noted = await noteSnapshot(this.#sql, event, this.#isIndexed)
      results.set(event, noted)
      if (noted !== 'noted') continue
      const stored = await missingFrom(this.#sql, did, rev, scope)
      const missing = stored.filter((uri) => this.#isIndexed(partsOf(uri).collection))
      for (let start = 0; start < missing.length; start += portion) {
        await this.forget(missing.slice(start, start + portion))
      }
      crashPoint('indexer.snapshot-noted')
    }
    return results
  }

  /** The rows of these records go, and come as they say; the records themselves stay. */
  async rewrite(changes: readonly Change[]): Promise<void> {
    const quiet = new Set(changes.map(({ uri }) => uri))
    await this.#changeRows(changes, changes.filter(hasCome), quiet)
  }

  /** Removes records without a tombstone: the repo's snapshot, or its purge, stands for it. */
  async forget(uris: readonly string[]): Promise<void> {
    await deleteRows(this.#sql, 'record', 'uri', uris, [])
    this.#rowsWritten += uris.length
    const going = uris.map((uri) => ({ uri, nsid: partsOf(uri).collection }))
    await this.#changeRows(going, [], new Set(this.#options.notifyBackfilled ? [] : uris))
  }
}

const upsert = `(uri) do update set cid = excluded.cid, json = excluded.json,
  "indexedAt" = excluded."indexedAt", rev = excluded.rev`

type CameChange = Change & { cid: string; came: NonNullable<Change['came']> }

const hasCome = (change: Change): change is CameChange =>
  change.came !== null && change.cid !== null

function claimOf({ uri, did, cid, indexedAt, came }: CameChange): Claim[] {
  const { row } = came
  if (row === null) return []
  const rkey = uri.slice(uri.lastIndexOf('/') + 1)
  return [{ subject: { uri, did, rkey, cid, indexedAt }, came: { ...came, row } }]
}

/** Deletions that follow from a snapshot with holes would take what should stay. */
function outcomeOfSnapshot(noted: Noted): Outcome {
  if (typeof noted === 'string') return noted === 'noted' ? 'applied' : 'stale'
  const error = `${noted} records of the snapshot were not applied: nothing is deleted by it`
  return { deadLetter: { reason: 'snapshot-incomplete', error } }
}

/** A refused record is refused whether or not it took older rows away. */
function outcomeOf(change: Change, decisions: ReadonlyMap<Change, Decision>): Outcome {
  if (change.refused !== null) return `refused:${change.refused.reason}`
  const decision = decisions.get(change) ?? 'stale'
  return decision === 'stale' ? 'stale' : 'applied'
}
