/**
 * What depends on other repos' rows: whether a reply is in its thread and may be, whether a quote may
 * be, who is told of a post. A second transaction, after the one that touched the keys is committed:
 * it locks the repos of all posts that it may change, takes the keys away, and sets the truth from
 * what is there then. Two that depend on each other never miss each other: whoever commits last sees
 * both, and whoever changes what others read leaves a key for these.
 */
import { inTransaction, type Sql, type Transaction } from '../../shared/postgres.ts'
import { addCounts, Deltas } from '../counts.ts'
import { compareText } from '../fold.ts'
import { insertNotifications, type Notification } from '../notifications.ts'
import { authorOf } from '../uri.ts'
import { relation } from '../write.ts'
import { forbidsQuotes, type ThreadGate } from './gates.ts'
import { type Key, Keys, putKeys, takeKeys } from './keys.ts'
import { heightTold, isRefuted, mentionsOf, noticesOf, type Stored } from './notices.ts'
import {
  type Ancestry,
  isMisplaced,
  type PostFacts,
  readAncestry,
  readGates,
  readKeptOut,
  readPosts,
} from './threads.ts'
import { type Page, readAnswered, readPages } from './walks.ts'

/** Where a test may hold a reconciliation. */
export type RulePoint = 'reconcile-begun' | 'reconcile-locked' | 'reconcile-read' | 'reconciled'

export interface ReconcileOptions {
  sql: Sql
  schema: string
  statementTimeoutMs: number
  probe: (point: RulePoint) => Promise<void>
}

/** Why a post is looked at. */
interface Reason {
  /** It came itself. */
  isNew: boolean
  /** It or its gate is new: who may reply is decided now, and not again when follows change. */
  decides: boolean
  /** Nobody is told. */
  quiet: boolean
  /** Down to how many levels below it others are to be told of it or of what is above it. */
  depth: number
}

/** What a post's columns are to be. */
interface Judged {
  post: PostFacts
  reason: Reason
  isMisplaced: boolean
  isKeptOut: boolean
  isForbidden: boolean
}

const replyCount = {
  table: 'post_agg',
  column: 'replyCount',
  key: 'replyParent',
  unless: 'isKeptOut',
} as const

/** Sets what follows from the keys, a page of each, and returns the keys of what is left to do. */
export async function reconcile(options: ReconcileOptions, keys: readonly Key[]): Promise<Key[]> {
  const { sql, schema, statementTimeoutMs, probe } = options
  if (keys.length === 0) return []
  return inTransaction(sql, { schema, statementTimeoutMs }, async (sql) => {
    const guessed = await readPages(sql, keys)
    await probe('reconcile-begun')
    const posts = [...keys.map(({ key }) => key), ...guessed.flatMap(({ uris }) => uris)]
    const locked = await lockAuthors(sql, posts)
    await probe('reconcile-locked')
    const taken = await takeKeys(sql, keys)
    // Read again: a key that was touched since the guess asks for who came since the guess as well.
    const pages = await readPages(sql, taken)
    const isLocked = ({ uris }: Page) => uris.every((uri) => locked.has(authorOf(uri)))
    const walked = pages.filter(isLocked)
    const reasons = reasonsOf(taken, walked)
    await showGates(sql, taken)
    const { judged, gates } = await judge(sql, reasons)
    await probe('reconcile-read')

    const deltas = new Deltas()
    await writeFlags(sql, judged, deltas)
    await tell(sql, judged, gates)
    const left = new Keys()
    for (const page of pages) {
      const { key, next } = page
      if (!isLocked(page)) left.put(key)
      else if (next !== null) left.put({ ...key, after: next })
    }
    for (const key of await dependants(sql, judged, gates)) left.put(key)
    await putKeys(sql, left.all())
    await addCounts(sql, deltas, { post_agg: [replyCount.column], profile_agg: [] })
    await probe('reconciled')
    return left.all()
  })
}

/** Locks the repos of the posts, in the order in which batches lock theirs; returns their accounts. */
async function lockAuthors(
  sql: Transaction,
  uris: readonly string[],
): Promise<ReadonlySet<string>> {
  const dids = [...new Set(uris.map(authorOf))].sort(compareText)
  // The row is locked though its update is not done.
  await sql.unsafe(
    `insert into repo_sync (did) select did from unnest($1::text[]) as r(did)
     on conflict (did) do update set did = excluded.did where false`,
    [dids],
  )
  return new Set(dids)
}

/** Every post that is looked at; of several reasons the stronger part of each counts. */
function reasonsOf(keys: readonly Key[], walked: readonly Page[]): Map<string, Reason> {
  const reasons = new Map<string, Reason>()
  const add = (uri: string, reason: Reason) => {
    const known = reasons.get(uri) ?? { ...reason, isNew: false, decides: false, depth: 0 }
    reasons.set(uri, {
      isNew: known.isNew || reason.isNew,
      decides: known.decides || reason.decides,
      quiet: known.quiet && reason.quiet,
      depth: Math.max(known.depth, reason.depth),
    })
  }
  for (const { kind, key, quiet } of keys) {
    if (kind === 'post') add(key, { isNew: true, decides: true, quiet, depth: heightTold })
  }
  for (const { key, uris } of walked) {
    const depth = Math.max(0, key.depth - 1)
    const decides = key.kind === 'thread'
    for (const uri of uris) add(uri, { isNew: false, decides, quiet: key.quiet, depth })
  }
  return reasons
}

/** `hasThreadGate` and `hasPostGate` of the posts that came, or whose gates did. */
async function showGates(sql: Transaction, keys: readonly Key[]): Promise<void> {
  const uris = keys.filter(({ kind }) => kind !== 'replies').map(({ key }) => key)
  if (uris.length === 0) return
  await sql.unsafe(
    `update post set "hasThreadGate" = g.thread, "hasPostGate" = g.quotes
     from unnest($1::text[]) as u(uri) cross join lateral (select
       (select true from thread_gate where "postUri" = u.uri) as thread,
       (select true from post_gate where "postUri" = u.uri) as quotes) as g
     where post.uri = u.uri and (post."hasThreadGate" is true, post."hasPostGate" is true)
       is distinct from (g.thread is true, g.quotes is true)`,
    [[...new Set(uris)]],
  )
}

async function judge(
  sql: Transaction,
  reasons: ReadonlyMap<string, Reason>,
): Promise<{ judged: Judged[]; gates: ReadonlyMap<string, ThreadGate> }> {
  const posts = await readPosts(sql, [...reasons.keys()])
  const roots = posts.map(({ uri, replyRoot }) => replyRoot ?? uri)
  const gates = await readGates(sql, [...new Set(roots)])
  const deciding = posts.filter(({ uri }) => reasons.get(uri)?.decides)
  const keptOut = await readKeptOut(sql, deciding, gates)

  const byUri = new Map(posts.map((post) => [post.uri, post]))
  const misplaced = new Map<string, boolean>()
  // A parent that is looked at in this transaction is judged before its replies.
  const judgePlace = (post: PostFacts): boolean => {
    const known = misplaced.get(post.uri)
    if (known !== undefined) return known
    const isMisplacedNow = post.invalidReplyRoot === true
    misplaced.set(post.uri, isMisplacedNow)
    const result = placeOf(post, isMisplacedNow)
    misplaced.set(post.uri, result)
    return result
  }
  const placeOf = (post: PostFacts, isMisplacedNow: boolean): boolean => {
    if (post.replyParent === null) return false
    // What was judged while the parent was there stays when it is gone.
    if (!post.parentIsThere) return reasons.get(post.uri)?.isNew ? true : isMisplacedNow
    const parent = byUri.get(post.replyParent)
    const parentIsInvalid = parent ? judgePlace(parent) : post.parentIsInvalid === true
    return isMisplaced(post, parentIsInvalid)
  }
  const judged = posts.map((post): Judged => {
    const reason = reasons.get(post.uri) as Reason
    const { quoted, quoteGate, creator } = post
    const isForeign = quoted !== null && authorOf(quoted) !== creator
    return {
      post,
      reason,
      isMisplaced: judgePlace(post),
      isKeptOut: reason.decides ? keptOut.has(post.uri) : post.violatesThreadGate === true,
      isForbidden: isForeign && quoteGate !== null && forbidsQuotes(quoteGate),
    }
  })
  return { judged, gates }
}

/** Writes what is not yet so, and moves the counts of replies. */
async function writeFlags(
  sql: Transaction,
  judged: readonly Judged[],
  deltas: Deltas,
): Promise<void> {
  const rows = judged.flatMap(({ post, isMisplaced, isKeptOut, isForbidden }) => {
    // Both or neither, as readers know them.
    const [misplaced, keptOut] = isMisplaced || isKeptOut ? [isMisplaced, isKeptOut] : [null, null]
    const forbidden = isForbidden ? true : null
    const isSo =
      post.invalidReplyRoot === misplaced &&
      post.violatesThreadGate === keptOut &&
      post.violatesEmbeddingRules === forbidden
    return isSo ? [] : [{ uri: post.uri, misplaced, keptOut, forbidden }]
  })
  if (rows.length === 0) return
  await sql.unsafe(
    `update post set "invalidReplyRoot" = r.misplaced::boolean,
       "violatesThreadGate" = r."keptOut"::boolean,
       "violatesEmbeddingRules" = r.forbidden::boolean
     from ${relation(['uri', 'misplaced', 'keptOut', 'forbidden'])} where post.uri = r.uri`,
    [JSON.stringify(rows)],
  )
  for (const { post, isKeptOut } of judged) {
    const { replyParent } = post
    deltas.add([replyCount], [{ replyParent, isKeptOut: post.violatesThreadGate === true }], -1)
    deltas.add([replyCount], [{ replyParent, isKeptOut }], 1)
  }
}

/** Tells of the posts, and untells what they do not say any more. */
async function tell(
  sql: Transaction,
  judged: readonly Judged[],
  gates: ReadonlyMap<string, ThreadGate>,
): Promise<void> {
  const again = judged.filter(({ reason }) => !reason.isNew).map(({ post }) => post.uri)
  const replies = judged.filter(
    ({ post, reason }) => post.replyParent !== null && !(reason.isNew && reason.quiet),
  )
  const uris = replies.map(({ post }) => post.uri)
  const ancestries = await readAncestry(sql, uris, heightTold)
  const stored = Map.groupBy(await readStored(sql, again), ({ recordUri }) => recordUri)

  const wanted: Notification[] = []
  const refuted: number[] = []
  for (const { post, reason, isKeptOut, isForbidden } of judged) {
    const { uri, cid, creator, sortAt, replyRoot, json, quoted } = post
    if (json === null || (reason.isNew && reason.quiet)) continue
    const { ancestors, isWhole } = ancestries.get(uri) ?? noAncestry
    const told = { isKeptOut, ancestors }
    // Of a post that a backfill brought nobody is told because something else changed.
    const isLetIn =
      (post.violatesThreadGate === true && !isKeptOut) ||
      (post.violatesEmbeddingRules === true && !isForbidden)
    const notices = noticesOf({
      ...told,
      creator,
      mentions: mentionsOf(json),
      quoted: isForbidden ? null : quoted,
      hidden: gates.get(replyRoot ?? '')?.hidden ?? nothing,
    })
    const earlier = stored.get(uri) ?? []
    if (!reason.quiet && (reason.isNew || reason.depth > 0 || isLetIn || earlier.length > 0)) {
      const record = { author: creator, recordUri: uri, recordCid: cid, sortAt, stays: false }
      for (const { to, reason, subject } of notices)
        wanted.push({ did: to, reason, reasonSubject: subject, ...record })
    }
    for (const row of earlier) if (isRefuted(row, notices, told, isWhole)) refuted.push(row.id)
  }
  if (refuted.length > 0) {
    await sql.unsafe('delete from notification where id = any($1::bigint[])', [refuted])
  }
  await insertNotifications(sql, wanted)
}

const nothing: ReadonlySet<string> = new Set()
const noAncestry: Ancestry = { ancestors: [], isWhole: true }

async function readStored(
  sql: Transaction,
  uris: readonly string[],
): Promise<(Stored & { id: number; recordUri: string })[]> {
  if (uris.length === 0) return []
  return await sql.unsafe(
    `select id, did, reason, "reasonSubject", "recordUri" from notification
     where "recordUri" = any($1::text[])`,
    [uris as string[]],
  )
}

/** The keys of those who read what has changed here. */
async function dependants(
  sql: Transaction,
  judged: readonly Judged[],
  gates: ReadonlyMap<string, ThreadGate>,
): Promise<Key[]> {
  const uris = (some: readonly Judged[]) => some.map(({ post }) => post.uri)
  const own = uris(judged.filter(({ reason }) => reason.isNew))
  const told = uris(judged.filter(({ reason }) => reason.depth > 0))
  const answered = new Set(await readAnswered(sql, 'replyParent', told, own))
  // Who reads the old place while this is not committed is not seen from here: he is looked for
  // after the commit, whether or not somebody answers now. Of one that is new he knows that it is
  // undecided, and asks again.
  for (const uri of uris(judged.filter(hasMoved))) answered.add(uri)
  const asking = uris(judged.filter(({ post, reason }) => reason.isNew && post.parentIsUndecided))
  // A gate that lets in whom the root mentions could not be judged without the root.
  const asked = own.filter((uri) => gates.get(uri)?.allow?.mentioned)
  const threads = await readAnswered(sql, 'replyRoot', asked, own)

  const reasons = new Map(judged.map(({ post, reason }) => [post.uri, reason]))
  const keyOf =
    (kind: Key['kind']) =>
    (key: string): Key => {
      const { quiet = true, depth = 0 } = reasons.get(key) ?? {}
      return { kind, key, after: null, depth, quiet }
    }
  return [
    ...[...answered].map(keyOf('replies')),
    ...threads.map(keyOf('thread')),
    ...asking.map(keyOf('post')),
  ]
}

const hasMoved = ({ post, reason, isMisplaced }: Judged) =>
  !reason.isNew && (post.invalidReplyRoot === true) !== isMisplaced
