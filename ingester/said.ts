/** What several relays say alike is said on once: by the first whose words are durable. */
import { createRecent } from './recent.ts'

/** Words remembered: some hours of #identity and #account. */
const mostSaid = 20_000
const mostPending = 5_000
/** Whoever said it first may have lost its connection before it was durable. */
const patienceMs = 5_000

export interface Said {
  /** True when these words are to be said on, with `durable` called once they are; false when they have been. */
  isNew(words: string): Promise<boolean>
  durable(words: string): void
  /** What was durable may be so no more. */
  clear(): void
}

export function createSaid(wait = patienceMs): Said {
  const said = createRecent(mostSaid)
  const pending = new Map<string, PromiseWithResolvers<void>>()

  const claim = (words: string): true => {
    if (pending.size >= mostPending) pending.clear()
    pending.set(words, Promise.withResolvers())
    return true
  }

  return {
    async isNew(words) {
      if (said.has(words)) return false
      const other = pending.get(words)
      if (other === undefined) return claim(words)
      let timer: NodeJS.Timeout | undefined
      const over = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, wait)
      })
      await Promise.race([other.promise, over])
      clearTimeout(timer)
      return said.has(words) ? false : claim(words)
    },
    durable(words) {
      said.add(words)
      pending.get(words)?.resolve()
      pending.delete(words)
    },
    clear() {
      said.clear()
      for (const { resolve } of pending.values()) resolve()
      pending.clear()
    },
  }
}
