/**
 * What was received and is not durable yet, bounded by number and bytes. Results of one key leave in
 * the order of their arrival; what waits for a key holds no other.
 */
import { createQueue } from './queue.ts'

export interface WindowLimits {
  count: number
  bytes: number
  /** Results that have left while an older one has not; each of them is read again after a crash. */
  ahead?: number
}

export interface TakeLimits {
  /** Most results of one batch. */
  most: number
  /** A batch that has so many bytes takes no more. */
  bytes: number
  /** How long a batch that has begun waits for results that are still being worked out. */
  waitMs: number
  /** How long to wait for a first result; then the batch is empty. */
  idleMs: number
}

export interface Place<M> {
  bytes: number
  /** Whose order counts; null for what has none. */
  key: string | null
  /** What may be said once all that came before, and this, has left the window; null for nothing. */
  mark: M | null
}

export interface Batch<T, M> {
  results: T[]
  /** The newest mark before which nothing is left in the window, when that moved. */
  mark: M | null
}

export interface Window<T, M> {
  /** Adds a result that may still be worked out; waits until there is room for the next. */
  push(result: Promise<T>, place: Place<M>): Promise<void>
  /** Nothing more will come. */
  end(): void
  /**
   * The next results, those of each key in order. Closes the batch when it is full, when nothing more
   * is in the window, or when `waitMs` have passed. Null when the window has ended and is empty, or
   * when the signal aborts. Throws what a result throws.
   */
  take(limits: TakeLimits): Promise<Batch<T, M> | null>
  /** Results that have not left. */
  readonly count: number
  /** True while `push` waits for room. */
  readonly full: boolean
}

interface Slot<T, M> {
  place: Place<M>
  state: { name: 'open' } | { name: 'done'; value: T } | { name: 'failed'; error: unknown } | Left
}
type Left = { name: 'left' }
const left: Left = { name: 'left' }

export function createWindow<T, M>(limits: WindowLimits, signal: AbortSignal): Window<T, M> {
  /** All since the oldest that has not left. */
  const slots = createQueue<Slot<T, M>>()
  /** Those that are worked out and are the oldest of their key. */
  const ready = createQueue<Slot<T, M>>()
  const lanes = new Map<string, Slot<T, M>[]>()
  const { ahead = 100_000 } = limits
  let count = 0
  let bytes = 0
  let ended = false
  let waiting: (() => void)[] = []

  const notify = () => {
    const wakes = waiting
    waiting = []
    for (const wake of wakes) wake()
  }
  signal.addEventListener('abort', notify, { once: true })

  /** Resolves at the next change, or after so long; whoever waits looks again then. */
  const changed = (ms?: number) =>
    new Promise<void>((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(notify, ms)
      waiting.push(() => {
        clearTimeout(timer)
        resolve()
      })
    })
  const isFull = () =>
    count >= limits.count || bytes >= limits.bytes || slots.length - count >= ahead

  const enter = (slot: Slot<T, M>) => {
    const { key } = slot.place
    slots.add(slot)
    count += 1
    bytes += slot.place.bytes
    if (key === null) return
    const lane = lanes.get(key)
    if (lane === undefined) lanes.set(key, [slot])
    else lane.push(slot)
  }

  const isNext = (slot: Slot<T, M>) => {
    const { key } = slot.place
    return key === null || lanes.get(key)?.[0] === slot
  }

  /** The slot leaves, and the next of its key may. */
  const leave = (slot: Slot<T, M>) => {
    const { key, bytes: size } = slot.place
    slot.state = left
    count -= 1
    bytes -= size
    if (key === null) return
    const lane = lanes.get(key)
    lane?.shift()
    const next = lane?.[0]
    if (next === undefined) lanes.delete(key)
    else if (next.state.name !== 'open') ready.add(next)
  }

  /** Moves what is ready into the batch; true when the batch is full. */
  const collect = (batch: { results: T[]; bytes: number }, limits: TakeLimits): boolean => {
    const isFull = () => batch.results.length >= limits.most || batch.bytes >= limits.bytes
    for (let slot = ready.first(); slot !== undefined && !isFull(); slot = ready.first()) {
      if (slot.state.name === 'failed') throw slot.state.error
      if (slot.state.name === 'done') batch.results.push(slot.state.value)
      batch.bytes += slot.place.bytes
      ready.drop()
      leave(slot)
    }
    return isFull()
  }

  /** The newest mark of those at the head that have left. */
  const passed = (): M | null => {
    let mark: M | null = null
    for (let slot = slots.first(); slot?.state.name === 'left'; slot = slots.first()) {
      mark = slot.place.mark ?? mark
      slots.drop()
    }
    return mark
  }

  return {
    async push(result, place) {
      const slot: Slot<T, M> = { place, state: { name: 'open' } }
      enter(slot)
      const settle = (state: Slot<T, M>['state']) => {
        slot.state = state
        if (!isNext(slot)) return
        ready.add(slot)
        notify()
      }
      result.then(
        (value) => settle({ name: 'done', value }),
        (error: unknown) => settle({ name: 'failed', error }),
      )
      while (isFull() && !signal.aborted) await changed()
    },
    end() {
      ended = true
      notify()
    },
    async take(limits) {
      const { waitMs, idleMs } = limits
      const idleUntil = Date.now() + idleMs
      while (ready.length === 0) {
        if (signal.aborted || (ended && count === 0)) return null
        const left = idleUntil - Date.now()
        if (left <= 0) return { results: [], mark: null }
        await changed(left)
      }
      const batch = { results: [], bytes: 0 }
      const closeAt = Date.now() + waitMs
      for (;;) {
        const full = collect(batch, limits)
        const left = closeAt - Date.now()
        if (full || count === 0 || left <= 0 || signal.aborted) {
          const mark = passed()
          notify()
          return { results: batch.results, mark }
        }
        if (ready.length === 0) await changed(left)
      }
    },
    get count() {
      return count
    },
    get full() {
      return isFull()
    },
  }
}
