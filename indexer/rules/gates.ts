/** What gates say: who may reply in a thread, and who may quote a post. Pure. */

/** Who may reply; null where everybody may. */
export interface ThreadGate {
  allow: Allowed | null
  hidden: ReadonlySet<string>
}

export interface Allowed {
  mentioned: boolean
  /** Those who follow the owner. */
  followers: boolean
  /** Those whom the owner follows. */
  followed: boolean
  lists: readonly string[]
}

interface Rule {
  $type: string
  list?: string
}

/** Reads the record of a threadgate. */
export function readThreadGate(json: string): ThreadGate {
  const { allow, hiddenReplies } = JSON.parse(json) as {
    allow?: readonly Rule[]
    hiddenReplies?: readonly string[]
  }
  // Another worker may have stored what the lexicon forbids.
  const hidden = new Set(Array.isArray(hiddenReplies) ? hiddenReplies : [])
  if (!Array.isArray(allow)) return { allow: null, hidden }
  const rules: readonly Rule[] = allow
  const has = (name: string) =>
    rules.some(({ $type }) => $type === `app.bsky.feed.threadgate#${name}Rule`)
  const lists = rules.flatMap(({ $type, list }) =>
    $type === 'app.bsky.feed.threadgate#listRule' && list !== undefined ? [list] : [],
  )
  return {
    allow: {
      mentioned: has('mention'),
      followers: has('follower'),
      followed: has('following'),
      lists,
    },
    hidden,
  }
}

/** Whether the record of a postgate keeps others from quoting. */
export function forbidsQuotes(json: string): boolean {
  const { embeddingRules } = JSON.parse(json) as { embeddingRules?: readonly Rule[] }
  const rules: readonly Rule[] = Array.isArray(embeddingRules) ? embeddingRules : []
  return rules.some(({ $type }) => $type === 'app.bsky.feed.postgate#disableRule')
}
