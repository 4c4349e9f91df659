/**
 * What the records of others make of a post: whether it is in its thread, may be there, may quote,
 * and whom it tells. Told from all records that are there, as the contract tells it.
 */
import type { ExpectedRecord } from '../account.ts'
import { at, hostOf, type Row } from './records.ts'

/** Of a column: what was there before decides, and anything may stand in it. */
export const anything = Symbol('anything')

/** How far up a thread a reply is told of. */
const reach = 4

interface Post {
  uri: string
  cid: string
  did: string
  sortAt: string
  root: string | null
  parent: string | null
  fact: ExpectedRecord
}

export interface Threads {
  /** The columns of a post that others decide. */
  columnsOf: (uri: string) => Row
  /** How many replies a post has, or `anything`. */
  repliesOf: (uri: string) => number | typeof anything
  /** Whom a post tells, and of what. */
  noticesOf: (uri: string) => readonly Row[]
  /** Whether who was told of a reply depends on what is gone, or on who followed whom. */
  isLoose: (uri: string) => boolean
  replied: readonly string[]
}

/** Looks at all posts and gates that are there; `sortAts` has the posts' times. */
export function threadsOf(
  facts: readonly ExpectedRecord[],
  sortAts: ReadonlyMap<string, string>,
): Threads {
  const posts = new Map<string, Post>()
  const gates = new Map<string, ExpectedRecord>()
  for (const fact of facts) {
    const { did, collection, rkey, cid } = fact
    const uri = `at://${did}/${collection}/${rkey}`
    if (collection.endsWith('gate')) gates.set(`${collection} ${at(fact.record, 'post')}`, fact)
    if (collection !== 'app.bsky.feed.post') continue
    const root = textAt(fact, 'reply.root.uri')
    const parent = textAt(fact, 'reply.parent.uri')
    posts.set(uri, { uri, cid, did, root, parent, fact, sortAt: sortAts.get(uri) ?? '' })
  }

  const isLooseAt = (post: Post, depth = 0): boolean => {
    if (post.root === null || post.parent === null) return false
    const parent = posts.get(post.parent)
    return !parent || !posts.has(post.root) || depth > 100 || isLooseAt(parent, depth + 1)
  }
  const isInvalid = ({ root, parent: above }: Post): boolean => {
    if (above === null) return false
    const parent = posts.get(above)
    if (parent === undefined || isInvalid(parent)) return true
    return above === root ? parent.root !== null : parent.root !== root
  }
  const violates = (post: Post): boolean | typeof anything => {
    const gate = gates.get(`app.bsky.feed.threadgate ${post.root}`)
    const allow = gate && at(gate.record, 'allow')
    if (!Array.isArray(allow) || hostOf(post.root) === post.did) return false
    const kinds = allow.map((rule) => String(at(rule, '$type')).split('#')[1])
    const root = posts.get(post.root ?? '')
    if (kinds.includes('mentionRule') && root && mentionsIn(root.fact).includes(post.did))
      return false
    return kinds.some((kind) => kind !== 'mentionRule') ? anything : true
  }
  const forbids = ({ did, fact }: Post): true | null => {
    const quoted = quotedBy(fact)
    if (quoted === null || hostOf(quoted) === did) return null
    const gate = gates.get(`app.bsky.feed.postgate ${quoted}`)
    const rules = gate && at(gate.record, 'embeddingRules')
    if (!Array.isArray(rules)) return null
    return rules.some((rule) => String(at(rule, '$type')).endsWith('#disableRule')) || null
  }
  const judge = (post: Post) => {
    const kept = violates(post)
    const isLoose = isLooseAt(post)
    return { post, kept, isLoose, invalid: isLoose || isInvalid(post) }
  }
  const judged = new Map([...posts].map(([uri, post]) => [uri, judge(post)]))

  const columnsOf = (uri: string): Row => {
    const found = judged.get(uri)
    if (found === undefined) return {}
    const { post, kept, isLoose, invalid } = found
    const isFree = isLoose || kept === anything
    const flags = invalid || kept ? [invalid, kept] : [null, null]
    const [invalidReplyRoot, violatesThreadGate] = isFree ? [anything, anything] : flags
    return {
      invalidReplyRoot,
      violatesThreadGate,
      violatesEmbeddingRules: forbids(post),
      hasThreadGate: gates.has(`app.bsky.feed.threadgate ${uri}`) || null,
      hasPostGate: gates.has(`app.bsky.feed.postgate ${uri}`) || null,
    }
  }

  const answers = Map.groupBy(judged.values(), ({ post }) => post.parent)
  const repliesOf = (uri: string) => {
    const replies = answers.get(uri) ?? []
    const isFree = replies.some(({ kept, isLoose }) => kept === anything || (kept && isLoose))
    return isFree ? anything : replies.filter(({ kept }) => kept === false).length
  }

  const noticesOf = (uri: string): Row[] => {
    const found = judged.get(uri)
    if (found === undefined) return []
    const { post, kept } = found
    const rows = new Map<string, Row>()
    const tell = (did: string, reason: string, reasonSubject: string | null) => {
      if (did === post.did || rows.has(did)) return
      const { cid, sortAt } = post
      const record = { recordUri: uri, recordCid: cid, author: post.did, sortAt }
      rows.set(did, { did, reason, reasonSubject, ...record })
    }
    for (const did of mentionsIn(post.fact)) tell(did, 'mention', null)
    const quoted = quotedBy(post.fact)
    if (quoted !== null && !forbids(post)) tell(hostOf(quoted), 'quote', quoted)
    const gate = gates.get(`app.bsky.feed.threadgate ${post.root}`)
    const hidden = (gate && at(gate.record, 'hiddenReplies')) ?? []
    let above = kept === false ? posts.get(post.parent ?? '') : undefined
    for (let height = 1; above !== undefined && height <= reach; height += 1) {
      tell(above.did, 'reply', above.uri)
      if ((hidden as unknown[]).includes(above.uri)) break
      above = posts.get(above.parent ?? '')
    }
    return [...rows.values()]
  }

  return {
    columnsOf,
    repliesOf,
    noticesOf,
    isLoose: (uri) => {
      const found = judged.get(uri)
      return found !== undefined && (found.isLoose || found.kept === anything)
    },
    replied: [...answers.keys()].filter((uri) => uri !== null),
  }
}

function mentionsIn({ record }: ExpectedRecord): string[] {
  const facets = at(record, 'facets')
  const features = Array.isArray(facets) ? facets.flatMap((facet) => at(facet, 'features')) : []
  return features
    .filter((feature) => at(feature, '$type') === 'app.bsky.richtext.facet#mention')
    .map((feature) => String(at(feature, 'did')))
}

/** The post that a post quotes, or null. */
function quotedBy({ record }: ExpectedRecord): string | null {
  const embed = at(record, 'embed')
  const path = { 'app.bsky.embed.record': 'record.uri' }[String(at(embed, '$type'))]
  const uri = at(embed, path ?? 'record.record.uri')
  const isQuote = path !== undefined || at(embed, '$type') === 'app.bsky.embed.recordWithMedia'
  return isQuote && String(uri).split('/')[3] === 'app.bsky.feed.post' ? String(uri) : null
}

function textAt({ record }: ExpectedRecord, path: string): string | null {
  const found = at(record, path)
  return typeof found === 'string' ? found : null
}
