/** Walks from a post to the many posts that depend on it, a page at a time. */
import type { Transaction } from '../../shared/postgres.ts'
import { relation } from '../write.ts'
import type { Key, Kind } from './keys.ts'

/** So many posts are looked at for one key in one transaction. */
export const pageSize = 100

/** The pages of the keys that have one, in the order of the keys. */
export interface Page {
  key: Key
  uris: readonly string[]
  /** Where the walk continues; null at its end. */
  next: string | null
}

/** Where each kind finds its posts: by an index that gives them in the order of the walk. */
const pageOf: Readonly<Record<Exclude<Kind, 'post'>, string>> = {
  replies: `select uri, uri as at from post
    where "replyParent" = r.key and uri > coalesce(r."after", '') order by uri`,
  thread: `select uri, uri as at from post
    where "replyRoot" = r.key and uri > coalesce(r."after", '') order by uri`,
  quotes: `select uri, "sortAt" || ' ' || cid || ' ' || uri as at from quote
    where subject = r.key and ("sortAt", cid, uri) > (
      split_part(coalesce(r."after", ''), ' ', 1), split_part(coalesce(r."after", ''), ' ', 2),
      split_part(coalesce(r."after", ''), ' ', 3))
    order by "sortAt", cid, uri`,
}

/** Finds the next page of each key. */
export async function readPages(sql: Transaction, keys: readonly Key[]): Promise<Page[]> {
  const pages: Page[] = []
  for (const [kind, select] of Object.entries(pageOf)) {
    const walking = keys.filter((key) => key.kind === kind)
    if (walking.length === 0) continue
    const found = await sql.unsafe<{ key: string; uri: string; at: string }[]>(
      `select r.key, page.uri, page.at from ${relation(['key', 'after'])}
       cross join lateral (${select} limit ${pageSize}) as page`,
      [JSON.stringify(walking.map(({ key, after }) => ({ key, after })))],
    )
    const byKey = Map.groupBy(found, (row) => row.key)
    for (const key of walking) {
      const own = byKey.get(key.key) ?? []
      const next = own.length < pageSize ? null : (own.at(-1)?.at ?? null)
      pages.push({ key, uris: own.map(({ uri }) => uri), next })
    }
  }
  return pages
}

/** Which of the posts have replies beside those that are looked at anyway. */
export async function readAnswered(
  sql: Transaction,
  column: 'replyParent' | 'replyRoot',
  uris: readonly string[],
  beside: readonly string[],
): Promise<string[]> {
  if (uris.length === 0) return []
  const found = await sql.unsafe<{ uri: string }[]>(
    `select u.uri from unnest($1::text[]) as u(uri) where exists (
       select from post p where p."${column}" = u.uri and p.uri <> all($2::text[]))`,
    [uris as string[], beside as string[]],
  )
  return found.map(({ uri }) => uri)
}
