/** Places to work in: so many for repos that get on, and some for those whose hosts take their time. */
import { NotNowError } from './hosts.ts'
import { line } from './line.ts'

/** Where one repo works: at first nowhere, as long as there is nothing but a question to a host. */
export interface Place extends Disposable {
  /** Waits for a place, unless it has one. Throws the signal's reason when that aborts first. */
  enter: (signal: AbortSignal) => Promise<void>
  /** Moves to a place for the slow; throws NotNowError when there is none. */
  drag: () => void
}

export interface Slots {
  /** Who is urgent is let in first. */
  place: (urgent: boolean) => Place
  /** Whether a repo that gets on would have to wait. */
  readonly full: boolean
}

interface Waiter {
  urgent: boolean
  go: () => void
}

export function createSlots({ fast, slow }: { fast: number; slow: number }): Slots {
  const used = { fast: 0, slow: 0 }
  const waiting: Waiter[] = []

  const release = (lane: 'fast' | 'slow') => {
    used[lane] -= 1
    if (lane === 'fast' && used.fast < fast) waiting.shift()?.go()
  }

  return {
    place(urgent) {
      let mine: 'fast' | 'slow' | null = null
      const occupy = (lane: 'fast' | 'slow') => {
        used[lane] += 1
        if (mine !== null) release(mine)
        mine = lane
      }
      return {
        enter(signal) {
          if (mine !== null) return Promise.resolve()
          if (signal.aborted) return Promise.reject(signal.reason)
          if (used.fast < fast) return Promise.resolve(occupy('fast'))
          return new Promise((resolve, reject) => {
            const waiter: Waiter = {
              urgent,
              go() {
                signal.removeEventListener('abort', leave)
                resolve(occupy('fast'))
              },
            }
            const leave = () => {
              waiting.splice(waiting.indexOf(waiter), 1)
              reject(signal.reason)
            }
            signal.addEventListener('abort', leave, { once: true })
            line(waiting, waiter)
          })
        },
        drag() {
          if (mine === 'slow') return
          if (used.slow >= slow) throw new NotNowError('too many hosts are slow')
          occupy('slow')
        },
        [Symbol.dispose]() {
          if (mine !== null) release(mine)
          mine = null
        },
      }
    },
    get full() {
      return used.fast >= fast
    },
  }
}
