/** How long to stay away from a host whose connection has ended. Pure but for its chance. */
import { backoff } from '../shared/retry.ts'

/** A connection that held so long was a good one: the next failure starts counting anew. */
const stableMs = 60_000

/** Gives the wait after each connection, by how long it held, and how long the host wants at least. */
export function createReconnect(
  bounds: { initialMs: number; maxMs: number } = { initialMs: 500, maxMs: 60_000 },
): (heldMs: number, atLeastMs: number) => number {
  let failures = 0
  return (heldMs, atLeastMs) => {
    failures = heldMs >= stableMs ? 1 : failures + 1
    return Math.max(atLeastMs, backoff(failures, bounds))
  }
}
