/** Whom a post tells: pure, from the post, its ancestors and the gates. */
import { authorOf } from '../uri.ts'

/** What a post may tell, the first before the others. */
export const reasons = ['mention', 'quote', 'reply'] as const

/** That an account is told of a post. */
export interface Notice {
  to: string
  reason: (typeof reasons)[number]
  /** The URI that it is about, or null. */
  subject: string | null
}

/** How far up a thread a reply is told of. */
export const heightTold = 4

export interface Told {
  creator: string
  /** The accounts that its text mentions, in the order of the text. */
  mentions: readonly string[]
  /** The URI of the post that it quotes and may quote, or null. */
  quoted: string | null
  /** Whether the gate of its thread keeps it out. */
  isKeptOut: boolean
  /** The posts above it that are there, the nearest first. */
  ancestors: readonly string[]
  /** The replies that the owner of its thread hides. */
  hidden: ReadonlySet<string>
}

/** One notice for each account at most: of a mention, else of a quote, else of a reply. */
export function noticesOf(post: Told): Notice[] {
  const { creator, mentions, quoted, isKeptOut, ancestors, hidden } = post
  const notices = new Map<string, Notice>()
  const tell = (to: string, reason: Notice['reason'], subject: string | null) => {
    if (to !== creator && !notices.has(to)) notices.set(to, { to, reason, subject })
  }
  for (const did of mentions) tell(did, 'mention', null)
  if (quoted !== null) tell(authorOf(quoted), 'quote', quoted)
  if (isKeptOut) return [...notices.values()]
  for (const ancestor of ancestors) {
    tell(authorOf(ancestor), 'reply', ancestor)
    // Whoever answers a hidden reply is not heard further up.
    if (hidden.has(ancestor)) break
  }
  return [...notices.values()]
}

/** A stored notification of a post, as far as it matters here. */
export interface Stored {
  did: string
  reason: string
  reasonSubject: string | null
}

/**
 * Whether a stored notification is no longer what the post tells. Of ancestors that are gone nothing
 * is unsaid: `isWhole` is false when the thread above the post has a gap.
 */
export function isRefuted(
  stored: Stored,
  told: readonly Notice[],
  post: Pick<Told, 'isKeptOut' | 'ancestors'>,
  isWhole: boolean,
): boolean {
  const same = told.find(({ to }) => to === stored.did)
  if (same?.reason === stored.reason && same.subject === stored.reasonSubject) return false
  if (stored.reason !== 'reply' || isWhole || post.isKeptOut || same !== undefined) return true
  return post.ancestors.includes(stored.reasonSubject ?? '')
}

interface Facet {
  features?: readonly { $type?: string; did?: string }[]
}

/** The accounts that a record's text mentions, in the order of the text. */
export function mentionsOf(json: string): string[] {
  const { facets } = JSON.parse(json) as { facets?: readonly Facet[] }
  // Another worker may have stored what the lexicon forbids.
  const list: readonly Facet[] = Array.isArray(facets) ? facets : []
  return list
    .flatMap(({ features }) => features ?? [])
    .flatMap(({ $type, did }) =>
      $type === 'app.bsky.richtext.facet#mention' && did !== undefined ? [did] : [],
    )
}
