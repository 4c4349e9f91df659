/** Who is told of posts: the notifications that are added, and those that are taken back. */
import { type Transaction, together } from '../../shared/postgres.ts'
import { insertNotifications, type Notification } from '../notifications.ts'
import type { ThreadGate } from './gates.ts'
import type { Judged } from './judge.ts'
import { heightTold, isRefuted, mentionsOf, noticesOf, type Stored } from './notices.ts'
import { type Ancestry, readAncestry } from './threads.ts'

/** Tells of the posts, and untells what they do not say any more. */
export async function tell(
  sql: Transaction,
  judged: readonly Judged[],
  gates: ReadonlyMap<string, ThreadGate>,
): Promise<void> {
  const again = judged.filter(({ reason }) => !reason.isNew).map(({ post }) => post.uri)
  const replies = judged.filter(
    ({ post, reason }) => post.replyParent !== null && !(reason.isNew && reason.quiet),
  )
  const uris = replies.map(({ post }) => post.uri)
  const [ancestries, found] = await together([
    readAncestry(sql, uris, heightTold),
    readStored(sql, again),
  ])
  const stored = Map.groupBy(found, ({ recordUri }) => recordUri)

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
    if (!reason.quiet && (reason.isNews || isLetIn || earlier.length > 0)) {
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
