/** Trimming: only below what every group that counts has acknowledged. */
import type { Redis } from 'ioredis'
import type { Logger } from 'pino'
import type { StreamMetrics } from './metrics.ts'
import { script } from './script.ts'

const trim = script('trim.lua')

export interface Trimmed {
  removed: number
  /** Groups that are there but not named: they hold trimming. */
  unnamed: string[]
  /** Groups that are named but not there yet: they hold trimming. */
  missing: string[]
}

/** Trims once; a big backlog takes several calls. */
export async function trimStream(
  redis: Redis,
  stream: string,
  groups: readonly string[],
): Promise<Trimmed> {
  const [removed, unnamed, missing] = (await trim(redis, [stream], groups)) as [
    number,
    string[],
    string[],
  ]
  return { removed, unnamed, missing }
}

const reportEveryMs = 60_000

/** Reports, once a minute, the groups that hold trimming. */
export function createTrimReport(options: {
  stream: string
  log: Logger
  metrics: StreamMetrics
  now?: () => number
}): (trimmed: Trimmed) => void {
  const { stream, log, metrics, now = Date.now } = options
  let reportAt = Number.NEGATIVE_INFINITY
  let shown: string[] = []
  return ({ unnamed, missing }) => {
    for (const group of shown)
      if (!unnamed.includes(group)) metrics.unnamedGroups.remove({ stream, group })
    for (const group of unnamed) metrics.unnamedGroups.set({ stream, group }, 1)
    shown = unnamed
    if (unnamed.length + missing.length === 0 || now() < reportAt) return
    reportAt = now() + reportEveryMs
    log.warn({ stream, unnamed, missing }, 'trimming is held: unnamed or missing groups')
  }
}
