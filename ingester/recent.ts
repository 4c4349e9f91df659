/** A set that remembers the newest of what it is given. Pure. */

export interface Recent {
  add(item: string): void
  has(item: string): boolean
  clear(): void
}

/** Holds at most so many items; the ones added longest ago are forgotten. */
export function createRecent(most: number): Recent {
  const items = new Set<string>()
  return {
    add(item) {
      items.delete(item)
      items.add(item)
      if (items.size <= most) return
      for (const oldest of items) {
        items.delete(oldest)
        return
      }
    },
    has: (item) => items.has(item),
    clear: () => items.clear(),
  }
}
