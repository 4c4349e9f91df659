/** The fuzz: mutated frames through the ingester's own decoding and verification, judged one by one. */
import { setImmediate as breathe } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Registry } from 'prom-client'
import { droppedOps, refusals } from '../../ingester/commit.ts'
import { decodeFrame, FrameError, malformations } from '../../ingester/frame.ts'
import { createLabelTranslation } from '../../ingester/labeler.ts'
import { createMetrics } from '../../ingester/metrics.ts'
import { createVerifier } from '../../ingester/verify.ts'
import { IdentityError } from '../../shared/identity.ts'
import { createLog } from '../../shared/log.ts'
import { CborError, cborCodes } from '../../shared/repo/cbor.ts'
import { createRandom } from '../../simulator/random.ts'
import type { Corpus } from './corpus.ts'
import type { Mutant, Mutation } from './mutation.ts'
import { isUntouched, mutations } from './mutations.ts'
import type { Source } from './source.ts'
import type { WireEvent } from './truth.ts'

/** Every reason for which anything is refused, from the tables of the code itself. */
export const allReasons: readonly string[] = [
  ...refusals.map((reason) => `refused ${reason}`),
  ...droppedOps.map((reason) => `dropped ${reason}`),
  ...malformations.map((field) => `malformed ${field}`),
  ...cborCodes.map((code) => `frame ${code}`),
  'label invalid',
  'label signature',
  'frame too large',
  'frame no map',
]

export interface FuzzOptions {
  seed: string
  count: number
  /** The number of the first: the same seed and number give the same frame. */
  from?: number
  /** What is verified; default full. */
  mode?: 'full' | 'none'
}

export interface FuzzResult {
  /** How many mutants each way of spoiling made. */
  made: ReadonlyMap<string, number>
  reasons: ReadonlyMap<string, number>
  events: number
  /** Untouched frames, which came out whole. */
  whole: number
  /** Of the heap after a collection, at the start and at its fullest, in bytes. */
  heap: { start: number; most: number }
}

/** What one verifier meets: an account that rests in it must not rest for ever. */
const frames = 1_000
/** Frames judged at once, as the window holds them. */
const atOnce = 50
const heapEvery = 20_000

/** Throws an Error that names seed and number of the first frame that breaks a law. */
export async function fuzz(corpus: Corpus, options: FuzzOptions): Promise<FuzzResult> {
  const { seed, count, from = 0, mode = 'full' } = options
  const made = new Map<string, number>()
  const reasons = new Map<string, number>()
  const result = { made, reasons, events: 0, whole: 0, heap: { start: 0, most: 0 } }
  const random = createRandom(seed)
  for (let done = 0; done < count; done += frames) {
    using subject = openSubject(corpus, reasons, mode)
    for (let at = done; at < Math.min(count, done + frames); at += atOnce) {
      const batch = Array.from({ length: Math.min(atOnce, count - at) }, async (_, index) => {
        const number = from + at + index
        const { source, mutation, mutant } = await mutate(corpus, random.fork(`${number}`))
        add(made, mutation.name)
        return { name: `${seed}/${number} (${mutation.name})`, source, mutation, mutant }
      })
      const judged = (await Promise.all(batch)).map((one) => judge(corpus, subject, one))
      for (const { events, whole } of await Promise.all(judged)) {
        result.events += events
        result.whole += whole ? 1 : 0
      }
    }
    await subject.count()
    // Timers and finalizers have their turn, as in a worker.
    await breathe()
    if (done % heapEvery !== 0) continue
    const { heapUsed } = memory()
    if (done === heapEvery) result.heap.start = heapUsed
    result.heap.most = Math.max(result.heap.most, heapUsed)
  }
  return result
}

let total = 0
const weighed = mutations.map((mutation) => {
  total += mutation.weight
  return { mutation, upTo: total }
})

/** Draws until a way of spoiling fits the source drawn with it. */
async function mutate(corpus: Corpus, random: ReturnType<typeof createRandom>) {
  for (;;) {
    const source = random.pick(corpus.sources)
    const place = random.next() * total
    const mutation = weighed.find(({ upTo }) => place < upTo)?.mutation
    const mutant = await mutation?.make(source, random, corpus)
    if (mutation && mutant) return { source, mutation, mutant }
  }
}

interface Judged {
  name: string
  source: Source
  mutation: Mutation
  mutant: Mutant
}

async function judge(corpus: Corpus, subject: Subject, { name, source, mutation, mutant }: Judged) {
  const fail = (what: string, cause?: unknown): never => {
    const frame = Buffer.from(mutant.frame.subarray(0, 100_000)).toString('base64')
    throw new Error(`${name}: ${what}\n${frame}`, { cause })
  }
  const events = await subject.take(mutant.frame).catch((error) => fail('it was thrown out', error))
  const complaint = corpus.truth.complaint(mutant.frame, events, mutant.made)
  if (complaint !== null) fail(complaint)
  const truth = isUntouched(mutation) ? corpus.truth.of(source) : mutant.made
  if (truth && events.length !== truth.ops.size) fail('the truth did not come out whole')
  return { events: events.length, whole: truth !== undefined }
}

interface Subject extends Disposable {
  /** Takes one frame; rejects with whatever is not foreseen. */
  take(frame: Uint8Array): Promise<WireEvent[]>
  /** Adds to the reasons what was counted. */
  count(): Promise<void>
}

/** A relay's and a labeler's verification of its own, which resolves whom the corpus knows. */
function openSubject(corpus: Corpus, reasons: Map<string, number>, mode: 'full' | 'none'): Subject {
  const stopping = new AbortController()
  const metrics = createMetrics(new Registry())
  const translate = createVerifier({
    keys: {
      at: (did) => corpus.signingKeys.get(did) ?? null,
      find: async () => 'none',
      refresh: async () => 'recent',
      forget() {},
    },
    mode,
    unavailable: 'wait',
    scope: () => true,
    signal: stopping.signal,
    log: createLog('ingester', 'silent'),
    metrics,
  })
  const translateLabels = createLabelTranslation({
    identity: {
      async resolve(did) {
        const labelKey = corpus.labelKeys.get(did)
        if (labelKey === undefined) throw new IdentityError('not-found', 'nobody')
        return { did, handle: null, pds: null, signingKey: null, labelKey }
      },
    },
    deadLetters: { write: async () => {} },
    signal: stopping.signal,
    log: createLog('ingester', 'silent'),
    metrics,
  })
  return {
    async take(frame) {
      const message = decoded(frame)
      if (typeof message === 'string') {
        add(reasons, `frame ${message}`)
        return []
      }
      if (message.type === 'malformed') add(reasons, `malformed ${message.reason}`)
      const { entries } = await (message.type === 'labels' ? translateLabels : translate)(message)
      return entries.map(([, json = '']) => JSON.parse(String(json)) as WireEvent)
    },
    async count() {
      const counters = [
        ['refused', metrics.refused],
        ['dropped', metrics.droppedOps],
        ['label', metrics.droppedLabels],
      ] as const
      for (const [name, counter] of counters) {
        for (const { labels, value } of (await counter.get()).values) {
          if (value > 0) add(reasons, `${name} ${labels.reason}`, value)
        }
      }
    },
    [Symbol.dispose]: () => stopping.abort(),
  }
}

/** The message, or why the bytes are none. */
function decoded(frame: Uint8Array) {
  try {
    return decodeFrame(frame)
  } catch (error) {
    if (!(error instanceof FrameError)) throw error
    if (error.cause instanceof CborError) return error.cause.code
    return error.message.includes('limit') ? 'too large' : 'no map'
  }
}

function add(counts: Map<string, number>, name: string, count = 1): void {
  counts.set(name, (counts.get(name) ?? 0) + count)
}

let collect: (() => void) | undefined

/** What is in use after a collection. */
function memory(): NodeJS.MemoryUsage {
  setFlagsFromString('--expose-gc')
  collect ??= runInNewContext('gc') as () => void
  collect()
  return process.memoryUsage()
}
