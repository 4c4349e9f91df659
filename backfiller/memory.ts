/** The bytes of repos that may be in memory at once, shared by all downloads of the process. */
import pLimit from 'p-limit'

/** What one repo holds of the memory; disposing gives all of it back. */
export interface Share extends Disposable {
  /** Sets bytes aside, or gives some back when negative; false when there are not so many left. */
  take: (bytes: number) => boolean
  /**
   * Waits for the right to take more than there is. One repo at a time has it, until it is disposed,
   * and needs nothing of the others: so nobody waits for ever.
   */
  exceed: (signal: AbortSignal) => Promise<void>
}

export interface Memory {
  share: () => Share
  /** Bytes that are set aside right now. */
  readonly taken: number
}

export function createMemory(bytes: number): Memory {
  const turns = pLimit(1)
  let taken = 0
  return {
    share() {
      let mine = 0
      let exceeds = false
      const disposed = Promise.withResolvers<void>()
      return {
        take(more) {
          if (more > 0 && !exceeds && taken + more > bytes) return false
          mine += more
          taken += more
          return true
        },
        exceed(signal) {
          if (exceeds) return Promise.resolve()
          return new Promise((resolve, reject) => {
            const abort = () => reject(signal.reason)
            if (signal.aborted) return abort()
            signal.addEventListener('abort', abort, { once: true })
            void turns(() => {
              signal.removeEventListener('abort', abort)
              exceeds = true
              resolve()
              return disposed.promise
            })
          })
        },
        [Symbol.dispose]() {
          taken -= mine
          mine = 0
          disposed.resolve()
        },
      }
    },
    get taken() {
      return taken
    },
  }
}
