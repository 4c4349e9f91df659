/** Which collections are meant: NSIDs, `prefix.*`, and `*` for all. */

export type Scope = (collection: string) => boolean

/** Whether one pattern covers a collection. */
export function covers(pattern: string, collection: string): boolean {
  if (pattern === '*' || pattern === collection) return true
  return pattern.endsWith('.*') && collection.startsWith(pattern.slice(0, -1))
}

/** The collections that at least one of the patterns covers. */
export function scopeOf(patterns: readonly string[]): Scope {
  const known = new Map<string, boolean>()
  return (collection) => {
    const answer = known.get(collection)
    if (answer !== undefined) return answer
    const fresh = patterns.some((pattern) => covers(pattern, collection))
    // Collections are upstream data: the memory for them is bounded.
    if (known.size < 10_000) known.set(collection, fresh)
    return fresh
  }
}
