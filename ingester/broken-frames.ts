/** Which frames could not be decoded, and how often: over the connections to one host. Pure. */
import { hash } from 'node:crypto'
import { createRecent } from './recent.ts'

const brokenRemembered = 1_000

/** Frames that could not be decoded, by their bytes and the position before them. */
export interface BrokenFrames {
  /** Counts a try, and gives how many there were. */
  count(frame: Uint8Array, after: number | null): number
  setAside(frame: Uint8Array, after: number | null): void
  isAside(frame: Uint8Array, after: number | null): boolean
}

export function createBrokenFrames(): BrokenFrames {
  const tries = new Map<string, number>()
  const aside = createRecent(brokenRemembered)
  const nameOf = (frame: Uint8Array, after: number | null) => `${after} ${hash('sha256', frame)}`
  return {
    count(frame, after) {
      const name = nameOf(frame, after)
      const count = (tries.get(name) ?? 0) + 1
      // A host that breaks another frame at each try must not fill the memory.
      if (tries.size >= brokenRemembered) tries.clear()
      tries.set(name, count)
      return count
    },
    setAside(frame, after) {
      const name = nameOf(frame, after)
      tries.delete(name)
      aside.add(name)
    },
    isAside: (frame, after) => aside.has(nameOf(frame, after)),
  }
}
