/**
 * What must be in every table that the indexer writes, computed from what exists in the simulated
 * network. It follows the contract with the AppView and shares no code with the indexer: where the
 * two disagree, one of them is wrong.
 */
import type { Account, ExpectedRecord } from './account.ts'
import { claimedHandle } from './documents.ts'
import type { Label } from './labeler.ts'
import type { AccountState, Heard } from './model/heard.ts'
import { notificationsOf } from './model/notifications.ts'
import { isStored, jsonOf, oneRowOf, type Row, rowsOf, storedCollections } from './model/records.ts'
import { type Threads, threadsOf } from './model/threads.ts'
import type { Network } from './network.ts'

/** What the workers of a database had to go by. */
export interface Sources {
  /** What the relays that were followed were told; of a database fed by no relay, nothing. */
  heard: Heard
  /**
   * The accounts whose repos were asked for, with the rev each had then at least. Others may have
   * been fetched as well; without this no backfiller was there.
   */
  fetched?: ReadonlyMap<string, string>
  /** Whether the network's labeler was followed; default true. */
  labels?: boolean
}

/** The truth about a network at one moment. */
export interface Facts {
  records: readonly ExpectedRecord[]
  accounts: readonly AccountFact[]
  heard: Pick<Heard, 'commits' | 'revs' | 'deletions' | 'identities'> & {
    accounts: ReadonlyMap<string, AccountState>
  }
  fetched: ReadonlyMap<string, string> | null
  labels: readonly Omit<Label, 'sig'>[]
}

export interface AccountFact {
  did: string
  /** The handle that its document claims and that leads back to it, or null. */
  handle: string | null
  rev: string | null
  /** The CID of its newest commit. */
  head: string | null
}

/** What only the run decides, and the model therefore takes from the rows. */
export interface Observed {
  /** When each record was indexed, by URI: the column of its `record` row. */
  indexedAt: ReadonlyMap<string, string>
  /** The rev at which a backfill found each repo, by DID. */
  snapshotRev: ReadonlyMap<string, string>
}

/** Rows by table; a table without rows is there too. */
export type Tables = ReadonlyMap<string, readonly Row[]>

export interface Model {
  tables(observed: Observed): Tables
  /** Whether a row is there or not depends on what was there before. */
  isFree(table: string, row: Row): boolean
}

/** The key of every table in the model. */
export const keys: Readonly<Record<string, readonly string[]>> = {
  record: ['uri'],
  record_tombstone: ['uri'],
  duplicate_record: ['uri'],
  post: ['uri'],
  post_embed_image: ['postUri', 'position'],
  post_embed_gallery_image: ['postUri', 'position'],
  post_embed_external: ['postUri'],
  post_embed_video: ['postUri'],
  post_embed_record: ['postUri', 'embedUri'],
  quote: ['uri'],
  feed_item: ['uri'],
  op_thread_reply: ['rootUri', 'uri'],
  like: ['uri'],
  repost: ['uri'],
  thread_gate: ['uri'],
  post_gate: ['uri'],
  feed_generator: ['uri'],
  follow: ['uri'],
  actor_block: ['uri'],
  list: ['uri'],
  list_item: ['uri'],
  list_block: ['uri'],
  reference_list_opt_out: ['uri'],
  starter_pack: ['uri'],
  verification: ['uri'],
  profile: ['uri'],
  labeler: ['uri'],
  label: ['src', 'uri', 'cid', 'val'],
  post_agg: ['uri'],
  profile_agg: ['did'],
  actor: ['did'],
  actor_sync: ['did'],
  repo_sync: ['did'],
  account_event: ['did', 'type'],
  notification: ['did', 'recordUri', 'reason'],
}

/** The model of the network as it is now; what happens later does not change it. */
export function createModel(network: Network, sources: Sources): Model {
  const { heard, fetched = null, labels = true } = sources
  const accounts = [...network.accounts.values()]
  return modelOf({
    records: accounts.flatMap((account) => [...account.records().values()]),
    accounts: accounts.map((account) => accountFact(network, account)),
    heard: {
      commits: new Map(heard.commits),
      revs: new Map(heard.revs),
      deletions: new Map(heard.deletions),
      accounts: new Map(heard.accounts),
      identities: new Set(heard.identities),
    },
    fetched: fetched && new Map(fetched),
    labels: labels ? [...network.labeler.labels] : [],
  })
}

function accountFact({ directory }: Network, { did, rev, head }: Account): AccountFact {
  const document = directory.document(did)
  const claimed = document ? claimedHandle(document) : null
  const leadsBack = claimed !== null && directory.resolveHandle(claimed) === did
  return { did, rev, head, handle: leadsBack ? claimed.toLowerCase() : null }
}

/** The model of a list of facts. */
export function modelOf(facts: Facts): Model {
  let threads = threadsOf([], nothing)
  return {
    tables({ indexedAt, snapshotRev }) {
      const observed = { indexedAt, snapshotRev: facts.fetched === null ? nothing : snapshotRev }
      const tables = new Map<string, Row[]>(Object.keys(keys).map((table) => [table, []]))
      const add = (table: string, row: Row) => void tables.get(table)?.push(row)
      const held = addRecords(facts, observed, add)
      threads = threadsOf(
        [...held.values()].map(({ fact }) => fact),
        sortAtsOf(tables),
      )
      for (const row of tables.get('post') ?? []) {
        Object.assign(row, threads.columnsOf(String(row['uri'])))
      }
      if (facts.fetched === null) {
        for (const { fact, row } of held.values())
          for (const told of notificationsOf(fact, row, threads)) add('notification', told)
      }
      addCounts(tables, threads, add)
      addRepos(facts, observed, add)
      addAccounts(facts, observed, add)
      addLabels(facts, add)
      return tables
    },
    isFree(table, { reason, recordUri }) {
      if (table !== 'notification') return false
      // Nobody is told of what a backfill found first.
      if (facts.fetched !== null && facts.heard.commits.size > 0) return true
      // Who was verified and unverified how often is not told by what is there.
      if (reason === 'verified' || reason === 'unverified') return true
      return reason === 'reply' && threads.isLoose(String(recordUri))
    },
  }
}

function sortAtsOf(tables: Tables): Map<string, string> {
  return new Map(
    (tables.get('post') ?? []).map((row) => [String(row['uri']), String(row['sortAt'])]),
  )
}

const nothing: ReadonlyMap<string, string> = new Map()

type Add = (table: string, row: Row) => void

/** A record that has a row in its collection's table. */
interface Held {
  fact: ExpectedRecord
  row: Row
}

/**
 * `record`, the tables of the collections, duplicates, and what remains of the deleted. Returns the
 * records that have a row.
 */
function addRecords(
  facts: Facts,
  { indexedAt, snapshotRev }: Observed,
  add: Add,
): Map<string, Held> {
  const held = new Map<string, Held>()
  const tombstones = new Map<string, { did: string; rev: string }>()
  for (const [uri, rev] of facts.heard.deletions) {
    const [, , did = '', collection = ''] = uri.split('/')
    // A snapshot tells of all that is older, so that nothing more need be remembered.
    const isCovered = rev < (snapshotRev.get(did) ?? '')
    if (storedCollections.has(collection) && !isCovered) tombstones.set(uri, { did, rev })
  }

  const holders = new Map<string, string>()
  // In the order of URIs: of duplicates the lowest is met first.
  for (const fact of [...facts.records].sort((a, b) => compare(uriOf(a), uriOf(b)))) {
    const { did, collection, cid, record } = fact
    const uri = uriOf(fact)
    const snapshot = snapshotRev.get(did) ?? ''
    const isKnown = facts.heard.commits.has(`${did} ${fact.rev}`) || fact.rev <= snapshot
    if (!storedCollections.has(collection) || !isKnown) continue
    // The snapshot confirms what it contains.
    const rev = fact.rev > snapshot ? fact.rev : snapshot
    if (!isStored(fact)) {
      tombstones.set(uri, { did, rev })
      continue
    }
    tombstones.delete(uri)
    const time = indexedAt.get(uri) ?? 'unknown'
    add('record', { uri, cid, did, json: jsonOf(record), indexedAt: time, rev })

    const [own, ...others] = rowsOf(fact, time)
    if (own === undefined) continue
    const [table, row] = own
    const unique = oneRowOf[table]?.map((column) => row[column])
    const place = unique === undefined ? uri : JSON.stringify([table, ...unique])
    const holder = holders.get(place)
    if (holder !== undefined) {
      add('duplicate_record', { uri, cid, duplicateOf: holder, indexedAt: time })
      continue
    }
    holders.set(place, uri)
    held.set(uri, { fact, row })
    for (const [table, row] of [own, ...others]) add(table, row)
  }
  for (const [uri, { did, rev }] of tombstones) add('record_tombstone', { uri, did, rev })
  return held
}

/** The counters: nothing but the number of rows. */
function addCounts(
  tables: ReadonlyMap<string, readonly Row[]>,
  { replied, repliesOf }: Threads,
  add: Add,
): void {
  const count = (table: string, by: string) => {
    const counts = new Map<string, number>()
    for (const row of tables.get(table) ?? []) {
      const key = row[by]
      if (typeof key === 'string') counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    return counts
  }
  const addAll = (table: string, key: string, columns: Record<string, Map<string, unknown>>) => {
    const counted = new Set(Object.values(columns).flatMap((counts) => [...counts.keys()]))
    for (const value of counted) {
      const counters = Object.entries(columns).map(([name, counts]) => [name, counts.get(value)])
      const row = Object.fromEntries(counters.map(([name, number]) => [name, number ?? 0]))
      add(table, { [key]: value, ...row })
    }
  }
  addAll('post_agg', 'uri', {
    likeCount: count('like', 'subject'),
    repostCount: count('repost', 'subject'),
    // Those that their gate keeps out do not count.
    replyCount: new Map(replied.map((uri) => [uri, repliesOf(uri)])),
    quoteCount: count('quote', 'subject'),
    // Bookmarks are bsync's business.
    bookmarkCount: new Map(),
  })
  addAll('profile_agg', 'did', {
    followersCount: count('follow', 'subjectDid'),
    followsCount: count('follow', 'creator'),
    postsCount: count('post', 'creator'),
  })
}

/** `actor_sync` and `repo_sync`: the newest commit of each repo that was heard or fetched. */
function addRepos({ accounts, heard, fetched }: Facts, { snapshotRev }: Observed, add: Add): void {
  for (const { did, rev: newest, head } of accounts) {
    const snapshot = snapshotRev.get(did) ?? null
    const rev = later(heard.revs.get(did) ?? null, snapshot)
    const asked = fetched?.get(did)
    // A repo that was asked for was found as it was then, or later.
    const isLate = asked !== undefined && (snapshot === null || snapshot < asked)
    const found = isLate ? `${asked} or later` : snapshot
    if (rev === null && found === null) continue
    const commitCid = heard.commits.get(`${did} ${rev}`) ?? (rev === newest ? head : 'unknown')
    add('actor_sync', { did, commitCid, repoRev: rev })
    const account = heard.accounts.get(did)
    const status = account === undefined || account.active ? null : (account.status ?? 'inactive')
    add('repo_sync', { did, rev, snapshotRev: found, status })
  }
}

/** `actor` and `account_event`: whoever was heard of or fetched, and what was said last. */
function addAccounts({ accounts, heard, fetched }: Facts, observed: Observed, add: Add): void {
  for (const { did, handle } of accounts) {
    const account = heard.accounts.get(did)
    const hasEvents = account !== undefined || heard.identities.has(did) || heard.revs.has(did)
    const wasFetched = fetched?.has(did) || observed.snapshotRev.has(did)
    if (!hasEvents && !wasFetched) continue
    const upstreamStatus = account === undefined ? null : hidingStatus(account)
    add('actor', { did, handle, upstreamStatus, trustedVerifier: false })
    if (heard.identities.has(did)) add('account_event', { did, type: 'identity', host: '' })
    if (account === undefined) continue
    const { active, status } = account
    add('account_event', { did, type: 'account', host: '', active, status })
  }
}

/** What hides an account from readers; null while they may see it. */
function hidingStatus({ active, status }: AccountState): string | null {
  if (active) return null
  switch (status) {
    case 'deactivated':
    case 'suspended':
    case 'takendown':
      return status
    case 'desynchronized':
    case 'throttled':
      return null
    default:
      return 'deactivated'
  }
}

/** The newest statement about each value on each subject: by time, negation, expiry. */
function addLabels({ labels }: Facts, add: Add): void {
  const newest = new Map<string, Row>()
  for (const { src, uri, cid = '', val, neg = false, cts, exp } of labels) {
    const row = { src, uri, cid, val, neg, cts: isoOf(cts), exp: exp ? isoOf(exp) : null }
    const key = JSON.stringify([src, uri, cid, val])
    const known = newest.get(key)
    if (known === undefined || weightOf(row) > weightOf(known)) newest.set(key, row)
  }
  for (const row of newest.values()) add('label', row)
}

function weightOf({ cts, neg, exp }: Row): string {
  return `${cts} ${neg === true ? 1 : 0} ${exp ?? ''}`
}

function isoOf(time: string): string {
  return new Date(time).toISOString()
}

function uriOf({ did, collection, rkey }: ExpectedRecord): string {
  return `at://${did}/${collection}/${rkey}`
}

function later(a: string | null, b: string | null): string | null {
  if (a === null || b === null) return a ?? b
  return a > b ? a : b
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
