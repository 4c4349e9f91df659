/** One of the workers, kept running: started again when it ends, and watched through its /ready. */
import { errorText } from '../shared/errors.ts'
import { type Lean, leanIndexer, leanIngester } from '../shared/lean.ts'
import { backoff, sleep } from '../shared/retry.ts'
import { type Child, endLeftChild, startChild } from './child.ts'
import { plainLine } from './plain.ts'
import type { Exit } from './process.ts'

export type Service = 'ingester' | 'indexer' | 'backfiller'

export interface WorkerOptions {
  service: Service
  env: Readonly<Record<string, string | undefined>>
  /** Where its log is kept. */
  dir: string
  say: (text: string) => void
  signal: AbortSignal
}

const lean: Readonly<Record<Service, Lean | null>> = {
  ingester: leanIngester,
  indexer: leanIndexer,
  backfiller: null,
}

/** A worker that has not been started yet. */
export function newWorker(service: Service): WorkerState {
  return { service, pid: null, lives: 0, page: null, problems: {} }
}

/** What is known of a running worker. */
export interface WorkerState {
  readonly service: Service
  /** While it lives. */
  pid: number | null
  /** How often it was started. */
  lives: number
  /** Where its pages are, once it serves them. */
  page: string | null
  /** What it waits for, by the names of its parts; empty when it is ready. */
  problems: Readonly<Record<string, string>>
}

// A worker that lived this long starts again at once; one that keeps dying, ever later.
const soundMs = 60_000
const readyEveryMs = 500

/** Keeps the worker running until the signal aborts; throws when its configuration can't be used. */
export async function keepWorker(options: WorkerOptions, state: WorkerState): Promise<void> {
  const { service, dir, say, signal } = options
  const main = `${service}/main.ts`
  await endLeftChild(dir, service, main)
  for (let attempt = 1; !signal.aborted; attempt++) {
    const startedAt = performance.now()
    const exit = await runOnce(options, main, state)
    state.pid = null
    state.page = null
    state.problems = {}
    if (signal.aborted) return
    if (exit.code === 2) throw new Error(`the ${service} can't use its configuration`)
    if (performance.now() - startedAt > soundMs) attempt = 1
    const waitMs = backoff(attempt, { initialMs: 1_000, maxMs: 30_000 })
    say(`${service} ended by itself (${exitText(exit)}); it starts again in ${seconds(waitMs)}`)
    await sleep(waitMs, signal)
  }
}

async function runOnce(options: WorkerOptions, main: string, state: WorkerState): Promise<Exit> {
  const { service, env, dir, say, signal } = options
  const child = await startChild({
    service,
    main,
    flags: lean[service]?.flags ?? [],
    env: { ...lean[service]?.env, ...env },
    dir,
    onMessage: (message) => {
      const port = listeningPort(message)
      if (port === null) return
      state.page = `http://127.0.0.1:${port}`
      state.problems = { 'its parts': 'not asked yet' }
      say(`${service}: ${state.page}/metrics`)
    },
    onLine: (line) => {
      const shown = plainLine(line)
      if (shown !== null) say(`${service}: ${shown}`)
    },
  })
  state.pid = child.pid
  state.lives += 1
  const ended = new AbortController()
  const watching = watchReady(state, ended.signal)
  const exit = await Promise.race([child.exited, stopAtAbort(child, signal)])
  ended.abort()
  await watching
  return exit
}

async function stopAtAbort(child: Child, signal: AbortSignal): Promise<Exit> {
  await new Promise<void>((resolve) => {
    if (signal.aborted) return resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
    void child.exited.then(() => resolve())
  })
  await child.stop()
  return child.exited
}

/** The port in the worker's message that it serves its pages. */
function listeningPort(message: unknown): number | null {
  if (typeof message !== 'object' || message === null || !('listening' in message)) return null
  return typeof message.listening === 'number' ? message.listening : null
}

async function watchReady(state: WorkerState, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    if (state.page !== null) state.problems = await askReady(state.page, signal)
    await sleep(readyEveryMs, signal)
  }
}

async function askReady(page: string, signal: AbortSignal): Promise<Record<string, string>> {
  try {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(2_000)])
    const response = await fetch(`${page}/ready`, { signal: limit })
    const answer = (await response.json()) as { problems?: Record<string, string> }
    return answer.problems ?? {}
  } catch (error) {
    return signal.aborted ? {} : { 'its pages': errorText(error) }
  }
}

function exitText({ code, signal }: Exit): string {
  return signal === null ? `code ${code}` : signal
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`
}
