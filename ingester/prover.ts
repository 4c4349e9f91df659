/** Proves messages on threads of its own, in batches, or on this one. */
import { Worker } from 'node:worker_threads'
import { scopeOf } from '../shared/scope.ts'
import { RefusedError } from './commit.ts'
import type { CommitMessage, SyncMessage } from './frame.ts'
import { type Proved, prove, type VerifyMode } from './prove.ts'
import { type Answer, type Outcome, packTask, unpackOutcomes } from './prover-batch.ts'

/** Moving a frame costs 10 µs by itself and 2 µs among so many; proving them takes some 6 ms. */
const batchFrames = 64
/** A frame has up to 5 MB. */
const batchBytes = 1_000_000
/** One that a thread works on, and one that it finds when it has ended. */
const batchesEach = 2

/** So few are proved here while the threads have nothing to do: waking one costs more than that saves. */
const fewFrames = 16
/** What a thread makes is gone with its batch. */
const youngMb = 4

/** A thread has ended by itself: a bug of ours, which ends the process. */
export class ProverError extends Error {
  override readonly name = 'ProverError'
}

export interface ProverOptions {
  mode: VerifyMode
  /** The patterns of the scope. */
  collections: readonly string[]
  /** The most that are started; 0: all is done on the thread that asks. */
  threads: number
  signal: AbortSignal
  now?: () => number
}

export interface Prover extends AsyncDisposable {
  /**
   * Proves a message with the key of its account, as far as one is at hand (null: all but the
   * signature). Results do not depend on where the work is done. What waits is bounded by who asks:
   * a window. Rejects with `RefusedError`, `ProverError`, or the signal's reason.
   */
  prove(message: CommitMessage | SyncMessage, key: string | null): Promise<Proved>
  /** Resolves when what waits is so little that a thread could soon lack work. */
  notTooMany(): Promise<void>
}

export function createProver(options: ProverOptions): Prover {
  const here = createLocal(options)
  return options.threads > 0 ? createThreads(options, here) : here
}

function createLocal({ mode, collections, now = Date.now }: ProverOptions): Prover {
  const scope = scopeOf(collections)
  return {
    prove: async (message, key) => prove(message, key, { mode, scope, now: now() }),
    async notTooMany() {},
    async [Symbol.asyncDispose]() {},
  }
}

interface Job {
  message: CommitMessage | SyncMessage
  key: string | null
  resolve: (proved: Proved) => void
  reject: (error: unknown) => void
}

interface Thread {
  worker: Worker
  /** What it was given and has not answered, in order. */
  batches: Job[][]
}

function createThreads(options: ProverOptions, here: Prover): Prover {
  const { mode, collections, threads, signal, now = Date.now } = options
  let waiting: Job[] = []
  /** Each takes 20 MB: they are started as there is work for them. */
  const all: Thread[] = []
  /** Of tasks that are done: new memory for each would keep the garbage collector busy. */
  const memory: ArrayBuffer[] = []
  let scheduled = false
  /** Why nothing is proved any more. */
  let ended: { reason: unknown } | null = null

  const end = (reason: unknown) => {
    if (ended !== null) return
    ended = { reason }
    signal.removeEventListener('abort', onAbort)
    const left = [...all.flatMap(({ batches }) => batches.flat()), ...waiting]
    waiting = []
    for (const { reject } of left) reject(reason)
    letReaders()
  }
  const onAbort = () => end(signal.reason)

  const start = (): Thread => {
    const workerData = { mode, collections }
    const worker = new Worker(new URL('./prover-thread.ts', import.meta.url), {
      workerData,
      resourceLimits: { maxYoungGenerationSizeMb: youngMb },
    })
    const thread: Thread = { worker, batches: [] }
    const failed = (cause: unknown) =>
      end(new ProverError('a thread that proves has ended', { cause }))
    worker.on('error', failed).on('messageerror', failed)
    worker.on('exit', (code) => failed(new Error(`exit code ${code}`)))
    worker.on('message', (answer: Answer) => {
      const jobs = thread.batches.shift() ?? []
      memory.push(answer.memory)
      settle(jobs, unpackOutcomes(answer, jobs.length))
      give()
    })
    all.push(thread)
    return thread
  }

  /** Who has least to do; while all have something and a whole batch waits, one more. */
  const freest = (): Thread => {
    let free = all[0] ?? start()
    for (const thread of all) if (thread.batches.length < free.batches.length) free = thread
    const lacking = free.batches.length > 0 && waiting.length >= batchFrames
    return lacking && all.length < threads ? start() : free
  }

  /** Deals what waits to those who have least. */
  const give = () => {
    if (waiting.length <= fewFrames && all.every(({ batches }) => batches.length === 0)) {
      for (const { message, key, resolve, reject } of waiting.splice(0)) {
        here.prove(message, key).then(resolve, reject)
      }
    }
    while (ended === null && waiting.length > 0) {
      const free = freest()
      if (free.batches.length >= batchesEach) break
      const jobs = waiting.splice(0, batchLength(waiting))
      free.batches.push(jobs)
      const frames = jobs.map(({ message }) => message.frame)
      const keys = jobs.map(({ key }) => key)
      const task = packTask(frames, keys, now(), memory.pop())
      free.worker.postMessage(task, [task.bytes.buffer])
    }
    letReaders()
  }

  const most = threads * batchesEach * batchFrames
  let readers: (() => void)[] = []
  const letReaders = () => {
    if (waiting.length > most) return
    const going = readers
    readers = []
    for (const go of going) go()
  }

  signal.addEventListener('abort', onAbort, { once: true })
  if (signal.aborted) onAbort()

  return {
    prove: (message, key) =>
      new Promise<Proved>((resolve, reject) => {
        if (ended !== null) return reject(ended.reason)
        waiting.push({ message, key, resolve, reject })
        if (scheduled) return
        scheduled = true
        // After what has arrived together: it makes one batch.
        setImmediate(() => {
          scheduled = false
          give()
        })
      }),
    notTooMany: () =>
      waiting.length <= most ? Promise.resolve() : new Promise<void>((go) => readers.push(go)),
    async [Symbol.asyncDispose]() {
      end(signal.aborted ? signal.reason : new ProverError('closed'))
      await Promise.all(all.map(({ worker }) => worker.terminate()))
    },
  }
}

function batchLength(jobs: readonly Job[]): number {
  let bytes = 0
  let length = 0
  while (length < Math.min(jobs.length, batchFrames) && bytes < batchBytes) {
    bytes += jobs[length]?.message.frame.length ?? 0
    length += 1
  }
  return length
}

function settle(jobs: readonly Job[], outcomes: readonly Outcome[]): void {
  for (const [index, { resolve, reject }] of jobs.entries()) {
    const outcome = outcomes[index]
    if (outcome === undefined) reject(new ProverError('an answer that is too short'))
    else if ('proof' in outcome) resolve(outcome)
    else if ('refused' in outcome) reject(new RefusedError(outcome.refused, outcome.words))
    else reject(new Error(outcome.bug))
  }
}
