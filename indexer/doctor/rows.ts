/**
 * Rows that are not what their records say: lost, kept by the wrong one of duplicates, left over, or
 * with columns that depend on other posts and were set by what was there at the time.
 */
import { healRecord } from '../../shared/heal.ts'
import type { Transaction } from '../../shared/postgres.ts'
import { rewriteRecords } from '../apply.ts'
import type { Collection, RowsOf } from '../collection.ts'
import type { Change } from '../derive.ts'
import { lockRepos } from '../repos.ts'
import { judge } from '../rules/judge.ts'
import { type Key, putKeys } from '../rules/keys.ts'
import { normaliseTime } from '../timestamp.ts'
import { authorOf, partsOf } from '../uri.ts'
import { quoted, type Returned } from '../write.ts'
import { type Patient, pageOf, type Walk } from './walk.ts'

interface Stored {
  uri: string
  cid: string
  indexedAt: string
  json: string
}

type Claim = Change & { came: NonNullable<Change['came']>; cid: string }

/** A walk over the records, and one over each table for rows whose record is gone. */
export function walkRows(patient: Patient): Walk[] {
  const tables = patient.apply.collections.flatMap(({ nsid, rows }) =>
    rows ? [{ nsid, rows }] : [],
  )
  return [...tables.map(({ nsid, rows }) => walkOrphans(patient, nsid, rows)), walkRecords(patient)]
}

function walkRecords({ apply }: Patient): Walk {
  return {
    name: 'rows',
    table: 'record',
    page: async (sql, { after: from, size, repair }) => {
      const place = { table: 'record', key: ['uri'], what: 't.cid, t."indexedAt", t.json', size }
      const { rows, after } = await pageOf<Stored>(sql, place, from)
      const byNsid = Map.groupBy(rows, ({ uri }) => partsOf(uri).collection)
      const wrong: Change[] = []
      for (const collection of apply.collections) {
        const claims = (byNsid.get(collection.nsid) ?? []).flatMap((row) =>
          claimOf(apply, collection, row),
        )
        if (collection.rows === undefined || claims.length === 0) continue
        wrong.push(...(await notAsTheySay(sql, collection.rows, claims)))
      }
      const misjudged = await judgedOtherwise(
        sql,
        rows.map(({ uri }) => uri),
      )
      const left: Key[] = []
      if (repair && wrong.length + misjudged.length > 0) {
        await lockRepos(sql, [], [...wrong.map(({ did }) => did), ...misjudged.map(authorOf)])
        left.push(...(await rewriteRecords(sql, apply, wrong)))
        const keys = misjudged.map((key): Key => {
          return { kind: 'post', key, after: null, depth: 0, quiet: true }
        })
        await putKeys(sql, keys)
        left.push(...keys)
      }
      return {
        after,
        seen: rows.length,
        found: { rows: wrong.length, rules: misjudged.length },
        left,
      }
    },
  }
}

function claimOf({ deriver }: Patient['apply'], collection: Collection, row: Stored): Claim[] {
  const { uri, cid, json } = row
  if (cid === '') return []
  const { authority: did, rkey } = partsOf(uri)
  const indexedAt = normaliseTime(row.indexedAt)
  const healed = JSON.stringify(healRecord(JSON.parse(json), cid))
  const came = deriver.stored(collection, { uri, did, rkey, cid, indexedAt }, healed)
  if (came === null) return []
  const { nsid } = collection
  const change = { uri, did, nsid, collection, rev: '', cid, indexedAt, came }
  return [{ ...change, isBackfilled: true, refused: null }]
}

/** The records whose row, children, or place among duplicates is another than they say. */
async function notAsTheySay(
  sql: Transaction,
  rows: RowsOf,
  claims: readonly Claim[],
): Promise<Change[]> {
  const uris = claims.map(({ uri }) => uri)
  const rowOf = new Map(
    (await rowsBy(sql, rows.table, 'uri', uris)).map((row) => [row['uri'], row]),
  )
  const waits =
    rows.unique === undefined ? new Map<string, boolean>() : await waiting(sql, rows, uris)
  const holds = new Set<string>()
  const wrong = new Set<string>()
  for (const { uri, came } of claims) {
    const stored = rowOf.get(uri)
    if (came.row !== null && stored !== undefined) holds.add(uri)
    const isRight =
      came.row === null || stored === undefined
        ? stored === undefined && (came.row === null || waits.get(uri) === true)
        : !waits.has(uri) && isSame(rows.table, came.row, stored)
    if (!isRight) wrong.add(uri)
  }
  for (const child of rows.children ?? []) {
    const childRows = Map.groupBy(
      await rowsBy(sql, child.table, child.key, uris),
      (row) => row[child.key],
    )
    for (const { uri, came } of claims) {
      const wanted = holds.has(uri)
        ? (came.children.find((one) => one.child === child)?.rows ?? [])
        : []
      const there = (childRows.get(uri) ?? []).filter(
        (row) => child.softDelete === undefined || row[child.softDelete.column] === null,
      )
      const isThere = (row: (typeof wanted)[number]) =>
        there.some((one) => isSame(child.table, row, one))
      if (there.length !== wanted.length || !wanted.every(isThere)) wrong.add(uri)
    }
  }
  return claims.filter(({ uri }) => wrong.has(uri))
}

function rowsBy(sql: Transaction, table: string, key: string, values: readonly string[]) {
  return sql.unsafe<Returned[]>(
    `select * from ${quoted(table)} where ${quoted(key)} = any($1::text[])`,
    [values as string[]],
  )
}

/** Those that wait for a row, and whether it is the right one: there, and of a lower URI. */
async function waiting(
  sql: Transaction,
  { table }: RowsOf,
  uris: readonly string[],
): Promise<Map<string, boolean>> {
  const found = await sql.unsafe<{ uri: string; right: boolean }[]>(
    `select d.uri, t.uri is not null and t.uri < d.uri collate "C" as right from duplicate_record d
     left join ${quoted(table)} t on t.uri = d."duplicateOf" where d.uri = any($1::text[])`,
    [uris as string[]],
  )
  return new Map(found.map(({ uri, right }) => [uri, right]))
}

/** When it was indexed is in the record; of a profile without a time that is its time. */
const free = new Set(['indexedAt', 'profile.createdAt'])
const isTime = /At$/

function isSame(table: string, wanted: Returned, stored: Returned): boolean {
  return Object.entries(wanted).every(([name, value]) => {
    if (free.has(name) || free.has(`${table}.${name}`)) return true
    const is = stored[name] ?? null
    if (isTime.test(name) && typeof is === 'string') return normaliseTime(is) === value
    if (typeof value === 'object' || typeof is === 'object') {
      return JSON.stringify(value) === JSON.stringify(is)
    }
    return String(value) === String(is)
  })
}

interface Marks {
  uri: string
  wrong: boolean
}

/** The posts of these whose flags are not what follows from parents and gates as they are. */
async function judgedOtherwise(sql: Transaction, uris: readonly string[]): Promise<string[]> {
  const reason = { isNew: false, decides: true, isNews: false, quiet: true, depth: 0 }
  const { judged, gates } = await judge(sql, new Map(uris.map((uri) => [uri, reason])))
  if (judged.length === 0) return []
  const marks = await sql.unsafe<Marks[]>(
    `select uri, ("hasThreadGate", "hasPostGate") is distinct from
       ((select true from thread_gate g where g."postUri" = post.uri),
        (select true from post_gate g where g."postUri" = post.uri)) as wrong
     from post where uri = any($1::text[])`,
    [judged.map(({ post }) => post.uri)],
  )
  const unmarked = new Set(marks.filter(({ wrong }) => wrong).map(({ uri }) => uri))
  return judged.flatMap(({ post, isMisplaced, isKeptOut, isForbidden }) => {
    const allow = gates.get(post.replyRoot ?? post.uri)?.allow
    // Who followed whom when it came, nobody knows: what was decided then stays.
    const asksTheGraph = allow && (allow.followers || allow.followed || allow.lists.length > 0)
    const isSo =
      (post.invalidReplyRoot === true) === isMisplaced &&
      (asksTheGraph || (post.violatesThreadGate === true) === isKeptOut) &&
      (post.violatesEmbeddingRules === true) === isForbidden &&
      !unmarked.has(post.uri)
    return isSo ? [] : [post.uri]
  })
}

/** Rows whose record is not there, or stands for a deletion. */
function walkOrphans({ apply }: Patient, nsid: string, { table }: RowsOf): Walk {
  return {
    name: `orphans of ${table}`,
    table,
    page: async (sql, { after: from, size, repair }) => {
      const what = `r.uri is null or r.cid = '' as orphan`
      const join = 'left join record r on r.uri = t.uri'
      const place = { table, key: ['uri'], what, join, size }
      const { rows, after } = await pageOf<{ uri: string; orphan: boolean }>(sql, place, from)
      const orphans = rows.filter(({ orphan }) => orphan).map(({ uri }) => uri)
      if (repair && orphans.length > 0) {
        await lockRepos(sql, [], orphans.map(authorOf))
        const gone = { collection: null, rev: '', cid: null, indexedAt: '', isBackfilled: true }
        const left = await rewriteRecords(
          sql,
          apply,
          orphans.map((uri) => {
            return { ...gone, uri, did: authorOf(uri), nsid, came: null, refused: null }
          }),
        )
        return { after, seen: rows.length, found: { orphans: orphans.length }, left }
      }
      return { after, seen: rows.length, found: { orphans: orphans.length } }
    },
  }
}
