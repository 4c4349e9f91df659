/** How often something may be done: for each name, and for all together. Pure. */

export interface Budget {
  /** `taken` when it may be done now, and then it counts; else why not: it was of late, or all is spent. */
  take(name: string): 'taken' | 'recent' | 'spent'
  /** The name may be taken again at once. */
  renew(name: string): void
}

/** Names taken lately that are remembered; a forgotten one may be taken again. */
const remembered = 100_000

export function createBudget(options: {
  perSecond: number
  /** What may be saved up. */
  most: number
  /** At most once in this time for each name. */
  eachMs: number
  now: () => number
}): Budget {
  const { perSecond, most, eachMs, now } = options
  const taken = new Map<string, number>()
  let saved = most
  let since = now()
  return {
    take(name) {
      const last = taken.get(name)
      const at = now()
      if (last !== undefined && at - last < eachMs) return 'recent'
      saved = Math.min(most, saved + ((at - since) * perSecond) / 1_000)
      since = at
      if (saved < 1) return 'spent'
      saved -= 1
      taken.delete(name)
      taken.set(name, at)
      for (const oldest of taken.keys()) {
        if (taken.size <= remembered) break
        taken.delete(oldest)
      }
      return 'taken'
    },
    renew: (name) => void taken.delete(name),
  }
}
