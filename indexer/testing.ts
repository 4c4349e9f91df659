/** For the indexer's tests: builders of events, an indexer on a test database, and a look at its tables. */
import { pino } from 'pino'
import type { DeleteEvent, Event, PutEvent, RepoEvent } from '../shared/events.ts'
import { connectPostgres, inTransaction, type Sql } from '../shared/postgres.ts'
import { encodeCbor, fromLexJson } from '../shared/repo/cbor.ts'
import { cidOf } from '../shared/repo/cid.ts'
import { scopeOf } from '../shared/scope.ts'
import { testDatabase } from '../test/servers/postgres.ts'
import { type Apply, type ApplyOptions, createApply } from './apply.ts'
import { collections } from './collections/index.ts'
import { createDeriver } from './derive.ts'
import { compileLexicons } from './lexicons.ts'
import { readKeys } from './rules/keys.ts'
import { type RulePoint, reconcile } from './rules/reconcile.ts'

const base32 = '234567abcdefghijklmnopqrstuvwxyz'
export const someTime = '2026-01-02T03:04:05.678Z'
const createdAt = '2026-01-01T00:00:00.000Z'

/** The TID number `n`: valid, and in the order of the numbers. */
export function tid(n: number): string {
  let text = ''
  for (let rest = n; text.length < 10; rest = Math.floor(rest / 32)) text = base32[rest % 32] + text
  return `3kz${text}`
}

/** The account number `n`. */
export function did(n: number | string): string {
  return `did:plc:${String(n).padEnd(24, 'a')}`
}

export interface At {
  by: string
  /** The number of the rev. */
  rev: number
  rkey?: string
  time?: string
  update?: boolean
}

/** A create (or update) of any record. */
export function aRecord(collection: string, record: Record<string, unknown>, at: At): PutEvent {
  const { by, rev, rkey = tid(rev), time = someTime, update = false } = at
  const whole = { $type: collection, ...record }
  return {
    type: update ? 'update' : 'create',
    seq: rev,
    time,
    did: by,
    commit: cidOf(encodeCbor(`commit ${by} ${rev}`)),
    rev: tid(rev),
    collection,
    rkey,
    cid: cidOf(encodeCbor(fromLexJson(whole))),
    record: whole,
  }
}

export function aPost(at: At, record: Record<string, unknown> = {}): PutEvent {
  return aRecord('app.bsky.feed.post', { text: 'hello', createdAt, ...record }, at)
}

/** A reference to a record as records hold it. */
export function refTo(event: PutEvent): { uri: string; cid: string } {
  return { uri: uri(event), cid: event.cid }
}

export function aLike(at: At & { of: { uri: string; cid: string } }): PutEvent {
  return aRecord('app.bsky.feed.like', { subject: at.of, createdAt }, at)
}

export function aRepost(at: At & { of: { uri: string; cid: string } }): PutEvent {
  return aRecord('app.bsky.feed.repost', { subject: at.of, createdAt }, at)
}

export function aFollow(at: At & { of: string }): PutEvent {
  return aRecord('app.bsky.graph.follow', { subject: at.of, createdAt }, at)
}

export function aBlock(at: At & { of: string }): PutEvent {
  return aRecord('app.bsky.graph.block', { subject: at.of, createdAt }, at)
}

export function aListItem(at: At & { of: string; list: string }): PutEvent {
  return aRecord('app.bsky.graph.listitem', { subject: at.of, list: at.list, createdAt }, at)
}

export function aProfile(at: At, record: Record<string, unknown> = {}): PutEvent {
  return aRecord('app.bsky.actor.profile', record, { rkey: 'self', ...at })
}

/** An answer to one post in the thread of another. */
export function aReply(
  at: At & { to: PutEvent; root?: PutEvent },
  record: Record<string, unknown> = {},
): PutEvent {
  const { to, root = to } = at
  return aPost(at, { reply: { root: refTo(root), parent: refTo(to) }, ...record })
}

export function aQuote(at: At & { of: PutEvent }, record: Record<string, unknown> = {}): PutEvent {
  return aPost(at, { embed: { $type: 'app.bsky.embed.record', record: refTo(at.of) }, ...record })
}

/** Text that mentions accounts. */
export function mentioning(...dids: readonly string[]): Record<string, unknown> {
  const features = dids.map((did) => ({ $type: 'app.bsky.richtext.facet#mention', did }))
  return { facets: [{ index: { byteStart: 0, byteEnd: 1 }, features }] }
}

/** The gate of a thread; without rules everybody may reply. */
export function aThreadGate(
  at: Omit<At, 'by' | 'rkey'> & { of: PutEvent; allow?: readonly object[]; hidden?: string[] },
): PutEvent {
  const { of, allow, hidden, ...rest } = at
  const record = {
    post: uri(of),
    createdAt,
    ...(allow ? { allow } : {}),
    ...(hidden ? { hiddenReplies: hidden } : {}),
  }
  return aRecord('app.bsky.feed.threadgate', record, { ...rest, by: of.did, rkey: of.rkey })
}

export function aThreadRule(name: string, list?: string): object {
  return { $type: `app.bsky.feed.threadgate#${name}Rule`, ...(list ? { list } : {}) }
}

/** The gate of those who quote a post. */
export function aPostGate(
  at: Omit<At, 'by' | 'rkey'> & { of: PutEvent; open?: boolean },
): PutEvent {
  const { of, open = false, ...rest } = at
  const rules = open ? [] : [{ $type: 'app.bsky.feed.postgate#disableRule' }]
  const record = { post: uri(of), createdAt, embeddingRules: rules }
  return aRecord('app.bsky.feed.postgate', record, { ...rest, by: of.did, rkey: of.rkey })
}

export function aVerification(at: At & { of: string }): PutEvent {
  const claimed = { handle: 'a.example', displayName: 'A' }
  return aRecord('app.bsky.graph.verification', { subject: at.of, ...claimed, createdAt }, at)
}

/** The deletion of what an event created. */
export function aDeleteOf(event: PutEvent, rev: number): DeleteEvent {
  const { did: by, collection, rkey, time } = event
  const commit = cidOf(encodeCbor(`commit ${by} ${rev}`))
  return { type: 'delete', seq: rev, time, did: by, commit, rev: tid(rev), collection, rkey }
}

/** The events of a whole snapshot: its records, all at the rev of the snapshot, and its end. */
export function aSnapshot(
  by: string,
  rev: number,
  records: readonly PutEvent[],
  scope: readonly string[] = ['*'],
): { records: PutEvent[]; complete: RepoEvent } {
  const head = {
    seq: -1,
    time: someTime,
    did: by,
    commit: cidOf(encodeCbor(`commit ${by} ${rev}`)),
    rev: tid(rev),
  }
  const collections: Record<string, number> = {}
  for (const { collection } of records) collections[collection] = (collections[collection] ?? 0) + 1
  return {
    records: records.map((event) => ({ ...event, ...head, type: 'create' })),
    complete: { type: 'repo', ...head, complete: { records: records.length, scope, collections } },
  }
}

export function uri(event: { did: string; collection: string; rkey: string }): string {
  return `at://${event.did}/${event.collection}/${event.rkey}`
}

export interface TestIndexer extends AsyncDisposable {
  options: ApplyOptions
  apply: Apply
  /** Another one on the same database, with other options. */
  applyWith: (options: Partial<ApplyOptions>) => Apply
  /** Applies each event in a transaction of its own. */
  applyEach: (events: readonly Event[]) => Promise<void>
  /** Does what is left to the rules. */
  settle: (probe?: (point: RulePoint) => Promise<void>) => Promise<void>
  sql: Sql
  url: string
}

const validate = await compileLexicons(collections.map(({ nsid }) => nsid))

/** The applying engine on a migrated database of its own. */
export async function testIndexer(options: Partial<ApplyOptions> = {}): Promise<TestIndexer> {
  const database = await testDatabase()
  const log = pino({ level: 'silent' })
  const sql = connectPostgres({ databaseUrl: database.url, poolSize: 6, log })
  const whole: ApplyOptions = {
    sql,
    schema: database.schema,
    collections,
    deriver: createDeriver(collections, validate),
    scope: scopeOf(collections.map(({ nsid }) => nsid)),
    statementTimeoutMs: 20_000,
    handles: false,
    ...options,
  }
  const applyWith = (more: Partial<ApplyOptions>) => createApply({ ...whole, ...more })
  const rules = { ...whole, probe: async () => {} }
  const settle: TestIndexer['settle'] = async (probe) => {
    for (;;) {
      const keys = await inTransaction(sql, whole, (tx) => readKeys(tx, null, 50))
      if (keys.length === 0) return
      await reconcile(probe ? { ...rules, probe } : rules, keys)
    }
  }
  const applyOnce = applyWith({})
  const apply: Apply = async (events) => {
    const applied = await applyOnce(events)
    if (applied.left.length > 0) await settle()
    return applied
  }
  return {
    options: whole,
    apply,
    applyWith,
    settle,
    applyEach: async (events) => {
      for (const event of events) await apply([event])
    },
    sql: database.sql as unknown as Sql,
    url: database.url,
    [Symbol.asyncDispose]: async () => {
      await sql[Symbol.asyncDispose]()
      await database[Symbol.asyncDispose]()
    },
  }
}

/** All tables that the indexer writes. */
export const tables = [
  'record',
  'record_tombstone',
  'duplicate_record',
  'repo_sync',
  'actor',
  'actor_sync',
  'account_event',
  'label',
  'post_agg',
  'profile_agg',
  'notification',
  ...collections.flatMap(({ rows }) =>
    rows === undefined ? [] : [rows.table, ...(rows.children ?? []).map(({ table }) => table)],
  ),
].filter((table, index, all) => all.indexOf(table) === index)

/** What depends on when something arrived, and not on what it says. */
const momentary = ['indexedAt', 'deletedAt', 'snapshotAt', 'id']

/**
 * Every row of every table as text, sorted, without what depends on the moment or on what was there
 * before (`docs/differences.md`). Counters that are all zero count as absent: a row stays where
 * something was counted once.
 */
export async function dump(sql: Sql, only = ''): Promise<string[]> {
  const lines: string[] = []
  const parts = tables.map(
    (table) =>
      `select '${table}' as "table", to_jsonb(t) as row from "${table}" t where t::text like $1`,
  )
  const rows = await sql.unsafe(parts.join(' union all '), [`%${only}%`])
  const posts = rows.filter(({ table }) => table === 'post').map(({ row }) => row as PostRow)
  const loose = looseReplies(posts)
  const uncounted = new Set(posts.filter(({ uri }) => loose.has(uri)).map((p) => p.replyParent))
  for (const { table, row } of rows) {
    // What was softly deleted depends on whether it was ever seen.
    if (table === 'op_thread_reply' && row.deletedAt !== null) continue
    if (table === 'notification' && /verified$/.test(row.reason)) continue
    if (table === 'notification' && row.reason === 'reply' && loose.has(row.recordUri)) continue
    if (table === 'post' && loose.has(row.uri)) {
      delete row.invalidReplyRoot
      delete row.violatesThreadGate
    }
    if (table === 'post_agg' && uncounted.has(row.uri)) row.replyCount = 0
    for (const column of momentary) delete row[column]
    const isAggregate = table.endsWith('_agg')
    if (isAggregate && Object.values(row).every((value) => value === 0 || isText(value))) continue
    lines.push(`${table} ${JSON.stringify(row)}`)
  }
  return lines.sort()
}

interface PostRow {
  uri: string
  replyRoot: string | null
  replyParent: string | null
}

/** The replies above which something is gone: what was judged while it was there stays. */
function looseReplies(posts: readonly PostRow[]): ReadonlySet<string> {
  const byUri = new Map(posts.map((post) => [post.uri, post]))
  const isLoose = ({ replyRoot, replyParent }: PostRow, left = 50): boolean => {
    if (replyRoot === null || replyParent === null) return false
    const parent = byUri.get(replyParent)
    if (parent === undefined || !byUri.has(replyRoot)) return true
    return left === 0 || isLoose(parent, left - 1)
  }
  return new Set(posts.filter((post) => isLoose(post)).map(({ uri }) => uri))
}

const isText = (value: unknown) => typeof value === 'string'

const counters = [
  ['post_agg', 'uri', 'likeCount', 'select subject as key from "like"'],
  ['post_agg', 'uri', 'repostCount', 'select subject as key from repost'],
  [
    ...(['post_agg', 'uri', 'replyCount'] as const),
    'select "replyParent" as key from post where "violatesThreadGate" is not true',
  ],
  ['post_agg', 'uri', 'quoteCount', 'select subject as key from quote'],
  ['profile_agg', 'did', 'postsCount', 'select creator as key from post'],
  ['profile_agg', 'did', 'followsCount', 'select creator as key from follow'],
  ['profile_agg', 'did', 'followersCount', 'select "subjectDid" as key from follow'],
] as const

/** The counters that differ from a recount of the rows; none when all is well. */
export async function miscounts(sql: Sql): Promise<string[]> {
  const wrong: string[] = []
  for (const [table, key, column, rows] of counters) {
    const found = await sql.unsafe(
      `select coalesce(a."${key}", c.key) as key, coalesce(a."${column}", 0) as counted,
         coalesce(c.n, 0) as recounted
       from ${table} a full join
         (select key, count(*) as n from (${rows}) k where key is not null group by key) c
         on a."${key}" = c.key
       where coalesce(a."${column}", 0) <> coalesce(c.n, 0)`,
    )
    for (const row of found) wrong.push(`${column} ${JSON.stringify(row)}`)
  }
  return wrong
}
