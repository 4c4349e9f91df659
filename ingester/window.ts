/** What was received and is not durable yet: results in the order of arrival, bounded by number and bytes. */

export interface WindowLimits {
  count: number
  bytes: number
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

export interface Window<T> {
  /** Adds a result that may still be worked out; waits until there is room for the next. */
  push(result: Promise<T>, bytes: number): Promise<void>
  /** Nothing more will come. */
  end(): void
  /**
   * The next results, in order. Closes the batch when it is full, when nothing more is in the
   * window, or when `waitMs` have passed. Null when the window has ended and is empty, or when the
   * signal aborts. Throws what a result throws.
   */
  take(limits: TakeLimits): Promise<T[] | null>
  readonly count: number
  /** True while `push` waits for room. */
  readonly full: boolean
}

type Slot<T> = { bytes: number; state: 'open' } | Done<T>
type Done<T> = { bytes: number } & (
  | { state: 'done'; value: T }
  | { state: 'failed'; error: unknown }
)

interface Batch<T> {
  results: T[]
  bytes: number
}

export function createWindow<T>(limits: WindowLimits, signal: AbortSignal): Window<T> {
  let slots: { slot: Slot<T> }[] = []
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
  const isFull = () => slots.length >= limits.count || bytes >= limits.bytes
  const isReady = () => slots[0] !== undefined && slots[0].slot.state !== 'open'

  /** Moves what is ready into the batch; true when the batch is full. */
  const collect = (batch: Batch<T>, limits: TakeLimits): boolean => {
    const isFull = () => batch.results.length >= limits.most || batch.bytes >= limits.bytes
    let taken = 0
    for (const { slot } of slots) {
      if (slot.state === 'open' || isFull()) break
      if (slot.state === 'failed') throw slot.error
      batch.results.push(slot.value)
      batch.bytes += slot.bytes
      taken += 1
      bytes -= slot.bytes
    }
    if (taken > 0) {
      slots = slots.slice(taken)
      notify()
    }
    return isFull()
  }

  return {
    async push(result, size) {
      const place: { slot: Slot<T> } = { slot: { bytes: size, state: 'open' } }
      slots.push(place)
      bytes += size
      const settle = (slot: Slot<T>) => {
        place.slot = slot
        if (slots[0] === place) notify()
      }
      result.then(
        (value) => settle({ bytes: size, state: 'done', value }),
        (error: unknown) => settle({ bytes: size, state: 'failed', error }),
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
      while (!isReady()) {
        if (signal.aborted || (ended && slots.length === 0)) return null
        const left = idleUntil - Date.now()
        if (left <= 0) return []
        await changed(left)
      }
      const batch: Batch<T> = { results: [], bytes: 0 }
      const closeAt = Date.now() + waitMs
      for (;;) {
        const full = collect(batch, limits)
        const left = closeAt - Date.now()
        if (full || slots.length === 0 || left <= 0 || signal.aborted) return batch.results
        if (!isReady()) await changed(left)
      }
    },
    get count() {
      return slots.length
    },
    get full() {
      return isFull()
    },
  }
}
