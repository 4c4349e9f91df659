/**
 * The rows that older indexers write: the columns of our table of collections, by the semantics of
 * the reference, which knows no revs: who comes first has the row, a deletion leaves nothing behind,
 * an update is written over whatever is there. What R adds to that: deletions that stay as `{}`,
 * links as lists of numbers, CIDs of blobs that are lost, times in four forms, no accounts, revs.
 *
 * Simplified: rules of gates are not asked (only the marks on posts are set), nobody is told of
 * replies, mentions and quotes, an account that ends keeps its rows.
 */
import type { Sql } from 'postgres'
import type { Collection, Row, RowsOf } from '../../../indexer/collection.ts'
import { collections } from '../../../indexer/collections/index.ts'
import { type Came, createDeriver } from '../../../indexer/derive.ts'
import { compileLexicons } from '../../../indexer/lexicons.ts'
import { notificationsOf } from '../../../indexer/notifications.ts'
import { deleteRows, insertRows, quoted } from '../../../indexer/write.ts'
import { decodeEvent, isBackfill, type RecordEvent } from '../../../shared/events.ts'
import type { Identity } from '../../../shared/identity.ts'
import type { Transaction } from '../../../shared/postgres.ts'
import type { Family, Json } from './family.ts'

export interface RowsOptions {
  family: Family
  /** With the search path of the schema. */
  sql: Sql
  identity: Identity
}

export interface Rows {
  apply: (event: Json & { type: string }) => Promise<void>
}

const post = 'app.bsky.feed.post'
const keyOf = { post_agg: 'uri', profile_agg: 'did' } as const

export async function createRows({ family, sql, identity }: RowsOptions): Promise<Rows> {
  const names = collections.map(({ nsid }) => nsid)
  const deriver = createDeriver(collections, await compileLexicons(names))
  const byNsid = new Map(collections.map((collection) => [collection.nsid, collection]))
  let events = 0

  /** As R's libraries have it: by turns. */
  const timeForm = (time: string) => {
    if (family === 'T') return time
    const plain = time.replace('Z', '')
    const forms = [
      `${plain.replace('T', ' ')} UTC`,
      `${plain}456+00:00`,
      `${plain}Z`,
      `${plain}+00:00`,
    ]
    return forms[events % forms.length] ?? time
  }

  const put = async (event: RecordEvent & { cid: string }, text: Json) => {
    const collection = byNsid.get(event.collection)
    if (collection === undefined) return
    const change = deriver.change(event as never)
    const written = change.came
    if (written === null) return
    const { uri, did, cid, rev } = change
    const indexedAt = timeForm(event.time)
    const json = family === 'T' ? written.json : JSON.stringify(text['record'])
    await sql.begin(async (tx) => {
      const known = await tx.unsafe(`select cid from record where uri = $1`, [uri])
      const isHere = known.length > 0 && known[0]?.['cid'] !== ''
      if (event.type === 'create' && isHere && family === 'T') return
      if (isHere) await remove(tx, collection, uri)
      await tx.unsafe(
        family === 'T'
          ? `insert into record (uri, cid, did, json, "indexedAt") values ($1, $2, $3, $4, $5)
             on conflict (uri) do ${event.type === 'create' ? 'nothing' : 'update set cid = $2, json = $4, "indexedAt" = $5'}`
          : `insert into record (uri, cid, did, json, "indexedAt", rev) values ($1, $2, $3, $4, $5, $6)
             on conflict (uri) do update set cid = $2, json = $4, "indexedAt" = $5, rev = $6`,
        family === 'T' ? [uri, cid, did, json, indexedAt] : [uri, cid, did, json, indexedAt, rev],
      )
      const came = family === 'T' ? written : spoilt(written, indexedAt)
      await add(tx, collection, uri, came)
      if (collection.rows && came.row && !isBackfill(event))
        await tell(tx, collection.rows, came.row)
    })
  }

  /** Every third blob is lost, and times stand as they came. */
  const spoilt = (came: Came, indexedAt: string): Came => {
    const lose = events % 3 === 0
    const spoil = (row: Row): Row =>
      Object.fromEntries(
        Object.entries(row).map(([name, value]) => {
          if (lose && /^(avatar|banner|thumb)Cid$/.test(name)) return [name, null]
          return [name, name === 'indexedAt' ? indexedAt : value]
        }),
      )
    return {
      ...came,
      row: came.row && spoil(came.row),
      children: came.children.map(({ child, rows }) => ({ child, rows: rows.map(spoil) })),
    }
  }

  const add = async (tx: Transaction, { rows }: Collection, uri: string, came: Came) => {
    if (rows === undefined || came.row === null) return
    const { table, json } = rows
    const inserted = await insertRows(tx, { table, rows: [came.row], ...(json && { json }) })
    if (inserted.length === 0) return wait(tx, rows, uri, came.row)
    for (const { child, rows: children } of came.children) {
      await insertRows(tx, { table: child.table, rows: children, returning: [] })
    }
    if (table === 'post' && family === 'T') await place(tx, came.row)
    if (/_gate$/.test(table)) await mark(tx, table, came.row, true)
    await recount(tx, rows, came.row)
    for (const { child, rows: children } of came.children) {
      for (const row of children) await recount(tx, child, row)
    }
  }

  /** Who comes second waits; R forgets him. */
  const wait = async (tx: Transaction, { table, unique }: RowsOf, uri: string, row: Row) => {
    if (unique === undefined || family === 'R') return
    const same = unique.map((column, at) => `${quoted(column)} = $${at + 1}`).join(' and ')
    const values = unique.map((column) => String(row[column]))
    const [holder] = await tx.unsafe(`select uri from ${quoted(table)} where ${same}`, values)
    if (holder === undefined || holder['uri'] === uri) return
    await tx.unsafe(
      `insert into duplicate_record (uri, cid, "duplicateOf", "indexedAt") values ($1, $2, $3, $4)
       on conflict do nothing`,
      [uri, String(row['cid']), holder['uri'], String(row['indexedAt'])],
    )
  }

  /** Decided once, by what is there now. */
  const place = async (tx: Transaction, row: Row) => {
    const { uri, replyParent, replyRoot } = row as Record<string, string | null>
    if (replyParent == null) return
    const [parent] = await tx.unsafe(
      `select "replyRoot" as root, "invalidReplyRoot" as invalid from post where uri = $1`,
      [replyParent],
    )
    const root = parent?.['root'] ?? replyParent
    if (parent && parent['invalid'] !== true && root === replyRoot) return
    await tx.unsafe(
      `update post set "invalidReplyRoot" = true, "violatesThreadGate" = false where uri = $1`,
      [uri ?? ''],
    )
  }

  const mark = async (tx: Transaction, table: string, row: Row, is: boolean) => {
    const column = table === 'thread_gate' ? 'hasThreadGate' : 'hasPostGate'
    await tx.unsafe(`update post set ${quoted(column)} = $2::text::boolean where uri = $1`, [
      String(row['postUri']),
      String(is),
    ])
  }

  const recount = async (
    tx: Transaction,
    { table, counts = [] }: Pick<RowsOf, 'table' | 'counts'>,
    row: Row,
  ) => {
    // R's counting fails where its pool is empty, and nobody counts again.
    if (family === 'R' && events % 3 === 1) return
    for (const { table: agg, column, key, unless } of counts) {
      const value = row[key]
      if (typeof value !== 'string') continue
      const counted = `(select count(*) from ${quoted(table)} where ${quoted(key)} = $1::text
        ${unless === undefined ? '' : `and ${quoted(unless)} is not true`})`
      await tx.unsafe(
        `insert into ${agg} (${keyOf[agg]}, ${quoted(column)}) values ($1::text, ${counted})
         on conflict (${keyOf[agg]}) do update set ${quoted(column)} = excluded.${quoted(column)}`,
        [value],
      )
    }
  }

  const tell = async (tx: Transaction, { notify = [] }: RowsOf, row: Row) => {
    for (const {
      did,
      author,
      reason,
      reasonSubject,
      recordUri,
      recordCid,
      sortAt,
    } of notificationsOf(row, notify)) {
      const columns = [did, author, reason, reasonSubject, recordUri, recordCid, sortAt]
      // R tells twice what it reads twice, and it reads much twice.
      for (let times = 0; times < (family === 'R' ? 2 : 1); times += 1) {
        await tx.unsafe(
          `insert into notification (did, author, reason, "reasonSubject", "recordUri", "recordCid", "sortAt")
           values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing`,
          columns,
        )
      }
    }
  }

  const remove = async (tx: Transaction, { rows, nsid }: Collection, uri: string) => {
    if (rows === undefined) return
    const [row] = (await deleteRows(tx, rows.table, 'uri', [uri], '*')) as Row[]
    await deleteRows(tx, 'duplicate_record', 'uri', [uri])
    if (row === undefined) return
    for (const { table, key, softDelete, counts } of rows.children ?? []) {
      if (softDelete !== undefined) {
        await tx.unsafe(
          `update ${quoted(table)} set ${quoted(softDelete.column)} = $2 where ${quoted(key)} = $1`,
          [uri, new Date().toISOString()],
        )
        continue
      }
      const gone = (await deleteRows(tx, table, key, [uri], '*')) as Row[]
      for (const child of gone) await recount(tx, { table, ...(counts && { counts }) }, child)
    }
    if (nsid === post) {
      await deleteRows(tx, 'feed_item', 'postUri', [uri])
      await deleteRows(tx, 'quote', 'subject', [uri])
    }
    if (/_gate$/.test(rows.table)) await mark(tx, rows.table, row, false)
    await deleteRows(tx, 'notification', 'recordUri', [uri])
    await recount(tx, rows, row)
  }

  const take = async (event: RecordEvent, uri: string) => {
    const collection = byNsid.get(event.collection)
    if (collection === undefined) return
    await sql.begin(async (tx) => {
      await remove(tx, collection, uri)
      if (family === 'R') {
        await tx.unsafe(
          `update record set cid = '', json = '{}', rev = $2, "indexedAt" = $3 where uri = $1`,
          [uri, event.rev, timeForm(event.time)],
        )
        return
      }
      await deleteRows(tx, 'record', 'uri', [uri])
      await promote(tx, collection, uri)
    })
  }

  /** The oldest of those who wait, with what its record says. */
  const promote = async (tx: Transaction, collection: Collection, uri: string) => {
    const [next] = await tx.unsafe(
      `select d.uri, r.cid, r.json, d."indexedAt" from duplicate_record d join record r on r.uri = d.uri
       where d."duplicateOf" = $1 order by d."indexedAt" limit 1`,
      [uri],
    )
    if (next === undefined) return
    const [, , did = '', , rkey = ''] = String(next['uri']).split('/')
    const subject = { uri: next['uri'], cid: next['cid'], indexedAt: next['indexedAt'], did, rkey }
    await deleteRows(tx, 'duplicate_record', 'uri', [next['uri']])
    const came = deriver.stored(collection, subject, next['json'])
    if (came !== null) await add(tx, collection, next['uri'], came)
    await tx.unsafe('update duplicate_record set "duplicateOf" = $1 where "duplicateOf" = $2', [
      next['uri'],
      uri,
    ])
  }

  /** T knows every account that it hears of; R those that are told of. */
  const meet = async (did: string, time: string, again: boolean) => {
    const [known] = await sql.unsafe('select handle from actor where did = $1', [did])
    if (known !== undefined && !again) return
    const { handle } = await identity
      .resolve(did, { refresh: again })
      .catch(() => ({ handle: null }))
    const holder = handle === null ? null : await identity.resolveHandle(handle).catch(() => null)
    const own = holder === did ? handle : null
    // Another indexer may have given it away at the same moment: then it has none, until it is met again.
    await setHandle(did, own, time).catch(() => setHandle(did, null, time))
  }

  const setHandle = async (did: string, own: string | null, time: string) => {
    await sql.unsafe('update actor set handle = null where handle = $1 and did <> $2', [own, did])
    await sql.unsafe(
      `insert into actor (did, handle, "indexedAt") values ($1, $2, $3)
       on conflict (did) do update set handle = $2, "indexedAt" = $3`,
      [did, own, timeForm(time)],
    )
  }

  const seen = (did: string, commit: string, rev: string) =>
    sql.unsafe(
      `insert into actor_sync (did, "commitCid", "repoRev") values ($1, $2, $3)
       on conflict (did) do update set "commitCid" = $2, "repoRev" = $3`,
      [did, commit, rev],
    )

  return {
    async apply(json) {
      events += 1
      const event = decodeEvent(['event', JSON.stringify(json)])
      const { did, time } = event
      if (family === 'T' || event.type === 'account' || event.type === 'identity') {
        await meet(did, time, event.type === 'identity')
      }
      switch (event.type) {
        case 'account':
          await sql.unsafe('update actor set "upstreamStatus" = $2 where did = $1', [
            did,
            event.active ? null : event.status,
          ])
          return
        case 'identity':
          return
        case 'repo':
          await seen(did, event.commit, event.rev)
          return
        case 'delete':
          await take(event, `at://${did}/${event.collection}/${event.rkey}`)
          await seen(did, event.commit, event.rev)
          return
        case 'create':
        case 'update':
          await put(event, json)
          await seen(did, event.commit, event.rev)
      }
    },
  }
}
