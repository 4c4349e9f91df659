/** Applying a batch: again while the surroundings fail, halved down to the entry that is at fault. */
import { errorText, halves, InvalidEventError, verdict } from '../errors.ts'
import { backoff, sleep } from '../retry.ts'
import type { DeadLetter } from './settle.ts'

/** An entry that times out alone this often is rejected. */
const timeoutsAlone = 3

export interface Isolation<Entry, Outcome> {
  apply: (entries: readonly Entry[], signal: AbortSignal) => Promise<readonly Outcome[]>
  /** Called for every part of the batch that was applied. */
  settle: (entries: readonly Entry[], outcomes: readonly Outcome[]) => Promise<void>
  /** Called for every entry that is at fault. */
  reject: (entry: Entry, letter: DeadLetter) => Promise<void>
  onRetry: (error: unknown, attempt: number) => void
  /** Aborts at the stop: a failure that would pass then leaves the entries pending. */
  signal: AbortSignal
}

/** Brings every entry to its end, in order. Throws what is a crash; what is left then stays pending. */
export async function applyOrIsolate<Entry, Outcome>(
  entries: readonly Entry[],
  isolation: Isolation<Entry, Outcome>,
): Promise<void> {
  const { apply, settle, reject, onRetry, signal } = isolation
  let timeouts = 0
  for (let attempt = 1; ; attempt += 1) {
    let outcomes: readonly Outcome[]
    try {
      outcomes = await apply(entries, signal)
    } catch (error) {
      const [first, ...rest] = entries
      const tooBig = halves(error)
      const judged = verdict(error)
      if (first === undefined || (judged === 'crash' && !tooBig)) throw error
      if (tooBig || judged === 'reject') {
        if (rest.length > 0) return inHalves(entries, isolation)
        timeouts += tooBig ? 1 : 0
        if (!tooBig) return reject(first, { reason: rejection(error), error: errorText(error) })
        if (timeouts >= timeoutsAlone)
          return reject(first, { reason: 'timeout', error: errorText(error) })
      }
      if (signal.aborted) return
      onRetry(error, attempt)
      await sleep(backoff(attempt), signal)
      if (signal.aborted) return
      continue
    }
    if (outcomes.length !== entries.length)
      throw new RangeError(`${outcomes.length} outcomes for ${entries.length} entries`)
    return settle(entries, outcomes)
  }
}

async function inHalves<Entry, Outcome>(
  entries: readonly Entry[],
  isolation: Isolation<Entry, Outcome>,
): Promise<void> {
  const middle = Math.ceil(entries.length / 2)
  await applyOrIsolate(entries.slice(0, middle), isolation)
  await applyOrIsolate(entries.slice(middle), isolation)
}

function rejection(error: unknown): string {
  return error instanceof InvalidEventError ? 'invalid' : 'rejected'
}
