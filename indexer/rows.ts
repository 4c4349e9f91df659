/**
 * The rows of one collection's table: which go, which come, and which of several records that claim
 * the same key has the row. Among present duplicates that is the one with the lowest URI; the others
 * wait in `duplicate_record`, each pointing at the holder.
 */
import { type Transaction, together } from '../shared/postgres.ts'
import type { Child, Collection, Row, RowsOf, SoftDelete, Subject } from './collection.ts'
import type { Deltas } from './counts.ts'
import type { Came, Deriver } from './derive.ts'
import { compareText } from './fold.ts'
import { type Notifications, notificationsOf } from './notifications.ts'
import type { Keys } from './rules/keys.ts'
import { partsOf } from './uri.ts'
import { deleteRows, holding, insertRows, quoted, type Returned, relation } from './write.ts'

/** A record that claims a row. */
export interface Claim {
  subject: Subject
  came: Came & { row: Row }
}

/** A record that has to wait: `duplicateOf` holds its row. */
interface Duplicate extends Record<string, string> {
  uri: string
  cid: string
  duplicateOf: string
  indexedAt: string
}

export interface CollectionChange {
  collection: Collection
  /** The URIs of records that go, or whose content changes. */
  going: readonly string[]
  coming: readonly Claim[]
  /** The URIs of records whose coming and going nobody is told of. */
  quiet: ReadonlySet<string>
}

export interface Context {
  sql: Transaction
  deltas: Deltas
  deriver: Deriver
  notifications: Notifications
  /** What the rules have to look at. */
  touched: Keys
  /** Whether rows may be there of records that are not. Where that shows otherwise, Postgres refuses the batch. */
  isCareful: boolean
}

/** What the rows of one change are written with. */
interface Work extends Context {
  rows: RowsOf
  quiet: ReadonlySet<string>
}

/** Makes one collection's rows, and its children's, true; adds what that does to the counters. */
export async function changeRows(context: Context, change: CollectionChange): Promise<void> {
  const { collection, going, coming } = change
  const { rows } = collection
  if (rows === undefined) return
  const quiet = new Set(change.quiet)
  const work: Work = { ...context, rows, quiet }
  const gone = await deleteWithChildren(work, going)
  if (rows.unique === undefined) return insertClaims(work, coming)

  await deleteRows(context.sql, 'duplicate_record', 'uri', going, [])
  const freed = gone.map((row) => String(row['uri']))
  const arriving = new Set(urisOf(coming))
  const orphans = (await duplicatesOf(context, collection, freed)).filter(
    ({ subject }) => !arriving.has(subject.uri),
  )
  const { holders, waiting } = contest(rows, [...orphans, ...coming])
  const orphaned = new Set(urisOf(orphans))
  // Who takes a place is told of as he is who left it.
  if (freed.every((uri) => quiet.has(uri))) for (const uri of orphaned) quiet.add(uri)
  const promoted = holders.map(({ subject }) => subject.uri).filter((uri) => orphaned.has(uri))
  await deleteRows(context.sql, 'duplicate_record', 'uri', promoted, [])
  const beaten = await insertUnique(work, holders)
  const holderOf = new Map(beaten.map(({ uri, duplicateOf }) => [uri, duplicateOf]))
  const pointed = waiting.map((duplicate) => ({
    ...duplicate,
    duplicateOf: holderOf.get(duplicate.duplicateOf) ?? duplicate.duplicateOf,
  }))
  await setDuplicates(context.sql, [...beaten, ...pointed])
}

/** Inserts the rows of records that nothing contests. */
async function insertClaims(work: Work, claims: readonly Claim[]): Promise<void> {
  const left = await insertFree(work, claims)
  // Only a database that somebody else wrote has a row without its record.
  await deleteWithChildren(work, urisOf(left))
  await insertFree(work, left)
}

/**
 * Inserts rows that no other record of this batch contests. Where a stored row holds the key the
 * lower URI wins. Returns the records that have to wait.
 */
async function insertUnique(work: Work, claims: readonly Claim[]): Promise<Duplicate[]> {
  const { sql, rows } = work
  const contested = await insertFree(work, claims)
  if (contested.length === 0) return []

  const stored = await holdersOf(sql, rows, contested)
  const waiting: Duplicate[] = []
  const entering: Claim[] = []
  const leaving: string[] = []
  for (const claim of contested) {
    const { uri, cid, indexedAt } = claim.subject
    const holder = stored.get(keyOf(rows, claim.came.row))
    if (holder !== undefined && holder.uri < uri) {
      waiting.push({ uri, cid, duplicateOf: holder.uri, indexedAt })
      continue
    }
    entering.push(claim)
    leaving.push(uri)
    if (holder === undefined || holder.uri === uri) continue
    leaving.push(holder.uri)
    waiting.push({ ...holder, duplicateOf: uri })
    await sql.unsafe('update duplicate_record set "duplicateOf" = $1 where "duplicateOf" = $2', [
      uri,
      holder.uri,
    ])
  }
  await deleteWithChildren(work, leaving)
  await insertFree(work, entering)
  return waiting
}

/** Inserts the rows whose keys are free, with their children, and returns the other claims. */
async function insertFree(work: Work, claims: readonly Claim[]): Promise<Claim[]> {
  if (claims.length === 0) return []
  const { sql, deltas, rows, isCareful } = work
  const isFree = !isCareful && rows.unique === undefined
  const inserted = await insertRows(sql, {
    table: rows.table,
    rows: claims.map(({ came }) => came.row),
    ...(rows.json === undefined ? {} : { json: rows.json }),
    ...(isCareful ? {} : { onConflict: null, unless: rows.unique ?? [] }),
    ...(isFree ? { returning: [] } : {}),
  })
  const uris = new Set(isFree ? urisOf(claims) : inserted.map((row) => row['uri']))
  const entered = claims.filter(({ subject }) => uris.has(subject.uri))
  const enteredRows = entered.map(({ came }) => came.row)
  deltas.add(rows.counts, enteredRows, 1)
  touch(work, enteredRows)
  for (const row of enteredRows) {
    if (rows.notify === undefined || work.quiet.has(String(row['uri']))) continue
    work.notifications.want(notificationsOf(row, rows.notify))
  }

  const children = rows.children ?? []
  await together(children.map((child) => insertChildren(work, child, entered)))
  return claims.filter(({ subject }) => !uris.has(subject.uri))
}

async function insertChildren(
  { sql, deltas, isCareful }: Work,
  child: Child<never>,
  entered: readonly Claim[],
): Promise<void> {
  const { table, counts, softDelete } = child
  const returned = await insertRows(sql, {
    table,
    rows: entered.flatMap(
      ({ came }) => came.children.find((entry) => entry.child === child)?.rows ?? [],
    ),
    returning: counts?.map(({ key }) => key) ?? [],
    ...(isCareful ? {} : { onConflict: null }),
    ...(softDelete === undefined ? {} : { onConflict: reviving(softDelete) }),
  })
  deltas.add(counts, returned, 1)
}

/** Deletes rows and their children, and returns the rows that were there. */
async function deleteWithChildren(
  work: Work,
  uris: readonly string[],
): Promise<readonly Returned[]> {
  const { sql, deltas, rows, quiet, notifications } = work
  const deleted = await deleteRows(sql, rows.table, 'uri', uris, columnsOfGone(rows))
  deltas.add(rows.counts, deleted, -1)
  const gone = deleted.map((row) => String(row['uri']))
  if (gone.length === 0) return deleted
  if (rows.touches?.when === 'changed') touch(work, deleted)
  if (rows.notifyGone === undefined) notifications.forget(gone)
  else {
    const now = new Date().toISOString()
    for (const row of deleted as readonly Row[]) {
      if (quiet.has(String(row['uri']))) continue
      const told = notificationsOf(row, rows.notifyGone)
      notifications.want(told.map((notification) => ({ ...notification, sortAt: now })))
    }
  }
  const children = rows.children ?? []
  await together(children.map((child) => deleteChildren(work, child, deleted)))
  return deleted
}

async function deleteChildren(
  { sql, deltas }: Work,
  { table, key, counts, softDelete }: Child<never>,
  deleted: readonly Returned[],
): Promise<void> {
  if (softDelete === undefined) {
    const gone = deleted.map((row) => String(row['uri']))
    const columns = counts?.map((count) => count.key) ?? []
    deltas.add(counts, await deleteRows(sql, table, key, gone, columns), -1)
    return
  }
  const entries = Object.entries(softDelete.key)
  const keys = deleted.map((row) =>
    Object.fromEntries(entries.map(([to, from]) => [to, row[from]])),
  )
  const whole = keys.filter((key) => Object.values(key).every((value) => value !== null))
  if (whole.length === 0) return
  const columns = entries.map(([column]) => column)
  const same = columns.map((column) => `t.${quoted(column)} = r.${quoted(column)}`)
  await sql.unsafe(
    `update ${quoted(table)} t set ${quoted(softDelete.column)} = $2 from ${relation(columns)}
     where ${same.join(' and ')}`,
    [JSON.stringify(whole), new Date().toISOString()],
  )
}

/** What must be known of a row that goes. */
function columnsOfGone(rows: RowsOf): readonly string[] | '*' {
  const { counts = [], touches, notifyGone, children = [] } = rows
  if (notifyGone !== undefined) return '*'
  const counted = counts.flatMap(({ key, unless }) => [key, ...(unless ? [unless] : [])])
  const marked = children.flatMap(({ softDelete }) => Object.values(softDelete?.key ?? {}))
  return [...new Set(['uri', ...counted, ...marked, ...(touches ? [touches.key] : [])])]
}

/** Leaves the keys of rows that came or went to the rules. */
function touch({ rows: { touches }, quiet, touched }: Work, rows: readonly Returned[]): void {
  if (touches === undefined) return
  for (const row of rows) {
    const { kind, key } = touches
    const isQuiet = quiet.has(String(row['uri']))
    touched.put({ kind, key: String(row[key]), after: null, depth: 0, quiet: isQuiet })
  }
}

/** What a row that was softly deleted becomes when its record is back. */
function reviving({ column, key }: SoftDelete): string {
  return `(${Object.keys(key).map(quoted).join(', ')}) do update set ${quoted(column)} = null`
}

/** Of the claims to each key the one with the lowest URI, and the others as its duplicates. */
function contest(
  rows: RowsOf,
  claims: readonly Claim[],
): { holders: Claim[]; waiting: Duplicate[] } {
  const holders = new Map<string, Claim>()
  const sorted = [...claims].sort((a, b) => compareText(a.subject.uri, b.subject.uri))
  const waiting: Duplicate[] = []
  for (const claim of sorted) {
    const key = keyOf(rows, claim.came.row)
    const holder = holders.get(key)
    const { uri, cid, indexedAt } = claim.subject
    if (holder === undefined) holders.set(key, claim)
    else waiting.push({ uri, cid, duplicateOf: holder.subject.uri, indexedAt })
  }
  return { holders: [...holders.values()], waiting }
}

/** The records that wait for the given holders, as claims; one that is not valid any more is left. */
async function duplicatesOf(
  { sql, deriver }: Context,
  collection: Collection,
  holders: readonly string[],
): Promise<Claim[]> {
  if (holders.length === 0) return []
  const found = await sql.unsafe<{ uri: string; cid: string; indexedAt: string; json: string }[]>(
    `select d.uri, r.cid, d."indexedAt", r.json from duplicate_record d
     join record r on r.uri = d.uri where d."duplicateOf" = any($1::text[])`,
    [holders as string[]],
  )
  return found.flatMap(({ uri, cid, indexedAt, json }) => {
    const { authority: did, rkey } = partsOf(uri)
    const subject = { uri, cid, indexedAt, did, rkey }
    const came = deriver.stored(collection, subject, json)
    return came?.row ? [{ subject, came: { ...came, row: came.row } }] : []
  })
}

/** The stored rows that hold the keys of the claims, by key. */
async function holdersOf(
  sql: Transaction,
  rows: RowsOf,
  claims: readonly Claim[],
): Promise<Map<string, { uri: string; cid: string; indexedAt: string }>> {
  const unique = rows.unique ?? []
  const keys = claims.map(({ came }) => Object.fromEntries(unique.map((c) => [c, came.row[c]])))
  const columns = ['uri', 'cid', 'indexedAt', ...unique]
  const found = await sql.unsafe<Returned[]>(
    `select held.* from ${relation(unique)}
     cross join lateral (${holding(rows.table, unique, columns)}) as held`,
    [JSON.stringify(keys)],
  )
  const text = (row: Returned, column: string) => String(row[column])
  return new Map(
    found.map((row) => [
      keyOf(rows, row),
      { uri: text(row, 'uri'), cid: text(row, 'cid'), indexedAt: text(row, 'indexedAt') },
    ]),
  )
}

async function setDuplicates(sql: Transaction, duplicates: readonly Duplicate[]): Promise<void> {
  await insertRows(sql, {
    table: 'duplicate_record',
    rows: [...duplicates].sort((a, b) => compareText(a.uri, b.uri)),
    returning: [],
    onConflict: `(uri) do update set cid = excluded.cid, "duplicateOf" = excluded."duplicateOf",
      "indexedAt" = excluded."indexedAt"`,
  })
}

function keyOf(rows: RowsOf, row: Returned): string {
  return JSON.stringify((rows.unique ?? []).map((column) => row[column]))
}

function urisOf(claims: readonly Claim[]): string[] {
  return claims.map(({ subject }) => subject.uri)
}
