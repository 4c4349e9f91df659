/** Which collections are followed: exact names, `prefix.*`, or `*` for all. Pure. */

/** What an ingester and a backfiller follow when nobody says otherwise: what an indexer keeps. */
export const defaultScope = 'app.bsky.*,chat.bsky.*,com.germnetwork.declaration'

/** Compiles a scope, as `app.bsky.*` and `com.example.record`, into a test of a collection's name. */
export function scopeFilter(scope: readonly string[]): (collection: string) => boolean {
  const exact = new Set(scope.filter((part) => !part.endsWith('*')))
  const prefixes = scope.filter((part) => part.endsWith('*')).map((part) => part.slice(0, -1))
  const known = new Map<string, boolean>()
  return (collection) => {
    const before = known.get(collection)
    if (before !== undefined) return before
    const inScope =
      exact.has(collection) || prefixes.some((prefix) => collection.startsWith(prefix))
    if (known.size < maxKnown) known.set(collection, inScope)
    return inScope
  }
}

/** Collections whose answer is remembered; others are worked out each time. */
const maxKnown = 1_000

/** Reads one item of a scope, or throws an Error that says what was expected. */
export function scopePart(value: string): string {
  const isPart = value === '*' || /^[a-zA-Z][a-zA-Z0-9.-]*(\.\*)?$/.test(value)
  if (isPart && !value.includes('..')) return value
  throw new Error(`must hold names such as app.bsky.feed.post, prefixes such as app.bsky.*, or *`)
}
