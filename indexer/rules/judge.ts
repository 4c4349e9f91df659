/** What the columns of posts are to be that depend on other posts, gates and follows. */
import type { Transaction } from '../../shared/postgres.ts'
import { authorOf } from '../uri.ts'
import { forbidsQuotes, type ThreadGate } from './gates.ts'
import type { Key } from './keys.ts'
import { heightTold } from './notices.ts'
import { isMisplaced, type PostFacts, readGates, readKeptOut, readPosts } from './threads.ts'
import type { Page } from './walks.ts'

/** Why a post is looked at. */
export interface Reason {
  /** It came itself. */
  isNew: boolean
  /** It or its gate is new: who may reply is decided now, and not again when follows change. */
  decides: boolean
  /** There may be somebody to be told of it: it is new, or what is above it. */
  isNews: boolean
  /** Nobody is told. */
  quiet: boolean
  /** Down to how many levels below it others are to be told of it or of what is above it. */
  depth: number
}

/** What a post's columns are to be. */
export interface Judged {
  post: PostFacts
  reason: Reason
  isMisplaced: boolean
  isKeptOut: boolean
  isForbidden: boolean
}

/** Every post that is looked at; of several reasons the stronger part of each counts. */
export function reasonsOf(keys: readonly Key[], walked: readonly Page[]): Map<string, Reason> {
  const reasons = new Map<string, Reason>()
  const add = (uri: string, reason: Reason) => {
    const known = reasons.get(uri) ?? reason
    reasons.set(uri, {
      isNew: known.isNew || reason.isNew,
      decides: known.decides || reason.decides,
      isNews: known.isNews || reason.isNews,
      quiet: known.quiet && reason.quiet,
      depth: Math.max(known.depth, reason.depth),
    })
  }
  for (const { kind, key, quiet } of keys) {
    if (kind !== 'post') continue
    add(key, { isNew: true, decides: true, isNews: true, quiet, depth: heightTold })
  }
  for (const { key, uris } of walked) {
    const depth = Math.max(0, key.depth - 1)
    const decides = key.kind === 'thread'
    const isNews = key.kind === 'replies' && key.depth > 0
    for (const uri of uris) add(uri, { isNew: false, decides, isNews, quiet: key.quiet, depth })
  }
  return reasons
}

/** Judges the posts from what is there now. */
export async function judge(
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
