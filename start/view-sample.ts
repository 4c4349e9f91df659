/** Measures once a second what the board shows: Redis, Postgres and the workers' pages. */
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { sleep } from '../shared/retry.ts'
import { streams } from '../shared/streams/names.ts'
import { measureRows, measureStreams } from './status.ts'
import type { Board } from './view-board.ts'
import { readLabelled, readPage } from './view-meter.ts'
import type { WorkerState } from './worker.ts'

const everyMs = 1_000
const pageWithinMs = 2_000
const tables = ['record', 'post', 'like', 'repost', 'follow', 'block', 'profile', 'label'] as const

export interface SampleOptions {
  board: Board
  redis: Redis
  sql: Sql
  schema: string
  workers: readonly WorkerState[]
  signal: AbortSignal
}

/** Measures until the signal aborts; whoever does not answer holds up none of the others. */
export async function sample(options: SampleOptions): Promise<void> {
  const { board, redis, sql, schema, signal } = options
  const [ingester, backfiller] = (['ingester', 'backfiller'] as const).map((service) =>
    options.workers.find((worker) => worker.service === service),
  )
  await Promise.all([
    each(signal, async () => board.streams(await measureStreams(redis))),
    each(signal, async () => board.rows(await measureRows(sql, schema, tables))),
    each(signal, async () => {
      const page = await pageOf(ingester, signal)
      if (page === null) return
      const counts = readPage(page)
      const lags = readLabelled(page, 'ingester_source_lag_seconds', 'host')
      const relays = readLabelled(page, 'ingester_source_seq', 'host', `stream="${streams.live}"`)
      const behind = [...relays.keys()].map((host) => lags.get(host) ?? 0)
      board.ingester({
        frames: counts.get('ingester_firehose_events_total') ?? 0,
        labels: counts.get('ingester_labeler_events_total') ?? 0,
        behindSeconds: behind.length > 0 ? Math.max(...behind) : null,
      })
    }),
    each(signal, async () => {
      const page = await pageOf(backfiller, signal)
      if (page === null) return
      board.backfiller({ repos: readPage(page).get('backfiller_repos_processed_total') ?? 0 })
    }),
    each(signal, async () => board.tick()),
  ])
}

/** Repeats it, and gives up on what still runs when the signal aborts. */
async function each(signal: AbortSignal, measure: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    const begun = performance.now()
    // What can't be measured shows on the board as no reply.
    const measured = measure().catch(() => undefined)
    await Promise.race([measured, aborted(signal)])
    await sleep(Math.max(50, everyMs - (performance.now() - begun)), signal)
  }
}

async function pageOf(worker: WorkerState | undefined, signal: AbortSignal) {
  if (worker === undefined || worker.page === null) return null
  const limit = AbortSignal.any([signal, AbortSignal.timeout(pageWithinMs)])
  const response = await fetch(`${worker.page}/metrics`, { signal: limit })
  return response.text()
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
