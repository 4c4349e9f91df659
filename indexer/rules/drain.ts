/** What a batch has left to the rules, and what somebody who died has left: any indexer does it. */
import { inTransaction } from '../../shared/postgres.ts'
import { retryTransient, sleep } from '../../shared/retry.ts'
import { readKeys } from './keys.ts'
import { type ReconcileOptions, reconcile } from './reconcile.ts'

/** A page of posts is looked at for each. */
const keysAtOnce = 50
const sweepEveryMs = 2_000

/** Reconciles some of the keys that are there, and returns how many it found. */
export async function drain(options: ReconcileOptions): Promise<number> {
  const { sql, schema, statementTimeoutMs } = options
  const keys = await inTransaction(sql, { schema, statementTimeoutMs }, (sql) =>
    readKeys(sql, keysAtOnce),
  )
  await reconcile(options, keys)
  return keys.length
}

export interface Drain {
  /** Says that there is something left. */
  wake: () => void
  run: (signal: AbortSignal) => Promise<void>
}

/** Drains what is there when it starts, when it is woken, and every now and then. */
export function createDrain(options: ReconcileOptions): Drain {
  let waiting = new AbortController()
  const run = async (signal: AbortSignal) => {
    while (!signal.aborted) {
      waiting = new AbortController()
      try {
        const found = await retryTransient(() => drain(options), { signal })
        if (found === 0) await sleep(sweepEveryMs, AbortSignal.any([signal, waiting.signal]))
      } catch (error) {
        if (!signal.aborted) throw error
      }
    }
  }
  return { wake: () => waiting.abort(), run }
}
