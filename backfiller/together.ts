/** Appends of many repos as one: a small repo is a call to Redis otherwise. */
import type { Entry, Producer } from '../shared/streams/producer.ts'

/** What one repo appends at once; refused as `RewoundError` when `epoch` is no longer the producer's. */
export interface Part {
  entries: readonly Entry[]
  /** About as many as its entries have. */
  bytes: number
  epoch: number
}

export interface Appender {
  /** As of the producer. */
  append: (part: Part) => Promise<void>
  readonly epoch: number
}

interface Waiting extends Part {
  settle: PromiseWithResolvers<void>
}

/**
 * While an append is under way those that come wait, and go together then: in their order, at most
 * so many entries and bytes, unless a part has more by itself.
 */
export function createAppender(
  producer: Producer,
  most: { entries: number; bytes: number },
): Appender {
  let waiting: Waiting[] = []
  let isBusy = false

  const takeTogether = (): Waiting[] => {
    const [first] = waiting
    let entries = 0
    let bytes = 0
    const end = waiting.findIndex((part, index) => {
      entries += part.entries.length
      bytes += part.bytes
      const isFull = entries > most.entries || bytes > most.bytes
      return index > 0 && (isFull || part.epoch !== first?.epoch)
    })
    const together = waiting.slice(0, end === -1 ? waiting.length : end)
    waiting = waiting.slice(together.length)
    return together
  }

  const appendAll = async () => {
    isBusy = true
    for (let parts = takeTogether(); parts.length > 0; parts = takeTogether()) {
      const entries = parts.flatMap((part) => part.entries)
      const { epoch = 0 } = parts[0] ?? {}
      try {
        await producer.append({ entries, epoch })
        for (const { settle } of parts) settle.resolve()
      } catch (error) {
        for (const { settle } of parts) settle.reject(error)
      }
    }
    isBusy = false
  }

  return {
    append(part) {
      const settle = Promise.withResolvers<void>()
      waiting.push({ ...part, settle })
      if (!isBusy) void appendAll()
      return settle.promise
    },
    get epoch() {
      return producer.epoch
    },
  }
}
