/** How fast a counter rises, from what it was at times. Pure: whoever asks tells the time. */

export interface Meter {
  /** The counter was this at this time, in milliseconds. One that falls begins anew. */
  take(value: number, at: number): void
  /** How much it rose a second over the window; null until there are two values. */
  perSecond(): number | null
}

/** Looks back over `windowMs`, at the least over the last two values; says nothing of less than `leastMs`. */
export function createMeter(windowMs: number, leastMs = 1): Meter {
  let points: { value: number; at: number }[] = []
  return {
    take(value, at) {
      const last = points.at(-1)
      if (last !== undefined && (value < last.value || at <= last.at)) points = []
      points.push({ value, at })
      const kept = points.findIndex((point) => at - point.at <= windowMs)
      points = points.slice(Math.max(0, Math.min(kept, points.length - 2)))
    },
    perSecond() {
      const [first, last] = [points[0], points.at(-1)]
      if (first === undefined || last === undefined) return null
      if (last.at - first.at < leastMs) return null
      return ((last.value - first.value) * 1_000) / (last.at - first.at)
    },
  }
}

/** The values of a Prometheus page by name, those of different labels added up. */
export function readPage(page: string): Map<string, number> {
  const sums = new Map<string, number>()
  for (const line of page.split('\n')) {
    const [, name, value] = /^([a-z_][a-z0-9_]*)(?:\{.*\})? (\S+)$/i.exec(line) ?? []
    const number = Number(value)
    if (name === undefined || !Number.isFinite(number)) continue
    sums.set(name, (sums.get(name) ?? 0) + number)
  }
  return sums
}

/** The values of one metric by one of its labels, of those whose labels hold `having`. */
export function readLabelled(
  page: string,
  name: string,
  label: string,
  having = '',
): Map<string, number> {
  const values = new Map<string, number>()
  for (const line of page.split('\n')) {
    if (!line.startsWith(`${name}{`) || !line.includes(having)) continue
    const labelled = new RegExp(`[{,]${label}="([^"]*)"`).exec(line)?.[1]
    const number = Number(line.slice(line.lastIndexOf(' ') + 1))
    if (labelled !== undefined && Number.isFinite(number)) values.set(labelled, number)
  }
  return values
}
