/** Whether our clock or a relay's is wrong: told by many revs from our future. Pure. */
import { tidOf } from '../shared/repo/tid.ts'
import { maxAheadMs } from './commit.ts'

/** Of so many commits, as many may be ahead of us as single hosts with wrong clocks send. */
const commitsJudged = 1_000
const mostAhead = 200

export interface ClockWatch {
  /**
   * False when over a fifth of a thousand commits are ahead of our clock; then also for each further
   * one that is, until one is not: reading is to stop before it.
   */
  holds(rev: string): boolean
}

export function createClockWatch(now: () => number = Date.now): ClockWatch {
  let commits = 0
  let ahead = 0
  let wrong = false
  let readAt = Number.NEGATIVE_INFINITY
  let newest = ''
  return {
    holds(rev) {
      if (now() - readAt >= 1_000 || now() < readAt) {
        readAt = now()
        newest = tidOf((readAt + maxAheadMs) * 1_000, 1_023)
      }
      const isAhead = rev > newest
      if (wrong && isAhead) return false
      if (wrong || commits >= commitsJudged) commits = ahead = 0
      wrong = false
      commits += 1
      if (isAhead) ahead += 1
      wrong = ahead > mostAhead
      return !wrong
    },
  }
}
