/** Which of many like lines are worth a line in the log. */

const everyMs = 60_000

/** Gives how many of a kind were left out since the last one that was told, or null: leave this one out. */
export type Sample = (kind: string) => number | null

/** Lets the first of each kind through, and then one a minute. Kinds must be few. */
export function createSample(now: () => number = Date.now): Sample {
  const told = new Map<string, { at: number; leftOut: number }>()
  return (kind) => {
    const last = told.get(kind)
    if (last !== undefined && now() - last.at < everyMs) {
      last.leftOut += 1
      return null
    }
    told.set(kind, { at: now(), leftOut: 0 })
    return last?.leftOut ?? 0
  }
}
