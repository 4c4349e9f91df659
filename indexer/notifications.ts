/** Rows of `notification`: which a batch takes away, and which it adds, none of them twice. */
import type { Transaction } from '../shared/postgres.ts'
import type { Notify, Value } from './collection.ts'
import { earlier } from './timestamp.ts'
import { authorOf } from './uri.ts'
import { columnar, relation } from './write.ts'

/** One row of `notification`. */
export interface Notification {
  did: string
  author: string
  reason: string
  reasonSubject: string | null
  recordUri: string
  recordCid: string
  sortAt: string
  /** Once told it keeps its place, however often the record is written anew. */
  stays: boolean
}

const columns = [
  'did',
  'author',
  'reason',
  'reasonSubject',
  'recordUri',
  'recordCid',
  'sortAt',
] as const
const listed = columns.map((column) => `"${column}"`).join(', ')

/** What one row tells. */
export function notificationsOf(
  row: Readonly<Record<string, Value>>,
  notify: readonly Notify[],
): Notification[] {
  const text = (column: string) => String(row[column])
  return notify.flatMap((entry) => {
    const { reason, since } = entry
    const about = row['authorOf' in entry ? entry.authorOf : entry.account]
    if (typeof about !== 'string') return []
    const isUri = 'authorOf' in entry
    const did = isUri ? authorOf(about) : about
    if (isUri && !entry.self && did === row['creator']) return []
    if (isUri && entry.unlessBy && authorOf(text(entry.unlessBy)) === row['creator']) return []
    return [
      {
        did,
        author: text('creator'),
        reason,
        reasonSubject: isUri ? about : null,
        recordUri: text('uri'),
        recordCid: text('cid'),
        sortAt: since ? text(since) : earlier(text('createdAt'), text('indexedAt')),
        stays: since !== undefined,
      },
    ]
  })
}

/** What a batch does to the notifications of the records whose repos it has locked. */
export class Notifications {
  readonly #forgotten = new Set<string>()
  readonly #wanted = new Map<string, Notification[]>()

  /** The records' rows are gone: nobody is told of them, unless they come again. */
  forget(uris: readonly string[]): void {
    for (const uri of uris) {
      this.#forgotten.add(uri)
      this.#wanted.delete(uri)
    }
  }

  want(notifications: readonly Notification[]): void {
    for (const notification of notifications) {
      const known = this.#wanted.get(notification.recordUri)
      if (known === undefined) this.#wanted.set(notification.recordUri, [notification])
      else known.push(notification)
    }
  }

  /** What is asked for again is not told anew. */
  async write(sql: Transaction, isCareful: boolean): Promise<void> {
    const wanted = [...this.#wanted.values()].flat()
    if (this.#forgotten.size > 0) {
      const again = wanted.filter(({ recordUri }) => this.#forgotten.has(recordUri))
      const same = `n."recordUri" = r."recordUri" and n.did = r.did and n.reason = r.reason
        and n."reasonSubject" is not distinct from r."reasonSubject"`
      const asked = JSON.stringify(again)
      await sql.unsafe(
        `delete from notification n where n."recordUri" = any($2::text[])
         and not exists (select from ${relation(columns)} where ${same})`,
        [asked, [...this.#forgotten]],
      )
      if (again.length > 0) {
        await sql.unsafe(
          `update notification n set "recordCid" = r."recordCid",
             "sortAt" = case when r.stays::boolean then n."sortAt" else r."sortAt" end
           from ${relation([...columns, 'stays'])} where ${same}`,
          [asked],
        )
      }
    }
    await insertNotifications(sql, wanted, isCareful)
  }
}

/**
 * What was told of a record `r`. The fence keeps the planner from looking at all that an account was told: that would
 * grow with its fame.
 */
const told = `(select did, reason from notification where "recordUri" = r."recordUri" offset 0)`

/**
 * Tells those who have not been told and have not muted the thread. Whoever calls it has locked the
 * repos of the records, so that no key is needed; a database may have one all the same.
 */
export async function insertNotifications(
  sql: Transaction,
  notifications: readonly Notification[],
  isCareful = true,
): Promise<void> {
  if (notifications.length === 0) return
  const { relation, parameters } = columnar(columns, notifications)
  await sql.unsafe(
    `insert into notification (${listed}) select ${listed} from ${relation}
     where not exists (
       select from ${told} n where n.did = r.did and n.reason = r.reason)
     and not (exists (select from thread_mute) and exists (
       select from post p join thread_mute m on m."rootUri" = coalesce(p."replyRoot", p.uri)
       where p.uri = r."reasonSubject" and m."mutedByDid" = r.did))
     ${isCareful ? 'on conflict do nothing' : ''}`,
    parameters,
  )
}
