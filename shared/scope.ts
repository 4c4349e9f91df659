/** Which collections are followed: names, prefixes ending in `.*`, or `*` for all. Pure. */

/** Tells whether a collection is in a scope. */
export type Scope = (collection: string) => boolean

/** What is followed when nobody says otherwise: everything that an indexer keeps. */
export const defaultScope = 'app.bsky.*,chat.bsky.*,com.germnetwork.declaration'

/** Collections are upstream data: the answers remembered are bounded. */
const maxKnown = 10_000

/** Compiles the patterns of a scope. */
export function scopeOf(patterns: readonly string[]): Scope {
  const known = new Map<string, boolean>()
  return (collection) => {
    const answer = known.get(collection)
    if (answer !== undefined) return answer
    const fresh = patterns.some((pattern) => covers(pattern, collection))
    if (known.size < maxKnown) known.set(collection, fresh)
    return fresh
  }
}

/** Whether one pattern covers a collection. */
export function covers(pattern: string, collection: string): boolean {
  if (pattern === '*' || pattern === collection) return true
  return pattern.endsWith('.*') && collection.startsWith(pattern.slice(0, -1))
}
