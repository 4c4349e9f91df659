/** What a batch has left to the rules, and what somebody who died has left: any indexer does it. */
import { inTransaction } from '../../shared/postgres.ts'
import { retryTransient, sleep } from '../../shared/retry.ts'
import { type Key, readKeys } from './keys.ts'
import { type ReconcileOptions, reconcile } from './reconcile.ts'

/** A page of posts is looked at for each. */
const keysAtOnce = 50
const sweepEveryMs = 2_000
const sweepPage = 1_000
const maxQueued = 10_000
const maxSeen = 20_000

export interface Drain {
  /** Takes keys in hand; those that do not fit are found by a later sweep. */
  take: (keys: readonly Key[]) => void
  run: (signal: AbortSignal) => Promise<void>
}

/**
 * Does the keys that it is given, and what follows from them. Now and then it sweeps: a key that is
 * met twice is nobody's, for the keys of batches under way are gone by then.
 */
export function createDrain(options: ReconcileOptions): Drain {
  const queue: Key[] = []
  let seen = new Set<string>()
  let from: Pick<Key, 'kind' | 'key'> | null = null
  let waiting = new AbortController()

  const take = (keys: readonly Key[]) => {
    queue.push(...keys.slice(0, maxQueued - queue.length))
    waiting.abort()
  }

  const sweep = async () => {
    const { sql, schema, statementTimeoutMs } = options
    const found = await inTransaction(sql, { schema, statementTimeoutMs }, (sql) =>
      readKeys(sql, from, sweepPage),
    )
    from = found.length < sweepPage ? null : (found.at(-1) ?? null)
    if (seen.size > maxSeen) seen = new Set()
    const idOf = ({ kind, key, after }: Key) => `${kind} ${key} ${after}`
    take(found.filter((key) => seen.delete(idOf(key))))
    for (const key of found) seen.add(idOf(key))
  }

  const work = async (signal: AbortSignal) => {
    const keys = queue.splice(0, keysAtOnce)
    take(await retryTransient(() => reconcile(options, keys), { signal }))
  }

  const run = async (signal: AbortSignal) => {
    let sweepAt = 0
    try {
      while (!signal.aborted) {
        waiting = new AbortController()
        if (Date.now() >= sweepAt) {
          await retryTransient(sweep, { signal })
          sweepAt = Date.now() + sweepEveryMs
        }
        if (queue.length > 0) await work(signal)
        else await sleep(sweepAt - Date.now(), AbortSignal.any([signal, waiting.signal]))
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }
  return { take, run }
}
