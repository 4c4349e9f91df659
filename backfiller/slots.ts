/** Places to work in: so many for repos that get on, and some for those whose hosts take their time. */
import { NotNowError } from './hosts.ts'
import { line } from './line.ts'

/** A place that one repo has; disposing gives it to the next. */
export interface Slot extends Disposable {
  /** Moves to a place for slow ones; throws NotNowError when there is none. */
  drag: () => void
}

export interface Slots {
  /**
   * Waits for a place; who is urgent comes first. For a host known as slow it is one of those for slow
   * ones, and NotNowError where these are taken. Throws the signal's reason when that aborts first.
   */
  take: (how: { slow: boolean; urgent: boolean; signal: AbortSignal }) => Promise<Slot>
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

  const occupy = (lane: 'fast' | 'slow'): Slot => {
    let mine: 'fast' | 'slow' | null = lane
    used[lane] += 1
    return {
      drag() {
        if (mine !== 'fast') return
        if (used.slow >= slow) throw new NotNowError('too many hosts are slow')
        mine = 'slow'
        used.slow += 1
        release('fast')
      },
      [Symbol.dispose]() {
        if (mine !== null) release(mine)
        mine = null
      },
    }
  }

  return {
    take: (how) =>
      new Promise((resolve, reject) => {
        const { urgent, signal } = how
        if (signal.aborted) return reject(signal.reason)
        if (how.slow) {
          if (used.slow >= slow) return reject(new NotNowError('too many hosts are slow'))
          return resolve(occupy('slow'))
        }
        if (used.fast < fast) return resolve(occupy('fast'))
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
      }),
    get full() {
      return used.fast >= fast
    },
  }
}
