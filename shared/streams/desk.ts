/** What a consumer has in hand, from the read to the end of each entry. */
import { crashPoint } from '../crash-point.ts'
import { errorText, InvalidEventError } from '../errors.ts'
import { redisFailure, throughOutages } from '../redis.ts'
import type { Consumer, Entry, Outcome } from './consumer.ts'
import type { RawEntry } from './intake.ts'
import { applyOrIsolate } from './isolate.ts'
import {
  acknowledgeAll,
  type DeadLetter,
  dropSuspicion,
  giveBack,
  type Place,
  raiseSuspicion,
  setAside,
} from './settle.ts'
import { compareIds } from './state.ts'

/** An entry delivered more often is opened alone: it may be what killed its readers. */
const deliveriesTogether = 3
/** A batch, and what is in hand, takes no more beyond so many characters: a record may have a million. */
const batchCharacters = 16_000_000
const handCharacters = 64_000_000
/** So many deaths while it was opened alone prove it. */
const deathsAlone = 3

interface Held<E> extends Entry<E> {
  fields: readonly string[]
}

const sizeOf = ({ fields }: { fields: readonly string[] }) =>
  fields.reduce((sum, field) => sum + field.length, 0)

/** An entry that should be a dead letter as soon as there is room for one. */
interface Condemned {
  entry: { id: string; fields: readonly string[]; deliveries: number }
  letter: DeadLetter
}

/** Shows that Redis does not answer. */
export interface AwayReport {
  begins: (failure?: 'away' | 'full') => void
  ends: () => void
}

export type Desk = ReturnType<typeof createDesk>

/**
 * Entries lie in queues (one a lane slot, or one for all), are worked on in batches, or wait aside:
 * barriers until everything before them is acknowledged, the condemned until Redis takes them.
 * `stop` ends retries; `hardStop` ends everything.
 */
export function createDesk<E>(
  consumer: Consumer<E>,
  place: Place,
  { stop, hardStop, away }: { stop: AbortSignal; hardStop: AbortSignal; away: AwayReport },
) {
  const { stream, batchSize, concurrency, lane, log, metrics, asideMost = 10_000 } = consumer
  const queues: Held<E>[][] = Array.from({ length: lane ? concurrency : 1 }, () => [])
  const working = queues.map(() => 0)
  const slots = lane ? 1 : concurrency
  const most = batchSize * concurrency * (lane ? 2 : 1)
  const inHand = new Set<string>()
  const barriers: Held<E>[] = []
  const condemned = new Map<string, Condemned>()
  const waiters = new Set<() => void>()
  const failures: unknown[] = []
  let inFlight = 0
  let exclusive = false
  let dlqFull = false

  const changed = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        waiters.delete(done)
        resolve()
      }
      const timer = setTimeout(done, ms)
      waiters.add(done)
    })
  const notify = () => {
    metrics.inHand.set({ stream }, inHand.size)
    metrics.aside.set({ stream, kind: 'barrier' }, barriers.length)
    metrics.aside.set({ stream, kind: 'dead_letter' }, condemned.size)
    for (const wake of [...waiters]) wake()
  }
  stop.addEventListener('abort', notify, { once: true })
  hardStop.addEventListener('abort', notify, { once: true })

  const redis = async <T>(call: () => Promise<T>): Promise<T> => {
    const result = await throughOutages(call, hardStop, away.begins)
    if (!dlqFull) away.ends()
    return result
  }

  const settle = async (entries: readonly Held<E>[], outcomes: readonly Outcome[]) => {
    crashPoint('consumer.applied', stream)
    const acknowledged: [string, string][] = []
    const others: (() => Promise<void>)[] = []
    for (const [index, entry] of entries.entries()) {
      const outcome = outcomes[index]
      if (outcome === undefined || outcome === 'pending') {
        others.push(() => redis(() => giveBack(place, entry)))
      } else if (typeof outcome === 'string') acknowledged.push([entry.id, outcome])
      else if ('settled' in outcome) end(entry.id, outcome.settled)
      else others.push(() => condemn(entry, outcome.deadLetter))
    }
    await acknowledge(acknowledged)
    for (const settleOne of others) await settleOne()
  }

  const end = (id: string, outcome: string) => {
    metrics.outcomes.inc({ stream, outcome })
    inHand.delete(id)
  }

  const acknowledge = async (outcomes: [string, string][]) => {
    if (outcomes.length === 0) return
    await redis(() => acknowledgeAll(place, outcomes))
    crashPoint('consumer.acknowledged', stream)
    for (const [id, outcome] of outcomes) end(id, outcome)
  }

  /** Makes it a dead letter, now or as soon as there is room. */
  const condemn = async (entry: Condemned['entry'], letter: DeadLetter) => {
    condemned.set(entry.id, { entry, letter })
    await redis(() => execute(entry.id))
  }

  const execute = async (id: string): Promise<void> => {
    const found = condemned.get(id)
    if (found === undefined) return
    let result: 'done' | 'gone' | 'full'
    try {
      crashPoint('consumer.before-dead-letter', stream)
      result = await setAside(place, found.entry, found.letter)
      crashPoint('consumer.dead-lettered', stream)
    } catch (error) {
      // No memory for a dead letter: it waits aside, and reading goes on.
      if (redisFailure(error) === 'full') return
      throw error
    }
    setDlqFull(result === 'full')
    if (result === 'full') return
    condemned.delete(id)
    inHand.delete(id)
    if (result === 'gone') return
    const { reason, error } = found.letter
    metrics.deadLetters.inc({ stream, reason })
    metrics.outcomes.inc({ stream, outcome: `dead:${reason}` })
    log.warn({ stream, entry: id, reason, error, attempt: found.entry.deliveries }, 'dead letter')
  }

  const setDlqFull = (full: boolean) => {
    if (full === dlqFull) return
    dlqFull = full
    metrics.intakeStopped.set({ stream }, full ? 1 : 0)
    const fields = { stream, deadLetterStream: place.deadLetterStream }
    if (full) {
      log.error(fields, 'the dead-letter stream is full: the intake stops')
      consumer.health?.notReady(`${place.deadLetterStream} is full`)
    } else {
      log.info(fields, 'the dead-letter stream has room again')
      consumer.health?.ready()
    }
  }

  /** Brings entries to their ends; what is left (a stop, a crash) is pending and no longer in hand. */
  const work = async (entries: readonly Held<E>[]): Promise<void> => {
    inFlight += 1
    try {
      await applyOrIsolate(entries, {
        apply: (batch, signal) => {
          crashPoint('consumer.before-apply', stream)
          return consumer.apply(batch, signal)
        },
        settle,
        reject: condemn,
        onRetry: (err, attempt) => {
          metrics.retries.inc({ stream })
          log.warn({ stream, err, attempt, count: entries.length }, 'batch failed, again soon')
        },
        signal: stop,
      })
    } catch (error) {
      if (!hardStop.aborted) failures.push(error)
    } finally {
      inFlight -= 1
      for (const { id } of entries) if (!condemned.has(id)) inHand.delete(id)
      notify()
    }
  }

  /** How many entries at the head of the queue make a batch. */
  const fitting = (queue: readonly Held<E>[]): number => {
    let characters = 0
    const end = queue.findIndex((held, index) => {
      const full = index === batchSize || characters >= batchCharacters
      characters += sizeOf(held)
      return full
    })
    return end === -1 ? queue.length : end
  }

  const pump = () => {
    if (failures.length > 0) return
    for (const [slot, queue] of queues.entries()) {
      while (queue.length > 0 && (working[slot] ?? 0) < slots) {
        working[slot] = (working[slot] ?? 0) + 1
        const batch = queue.splice(0, fitting(queue))
        void work(batch).finally(() => {
          working[slot] = (working[slot] ?? 1) - 1
          pump()
        })
      }
    }
  }

  const isQuiet = () => inFlight === 0 && queues.every((queue) => queue.length === 0)
  const quiet = async () => {
    pump()
    while (!isQuiet() && failures.length === 0 && !hardStop.aborted) await changed(1_000)
  }

  const open = (raw: RawEntry & { fields: string[] }): Held<E> | DeadLetter => {
    try {
      return { ...raw, event: consumer.decode(raw.fields) }
    } catch (error) {
      const reason = error instanceof InvalidEventError ? 'invalid' : 'bug'
      if (reason === 'bug') log.error({ stream, entry: raw.id, err: error }, 'decoding failed')
      return { reason, error: errorText(error) }
    }
  }

  const holdBarrier = (held: Held<E>) => {
    const after = barriers.findIndex((other) => compareIds(other.id, held.id) > 0)
    barriers.splice(after === -1 ? barriers.length : after, 0, held)
  }

  /** A suspect: nothing else is in flight while it is opened. */
  const openAlone = async (raw: RawEntry & { fields: string[] }) => {
    exclusive = true
    try {
      await quiet()
      if (failures.length > 0 || hardStop.aborted || !inHand.has(raw.id)) return
      const opened = await redis(() => raiseSuspicion(place, raw.id))
      crashPoint('consumer.suspected', stream)
      if (opened > deathsAlone) {
        const error = `its reader died ${deathsAlone} times while it was opened alone`
        return await condemn(raw, { reason: 'crash', error })
      }
      const held = open(raw)
      if ('reason' in held) await condemn(raw, held)
      else if (consumer.barrier?.(held.event)) holdBarrier(held)
      else await work([held])
      if (failures.length > 0) return
      await redis(() => dropSuspicion(place, raw.id))
      crashPoint('consumer.cleared', stream)
    } finally {
      exclusive = false
    }
  }

  return {
    changed,
    pump,
    failures,
    fail(error: unknown) {
      failures.push(error)
      notify()
    },
    ids: () => [...inHand],
    /** How many more entries may be read. */
    room(): number {
      if (dlqFull || condemned.size >= asideMost) return 0
      const queued = queues.flat().reduce((sum, held) => sum + sizeOf(held), 0)
      if (queued >= handCharacters) return 0
      return Math.max(0, most - (inHand.size - barriers.length - condemned.size))
    },

    /**
     * Whether so many barriers wait that nothing new is read. What is pending still is: they may wait
     * for an entry that a dead consumer has, or that was delivered to us and got lost on the way.
     */
    crowded: () => barriers.length >= asideMost,

    /** Takes what was read and not yet in hand; works on suspects at once, alone. */
    async receive(read: readonly RawEntry[]): Promise<void> {
      const fresh = read.filter(({ id }) => !inHand.has(id))
      for (const { id } of fresh) inHand.add(id)
      const gone: [string, string][] = []
      for (const { id, fields, deliveries } of fresh) {
        if (fields === null) {
          gone.push([id, 'nil'])
          continue
        }
        const raw = { id, fields, deliveries }
        if (deliveries > deliveriesTogether) {
          await openAlone(raw)
          continue
        }
        const held = open(raw)
        if ('reason' in held) await condemn(raw, held)
        else if (consumer.barrier?.(held.event)) holdBarrier(held)
        else queues[slotOf(lane?.(held.event), queues.length)]?.push(held)
      }
      await acknowledge(gone)
      pump()
      notify()
    },

    /** No longer ours: whatever has not begun is dropped. */
    drop(ids: readonly string[]): void {
      if (ids.length === 0) return
      const lost = new Set(ids)
      for (const id of ids) {
        inHand.delete(id)
        condemned.delete(id)
      }
      for (const list of [...queues, barriers]) {
        const kept = list.filter(({ id }) => !lost.has(id))
        list.splice(0, list.length, ...kept)
      }
      notify()
    },

    /** Applies the oldest barrier if it is the group's oldest pending entry; tells whether it did. */
    async passBarrier(): Promise<boolean> {
      const first = barriers[0]
      if (first === undefined || exclusive || failures.length > 0) return false
      const [, oldest] = (await place.redis.xpending(stream, place.group)) as [number, string]
      if (oldest !== first.id || exclusive || barriers[0] !== first) return false
      barriers.shift()
      await work([first])
      return true
    },

    /** Tries again to set aside what Redis had no room for. */
    async retryCondemned(): Promise<void> {
      for (const id of [...condemned.keys()].slice(0, 100)) await execute(id)
      notify()
    },

    /** After the stop: what is queued is still worked on, until all is done or time is up. */
    async drain(): Promise<void> {
      if (failures.length > 0) for (const queue of queues) queue.length = 0
      pump()
      while (!isQuiet() && !hardStop.aborted) {
        await changed(1_000)
        if (failures.length > 0) for (const queue of queues) queue.length = 0
      }
    },
  }
}

/** The same lane always gets the same slot. */
function slotOf(lane: string | undefined, slots: number): number {
  if (lane === undefined) return 0
  let hash = 0x811c9dc5
  for (let i = 0; i < lane.length; i += 1) {
    hash = Math.imul(hash ^ lane.charCodeAt(i), 0x01000193)
  }
  return (hash >>> 0) % slots
}
