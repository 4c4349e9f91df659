/** Where our rows and answers differ from the reference's, and why: what is not here is a defect. */
import type { CallDifference } from './answers.ts'
import type { Marks } from './cases.ts'
import type { Row, RowDifference } from './rows.ts'

export type Difference = RowDifference | CallDifference

export interface Declared {
  /** As `docs/differences.md` calls it. */
  name: string
  /** Whether this difference of rows is one of those; a call says itself what its answers show. */
  covers(difference: RowDifference, marks: Marks): boolean
}

/** Tables that an indexer leaves alone. */
export const notOurs: ReadonlySet<string> = new Set([
  // The AppView's own processes write them.
  ...['activity_subscription', 'actor_state', 'bookmark', 'draft', 'list_mute', 'mute'],
  ...['private_data', 'thread_mute', 'blob_takedown', 'did_cache', 'notification_push_token'],
  // By hand, or by nobody any more.
  ...['moderation_action', 'moderation_action_subject_blob', 'moderation_event'],
  ...['moderation_report', 'moderation_report_resolution', 'moderation_subject_status'],
  ...['subscription', 'suggested_feed', 'suggested_follow', 'tagged_suggestion'],
  // Bookkeeping of the migrations; migrations/catalogue.test.ts compares it.
  ...['kysely_migration', 'kysely_migration_lock'],
])

/** The row itself, ours where both have one; of an answer, nothing. */
function rowOf(difference: Difference): Row {
  if (difference.kind === 'answer') return {}
  return difference.kind === 'only theirs' ? difference.theirs : difference.ours
}

/** A column of a table differs, and both have the row. */
const column = (difference: Difference, table: string, ...names: string[]) =>
  difference.kind === 'column' && difference.table === table && names.includes(difference.column)

/** The row is about this URI or DID, in whatever column. */
const names = (difference: Difference, ...values: (string | undefined)[]) =>
  Object.values(rowOf(difference)).some((value) => values.includes(value as string))

/** A count of what is about one of these posts or accounts. */
const counts = (difference: RowDifference, ...values: (string | undefined)[]) =>
  difference.kind === 'column' && /_agg$/.test(difference.table) && names(difference, ...values)

export const declared: readonly Declared[] = [
  {
    name: 'handle-looked-at',
    covers: (difference) => column(difference, 'actor', 'indexedAt'),
  },
  {
    name: 'out-of-scope-commit',
    // Of an account without a record in scope there is no row at all.
    covers: (difference, marks) =>
      (difference.kind === 'only theirs' && difference.table === 'actor_sync') ||
      (column(difference, 'actor_sync', 'repoRev', 'commitCid') &&
        names(difference, marks['out-of-scope'], marks['lexicon-authority'])),
  },
  {
    name: 'profile-without-time',
    covers: (difference) =>
      column(difference, 'profile', 'createdAt') &&
      rowOf(difference)['createdAt'] === rowOf(difference)['indexedAt'],
  },
  {
    name: 'time-of-deletion',
    covers: (difference) =>
      difference.kind === 'column' &&
      column(difference, 'op_thread_reply', 'deletedAt') &&
      difference.ours['deletedAt'] !== null &&
      difference.theirs['deletedAt'] !== null,
  },
  {
    name: 'unverified-time',
    covers: (difference) =>
      column(difference, 'notification', 'sortAt') && rowOf(difference)['reason'] === 'unverified',
  },
  {
    name: 'lowest-uri',
    covers: (difference, marks) =>
      ['like', 'duplicate_record', 'notification', 'post_agg'].includes(difference.table) &&
      (isDoubled(rowOf(difference)) || names(difference, marks['every:doubled'])),
  },
  {
    name: 'update-to-duplicate',
    covers: (difference) =>
      difference.kind === 'column' && difference.table === 'record' && isDoubled(rowOf(difference)),
  },
  {
    name: 'duplicate-left-behind',
    covers: (difference, marks) =>
      (difference.kind === 'only theirs' &&
        difference.table === 'duplicate_record' &&
        isListItemOf(marks['every:ada'], difference.theirs)) ||
      (difference.kind === 'only ours' &&
        difference.table === 'list_item' &&
        isListItemOf(marks['every:ada'], difference.ours)),
  },
  {
    name: 'nul-in-text',
    covers: (difference, marks) =>
      difference.kind === 'only ours' && names(difference, marks['every:nul']),
  },
  {
    name: 'update-to-invalid',
    covers: (difference, marks) =>
      difference.kind === 'only theirs' && names(difference, marks['every:was-valid']),
  },
  {
    name: 'all-muted',
    covers: (difference, marks) =>
      names(difference, marks['mute:alone'], marks['mute:like']) ||
      counts(difference, marks['mute:root'], marks['hugo']),
  },
  {
    name: 'deleted-post-keeps-reposts-and-quotes',
    covers: (difference, marks) =>
      difference.kind === 'only ours' &&
      ['feed_item', 'quote'].includes(difference.table) &&
      names(difference, marks['every:orphaned-repost'], marks['every:orphaned-quote']),
  },
  {
    name: 'sync-repairs',
    covers: (difference, marks) =>
      names(difference, marks['imported'], marks['imported:back'], marks['imported:gone']),
  },
  {
    name: 'gates-in-any-order',
    covers: (difference, marks) =>
      names(
        difference,
        ...['gate:changed', 'gate:late', 'gate:early', 'gate:too-early', 'postgate:gone'].map(
          (name) => marks[name],
        ),
        marks['every:post'],
        marks['thread:hidden-later'],
      ) ||
      (column(
        difference,
        'post',
        'violatesEmbeddingRules',
        'violatesThreadGate',
        'invalidReplyRoot',
      ) &&
        names(difference, marks['every:bo'])),
  },
  {
    name: 'told-of-what-is',
    covers: (difference, marks) =>
      difference.table === 'notification' &&
      names(
        difference,
        marks['joined-later'],
        marks['sealed-again'],
        marks['updates:one'],
        marks['updates:two'],
        marks['updates:follow'],
      ),
  },
  {
    name: 'deleted-account-leaves-nothing',
    covers: (difference, marks) =>
      difference.kind !== 'only ours' &&
      (names(difference, marks['deleted']) ||
        Object.values(rowOf(difference)).some((value) =>
          String(value).startsWith(`at://${marks['deleted']}/`),
        ) ||
        counts(difference, marks['deleted:liked'], marks['gina'], marks['hugo'])),
  },
]

const isListItemOf = (did: string | undefined, row: Row) =>
  String(row['uri']).startsWith(`at://${did}/app.bsky.graph.listitem/`)

/** A like of the history of every kind, by its key that is no time. */
function isDoubled(row: Row): boolean {
  const uris = [row['uri'], row['recordUri']]
  return uris.some((uri) => /\/app\.bsky\.feed\.like\/3k([abcz])\1+\d$/.test(String(uri)))
}

export interface Explained {
  /** How many differences each declared one covers. */
  byName: ReadonlyMap<string, number>
  unexplained: readonly Difference[]
}

/** Gives each difference to the first declared one that covers it. */
export function explain(
  differences: readonly Difference[],
  marks: Marks,
  known: readonly Declared[] = declared,
): Explained {
  const byName = new Map(known.map(({ name }) => [name, 0]))
  const unexplained: Difference[] = []
  for (const difference of differences) {
    const found = known.find(({ name, covers }) =>
      difference.kind === 'answer' ? difference.call.because === name : covers(difference, marks),
    )
    if (found === undefined) unexplained.push(difference)
    else byName.set(found.name, (byName.get(found.name) ?? 0) + 1)
  }
  return { byName, unexplained }
}

/** One line that says what differs. */
export function describeDifference(difference: Difference): string {
  if (difference.kind === 'answer') {
    const { call, ours, theirs } = difference
    const at = [...ours.body].findIndex((letter, index) => letter !== theirs.body[index])
    const part = ({ status, body }: { status: number; body: string }) =>
      `${status} …${body.slice(Math.max(0, at - 60), at + 100)}…`
    const asked = `${call.method} ${JSON.stringify(call.params)} by ${call.viewer}`
    return `${asked}\n   ours   ${part(ours)}\n   theirs ${part(theirs)}`
  }
  if (difference.kind !== 'column') {
    return `${difference.table}: ${difference.kind} ${JSON.stringify(rowOf(difference))}`
  }
  const { table, column: name, ours, theirs } = difference
  const [own, other] = [JSON.stringify(ours[name]), JSON.stringify(theirs[name])]
  return `${table}.${name}: ours ${own}, theirs ${other}, in ${JSON.stringify(ours)}`
}
