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
import { authorOf } from '../uri.ts'
import { relation } from '../write.ts'
import type { ThreadGate } from './gates.ts'
import { type Judged, judge, reasonsOf } from './judge.ts'
import { type Key, Keys, putKeys, takeKeys } from './keys.ts'
import { tell } from './tell.ts'
import { type Page, readAnswered, readPages } from './walks.ts'

/** Where a test may hold a reconciliation. */
export type RulePoint = 'reconcile-begun' | 'reconcile-locked' | 'reconcile-read' | 'reconciled'

export interface ReconcileOptions {
  sql: Sql
  schema: string
  statementTimeoutMs: number
  probe: (point: RulePoint) => Promise<void>
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
  return inTransaction(sql, { schema, statementTimeoutMs, keyed: true }, async (sql) => {
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

/** `hasThreadGate` and `hasPostGate` of the posts whose gates came or went. */
async function showGates(sql: Transaction, keys: readonly Key[]): Promise<void> {
  const gated = keys.filter(({ kind }) => kind === 'thread' || kind === 'quotes')
  if (gated.length === 0) return
  await sql.unsafe(
    `update post set "hasThreadGate" = g.thread, "hasPostGate" = g.quotes
     from unnest($1::text[]) as u(uri) cross join lateral (select
       (select true from thread_gate where "postUri" = u.uri) as thread,
       (select true from post_gate where "postUri" = u.uri) as quotes) as g
     where post.uri = u.uri
       and (post."hasThreadGate", post."hasPostGate") is distinct from (g.thread, g.quotes)`,
    [[...new Set(gated.map(({ key }) => key))]],
  )
}

const flags = ['uri', 'misplaced', 'keptOut', 'forbidden', 'threadIsGated', 'quotesAreGated']

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
    const { uri, threadIsGated, quotesAreGated } = post
    const isSo =
      post.invalidReplyRoot === misplaced &&
      post.violatesThreadGate === keptOut &&
      post.violatesEmbeddingRules === forbidden &&
      post.hasThreadGate === threadIsGated &&
      post.hasPostGate === quotesAreGated
    return isSo ? [] : [{ uri, misplaced, keptOut, forbidden, threadIsGated, quotesAreGated }]
  })
  if (rows.length === 0) return
  await sql.unsafe(
    `update post set "invalidReplyRoot" = r.misplaced::boolean,
       "violatesThreadGate" = r."keptOut"::boolean,
       "violatesEmbeddingRules" = r.forbidden::boolean,
       "hasThreadGate" = r."threadIsGated"::boolean, "hasPostGate" = r."quotesAreGated"::boolean
     from ${relation(flags)} where post.uri = r.uri`,
    [JSON.stringify(rows)],
  )
  for (const { post, isKeptOut } of judged) {
    const { replyParent } = post
    deltas.add([replyCount], [{ replyParent, isKeptOut: post.violatesThreadGate === true }], -1)
    deltas.add([replyCount], [{ replyParent, isKeptOut }], 1)
  }
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
