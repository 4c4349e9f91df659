/** How fast the queue is looked through for requests that can be served now. */
import { sleep } from '../shared/retry.ts'
import { compareIds } from '../shared/streams/state.ts'

/** Between two entries that are put back, on the average. */
const spacingMs = 1
/** They go by dozens: put back, and others read, in one step. */
const togetherMs = 20
const shortestRestMs = 250
const longestRestMs = 5_000
const fullPollMs = 20

/** Requests that can't be served now go back to the end of the queue; this keeps them from spinning. */
export interface Pace {
  /** Waits until the entry may be put back. Ends early when the signal aborts. */
  turn: (id: string, signal: AbortSignal) => Promise<void>
  /** It was put back, and has this id now. */
  wasPutBack: (id: string) => void
  /** A request could be served: the round is worth its while. */
  served: () => void
}

/**
 * Nothing is put back while all places are taken: then there is no need to look further. After a
 * whole round in which nothing could be served there is a rest, longer each time.
 */
export function createPace(isFull: () => boolean): Pace {
  /** The first entry that was put back in this round: when it comes again, the round is over. */
  let roundEnds: string | null = null
  let isIdle = true
  let restMs = shortestRestMs
  let next = 0
  let room: Promise<void> | null = null

  /** One look for all who wait. */
  const untilRoom = (signal: AbortSignal) => {
    room ??= (async () => {
      while (isFull() && !signal.aborted) await sleep(fullPollMs, signal)
      room = null
    })()
    return room
  }

  const endRound = () => {
    roundEnds = null
    if (isIdle) {
      next = Math.max(next, Date.now() + restMs)
      restMs = Math.min(restMs * 2, longestRestMs)
    }
    isIdle = true
  }

  return {
    async turn(id, signal) {
      if (roundEnds !== null && compareIds(id, roundEnds) >= 0) endRound()
      if (isFull()) await untilRoom(signal)
      const now = Date.now()
      next = Math.max(now, next) + spacingMs
      await sleep(Math.ceil(next / togetherMs) * togetherMs - now, signal)
    },
    wasPutBack(id) {
      roundEnds ??= id
    },
    served() {
      isIdle = false
      restMs = shortestRestMs
    },
  }
}
