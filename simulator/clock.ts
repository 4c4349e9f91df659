/** The network's time, and the TIDs made from it. */

export interface Clock {
  /** Microseconds since 1970; each reading is later than the one before. */
  now(): number
  /** The next TID: ordered, and never given twice. */
  tid(): string
  /** The time as an ISO string with milliseconds. */
  iso(): string
  /** Moves a stepped clock forward; a wall clock ignores it. */
  advance(milliseconds: number): void
}

const alphabet = '234567abcdefghijklmnopqrstuvwxyz'

/** Thirteen characters: 53 bits of microseconds, 10 bits of clock id. */
export function formatTid(microseconds: number, clockId: number): string {
  let bits = (BigInt(microseconds) << 10n) | BigInt(clockId & 1023)
  let text = ''
  for (let digit = 0; digit < 13; digit++) {
    text = alphabet.charAt(Number(bits & 31n)) + text
    bits >>= 5n
  }
  return text
}

/** A clock that only moves when it is read (or told to), so that a run is the same every time. */
export function steppedClock(startMs: number, stepMs: number, clockId: number): Clock {
  let at = startMs * 1000
  const now = () => {
    at += stepMs * 1000
    return at
  }
  return {
    ...readings(now, clockId),
    advance: (milliseconds) => {
      at += milliseconds * 1000
    },
  }
}

/** The machine's clock, made strictly increasing. */
export function wallClock(clockId: number): Clock {
  let at = 0
  const now = () => {
    at = Math.max(at + 1, Date.now() * 1000)
    return at
  }
  return { ...readings(now, clockId), advance: () => {} }
}

function readings(now: () => number, clockId: number) {
  return {
    now,
    tid: () => formatTid(now(), clockId),
    iso: () => new Date(Math.floor(now() / 1000)).toISOString(),
  }
}
