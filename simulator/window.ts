/** A replay window: the newest frames of a stream, bounded by bytes. */

export interface Entry {
  /** The frame's own seq, or that of the frame before when it has none. */
  seq: number
  frame: Uint8Array
}

export interface ReplayWindow {
  /** Index of the oldest frame kept; indexes count all frames ever appended. */
  readonly start: number
  /** Index that the next frame will get. */
  readonly end: number
  readonly bytes: number
  readonly lastSeq: number
  append(frame: Uint8Array, seq: number | null): void
  /** The entry at an index; undefined when trimmed or not yet there. */
  at(index: number): Entry | undefined
  /** Index of the first frame kept with `seq >= cursor`; `end` when there is none. */
  find(cursor: number): number
  /** Bytes of the frames kept from an index on. */
  bytesFrom(index: number): number
}

/** Keeps at least the newest frame, whatever its size. `firstSeq - 1` is the last seq of an empty window. */
export function createWindow(maxBytes: number, firstSeq: number): ReplayWindow {
  let entries: (Entry & { before: number })[] = []
  let dropped = 0 // entries at the head of the array that are no longer in the window
  let base = 0 // index of entries[0]
  let total = 0 // bytes ever appended
  let lastSeq = firstSeq - 1

  const start = () => base + dropped
  const end = () => base + entries.length
  const bytesFrom = (index: number) => {
    const entry = entries[Math.max(index, start()) - base]
    return entry === undefined ? 0 : total - entry.before
  }
  const trim = () => {
    while (end() - start() > 1 && bytesFrom(start()) > maxBytes) {
      const gone = entries[dropped++]
      if (gone !== undefined) gone.frame = new Uint8Array()
    }
    // Amortised: the array is copied once for each half of it that has left the window.
    if (dropped < 1024 || dropped * 2 < entries.length) return
    entries = entries.slice(dropped)
    base += dropped
    dropped = 0
  }

  return {
    get start() {
      return start()
    },
    get end() {
      return end()
    },
    get bytes() {
      return bytesFrom(start())
    },
    get lastSeq() {
      return lastSeq
    },
    append(frame, seq) {
      lastSeq = seq ?? lastSeq
      entries.push({ seq: lastSeq, frame, before: total })
      total += frame.length
      trim()
    },
    at: (index) => (index < start() ? undefined : entries[index - base]),
    find(cursor) {
      let low = start()
      let high = end()
      while (low < high) {
        const middle = (low + high) >>> 1
        if ((entries[middle - base]?.seq ?? 0) < cursor) low = middle + 1
        else high = middle
      }
      return low
    },
    bytesFrom,
  }
}
