/** Entries in hand that go back to the end of their stream, many in one step. */
import type { Redis } from 'ioredis'
import { ledgerKey, suspectsKey } from './names.ts'
import { script } from './script.ts'

const requeue = script('requeue.lua')

/** How the ledger counts an entry that went on as another one. */
export const requeued = 'refused:requeued'
/** Entries in one call of the script. */
const mostAtOnce = 200

/**
 * Puts an entry at the end of the stream with these fields, and ends it where it is as `requeued`, in
 * one step. Gives the new id, or null for an entry that was no longer pending.
 */
export type Requeue = (id: string, fields: readonly string[]) => Promise<string | null>

/** Entries that are put back at the same time share one step. */
export function createRequeue(options: {
  redis: Redis
  stream: string
  group: string
  /** Whether no other group counts on this stream. */
  alone: boolean
}): Requeue {
  const { redis, stream, group, alone } = options
  const keys = [stream, ledgerKey(stream, group), suspectsKey(stream)]
  let waiting: { id: string; fields: readonly string[]; settle: Settle }[] = []

  const flush = () => {
    const entries = waiting
    waiting = []
    for (let from = 0; from < entries.length; from += mostAtOnce) {
      void putBack(entries.slice(from, from + mostAtOnce))
    }
  }

  const putBack = async (entries: typeof waiting) => {
    try {
      const args = entries.flatMap(({ id, fields }) => [id, fields.length, ...fields])
      const ids = (await requeue(redis, keys, [
        group,
        alone ? 1 : 0,
        requeued,
        ...args,
      ])) as string[]
      for (const [index, { settle }] of entries.entries()) settle.resolve(ids[index] || null)
    } catch (error) {
      for (const { settle } of entries) settle.reject(error)
    }
  }

  return (id, fields) => {
    const settle = Promise.withResolvers<string | null>()
    if (waiting.length === 0) setImmediate(flush)
    waiting.push({ id, fields, settle })
    return settle.promise
  }
}

type Settle = PromiseWithResolvers<string | null>
