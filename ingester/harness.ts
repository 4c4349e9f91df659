/** For tests: an ingester in this process, on a simulated network and a Redis of its own. */

import { readConfig } from '../shared/config.ts'
import { createLog } from '../shared/log.ts'
import { createHealth, createRegistry } from '../shared/metrics.ts'
import { runIngester } from './ingester.ts'
import { options } from './options.ts'

export interface LogLine {
  level: string
  msg: string
  [field: string]: unknown
}

export interface RunningIngester extends AsyncDisposable {
  readonly log: readonly LogLine[]
  /** The sum of a metric over the labels that have these values. */
  metric(name: string, labels?: Record<string, string>): Promise<number>
  /** Why it is not ready; empty when it is. */
  problems(): Record<string, string>
  /** Aborts its signal and waits until it has ended; throws what it ended with. */
  stop(): Promise<void>
  /** Resolves when it has ended; throws what it ended with. */
  readonly ended: Promise<void>
}

/** Starts an ingester with these settings; disposing stops it. */
export function startIngester(env: Record<string, string>): RunningIngester {
  const log: LogLine[] = []
  const write = (line: string) => void log.push(JSON.parse(line) as LogLine)
  const registry = createRegistry('ingester')
  const health = createHealth()
  const stopping = new AbortController()
  const config = readConfig(options, { ALLOW_PRIVATE_HOSTS: 'true', ...env })
  const logger = createLog('ingester', 'debug', { write })
  const worker = { config, log: logger, signal: stopping.signal, registry, health }
  const ended = runIngester(worker)
  ended.catch(() => {}) // whoever waits for it gets the error
  const stop = async () => {
    stopping.abort()
    await ended
  }
  return {
    log,
    ended,
    stop,
    problems: () => health.problems(),
    async metric(name, labels = {}) {
      const found = await registry.getSingleMetric(name)?.get()
      if (found === undefined) throw new Error(`no metric ${name}`)
      const fits = (have: Record<string, unknown>) =>
        Object.entries(labels).every(([key, value]) => have[key] === value)
      return found.values
        .filter((value) => fits(value.labels))
        .reduce((sum, { value }) => sum + value, 0)
    },
    [Symbol.asyncDispose]: () => stop().catch(() => {}),
  }
}
