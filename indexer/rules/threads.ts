/** Whether replies are in their threads, and may be: what is read for it, and the judgement. */
import type { Transaction } from '../../shared/postgres.ts'
import { authorOf } from '../uri.ts'
import { relation } from '../write.ts'
import { type Allowed, readThreadGate, type ThreadGate } from './gates.ts'
import { mentionsOf } from './notices.ts'

/** A stored post, its parent, and what is known of whom it quotes. */
export interface PostFacts {
  uri: string
  cid: string
  creator: string
  sortAt: string
  json: string | null
  replyRoot: string | null
  replyParent: string | null
  invalidReplyRoot: boolean | null
  violatesThreadGate: boolean | null
  violatesEmbeddingRules: boolean | null
  hasThreadGate: boolean | null
  hasPostGate: boolean | null
  /** Whether the gates are there. */
  threadIsGated: boolean | null
  quotesAreGated: boolean | null
  parentIsThere: boolean
  parentRoot: string | null
  parentIsInvalid: boolean | null
  /** Its key is still there: nobody can say yet whether it is in its place. */
  parentIsUndecided: boolean
  /** The post that it quotes, and the record of that post's gate. */
  quoted: string | null
  quoteGate: string | null
}

/** The posts that are there. In a transaction by keys alone, where no join reads a table whole. */
export async function readPosts(sql: Transaction, uris: readonly string[]): Promise<PostFacts[]> {
  return await sql.unsafe<PostFacts[]>(
    `select p.uri, p.cid, p.creator, p."sortAt", r.json, p."replyRoot", p."replyParent",
       p."invalidReplyRoot", p."violatesThreadGate", p."violatesEmbeddingRules",
       p."hasThreadGate", p."hasPostGate",
       (select true from thread_gate where "postUri" = p.uri) as "threadIsGated",
       (select true from post_gate where "postUri" = p.uri) as "quotesAreGated",
       parent.uri is not null as "parentIsThere", parent."replyRoot" as "parentRoot",
       parent."invalidReplyRoot" as "parentIsInvalid",
       (select true from reconcile where kind = 'post' and key = p."replyParent") is true
         as "parentIsUndecided",
       q.subject as quoted, g.json as "quoteGate"
     from unnest($1::text[]) as u(uri)
     join post p on p.uri = u.uri
     left join record r on r.uri = p.uri
     left join post parent on parent.uri = p."replyParent"
     left join quote q on q.uri = p.uri
     left join post_gate gate on gate."postUri" = q.subject
     left join record g on g.uri = gate.uri`,
    [uris as string[]],
  )
}

/** Whether a reply is not where it says, given its parent as it is now. */
export function isMisplaced(
  post: Pick<PostFacts, 'replyRoot' | 'replyParent' | 'parentRoot'>,
  parentIsInvalid: boolean,
): boolean {
  if (parentIsInvalid) return true
  if (post.replyParent === post.replyRoot) return post.parentRoot !== null
  return post.parentRoot !== post.replyRoot
}

/** The gates of threads, by the URI of their root. */
export async function readGates(
  sql: Transaction,
  roots: readonly string[],
): Promise<ReadonlyMap<string, ThreadGate>> {
  if (roots.length === 0) return new Map()
  const found = await sql.unsafe<{ root: string; json: string }[]>(
    `select g."postUri" as root, r.json from thread_gate g join record r on r.uri = g.uri
     where g."postUri" = any($1::text[])`,
    [roots as string[]],
  )
  return new Map(found.map(({ root, json }) => [root, readThreadGate(json)]))
}

/** Tells of each of these replies whether the gate of its thread keeps it out. */
export async function readKeptOut(
  sql: Transaction,
  replies: readonly Pick<PostFacts, 'uri' | 'creator' | 'replyRoot'>[],
  gates: ReadonlyMap<string, ThreadGate>,
): Promise<ReadonlySet<string>> {
  const asking = replies.flatMap(({ uri, creator, replyRoot }) => {
    const allow = replyRoot === null ? null : (gates.get(replyRoot)?.allow ?? null)
    if (replyRoot === null || allow === null || authorOf(replyRoot) === creator) return []
    return [{ uri, creator, root: replyRoot, allow }]
  })
  if (asking.length === 0) return new Set()
  const mentioned = await readMentioned(sql, asking)
  const unmentioned = asking.filter(
    ({ creator, root, allow }) => !(allow.mentioned && mentioned.get(root)?.has(creator)),
  )
  const welcome = await readWelcome(sql, unmentioned)
  return new Set(unmentioned.map(({ uri }) => uri).filter((uri) => !welcome.has(uri)))
}

interface Asking {
  uri: string
  creator: string
  root: string
  allow: Allowed
}

/** The accounts that the roots mention, of the roots whose gates ask for that. */
async function readMentioned(
  sql: Transaction,
  asking: readonly Asking[],
): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const roots = asking.filter(({ allow }) => allow.mentioned).map(({ root }) => root)
  if (roots.length === 0) return new Map()
  const found = await sql.unsafe<{ uri: string; json: string }[]>(
    'select uri, json from record where uri = any($1::text[])',
    [[...new Set(roots)]],
  )
  return new Map(found.map(({ uri, json }) => [uri, new Set(mentionsOf(json))]))
}

/** The replies of those who follow, are followed or are on a list, where their gate asks for that. */
async function readWelcome(
  sql: Transaction,
  asking: readonly Asking[],
): Promise<ReadonlySet<string>> {
  const rows = asking
    .filter(({ allow }) => allow.followers || allow.followed || allow.lists.length > 0)
    .map(({ uri, creator, root, allow }) => {
      const { followers, followed, lists } = allow
      return { uri, creator, owner: authorOf(root), followers, followed, lists }
    })
  if (rows.length === 0) return new Set()
  const columns = ['uri', 'creator', 'owner', 'followers', 'followed', 'lists']
  const found = await sql.unsafe<{ uri: string }[]>(
    `select r.uri from ${relation(columns, ['lists'])}
     where (r.followers::boolean and exists (
         select from follow where creator = r.creator and "subjectDid" = r.owner))
       or (r.followed::boolean and exists (
         select from follow where creator = r.owner and "subjectDid" = r.creator))
       or exists (select from list_item i join jsonb_array_elements_text(r.lists) l(list)
         on i."listUri" = l.list where i."subjectDid" = r.creator)`,
    [JSON.stringify(rows)],
  )
  return new Set(found.map(({ uri }) => uri))
}

/** The posts above a reply, the nearest first, and whether all of those within reach are there. */
export interface Ancestry {
  ancestors: string[]
  isWhole: boolean
}

/** Walks up from replies. `limit 1` keeps the planner from reading the whole table for a hash. */
export async function readAncestry(
  sql: Transaction,
  uris: readonly string[],
  height: number,
): Promise<ReadonlyMap<string, Ancestry>> {
  if (uris.length === 0) return new Map()
  const found = await sql.unsafe<{ post: string; uri: string; isWhole: boolean }[]>(
    `with recursive up as (
       select r.uri as post, a.uri, a."replyParent" as next, 1 as height
       from unnest($1::text[]) as r(uri) cross join lateral (
         select a.uri, a."replyParent" from post p join post a on a.uri = p."replyParent"
         where p.uri = r.uri limit 1) as a
       union all
       select up.post, a.uri, a."replyParent", up.height + 1 from up cross join lateral (
         select a.uri, a."replyParent" from post a where a.uri = up.next limit 1) as a
       where up.height < $2)
     select post, uri, next is null or height = $2 as "isWhole" from up order by height`,
    [uris as string[], height],
  )
  const ancestries = new Map<string, Ancestry>(
    uris.map((uri) => [uri, { ancestors: [], isWhole: false }]),
  )
  for (const { post, uri, isWhole } of found) {
    const known = ancestries.get(post) as Ancestry
    known.ancestors.push(uri)
    known.isWhole = isWhole
  }
  return ancestries
}
