/** The drain of a connection: what is translated is appended with its chain links and the position, and told. */
import { crashPoint } from '../shared/crash-point.ts'
import { sleep } from '../shared/retry.ts'
import type { PlacedLink } from '../shared/streams/chain.ts'
import type { Appended } from '../shared/streams/producer.ts'
import type { FollowOptions } from './follow.ts'
import type { Translation } from './verify.ts'
import type { Window } from './window.ts'

/** With nothing to append, Redis is asked so often whether it still has what we appended. */
const idleCheckMs = 5_000
/** A batch that has begun waits so long for what is being proved: one look-up must not hold it. */
const lingerMs = 10
/** After a batch that was not full the next one begins no sooner: ten events in one append cost as much as one. */
const betweenMs = 10
/** Frames of one append: some 2 ms of Redis's one thread. */
const maxBatchBytes = 4_000_000

type AppendOptions = Pick<
  FollowOptions,
  | 'producer'
  | 'host'
  | 'stream'
  | 'batchSize'
  | 'batchTimeoutMs'
  | 'log'
  | 'metrics'
  | 'onAppended'
  | 'onProgress'
  | 'now'
>

/** A position, and when its host saw what stands there. */
export interface Mark {
  seq: number
  time: string | null
}

/** Appends batches until the window has ended. Throws what `append` throws. */
export async function appendResults(
  options: AppendOptions,
  window: Window<Translation, Mark>,
  onTaken: () => number,
): Promise<void> {
  const { producer, host, stream, batchSize, batchTimeoutMs, metrics, onAppended } = options
  const { onProgress = () => {}, now = Date.now } = options
  const limits = {
    most: batchSize,
    bytes: maxBatchBytes,
    waitMs: Math.min(batchTimeoutMs, lingerMs),
    idleMs: idleCheckMs,
  }
  for (;;) {
    const batch = await window.take(limits)
    if (batch === null) return
    const began = performance.now()
    const inMemory = onTaken()
    const { results, mark } = batch
    const { entries, links } = placed(results)
    const stop = metrics.append.startTimer()
    if (results.length > 0) crashPoint('ingester.before-append', stream)
    const position = mark === null ? {} : { cursor: String(mark.seq), time: mark.time }
    const appended = await producer.append({ entries, links, ...position })
    if (results.length === 0) {
      if (inMemory === 0) onProgress(now() - idleCheckMs)
      continue
    }
    crashPoint('ingester.appended', stream)
    stop()
    for (const { onDurable } of results) onDurable?.()
    tell(options, appended)
    onAppended(entries.length - (appended.counts['dropped-entries'] ?? 0))
    if (mark !== null) metrics.position.set({ host: host.name, stream }, mark.seq)
    if (mark !== null && mark.time !== null) {
      const time = Date.parse(mark.time)
      onProgress(time)
      metrics.newest.set(host.name, time)
    }
    const pauseMs = betweenMs - (performance.now() - began)
    if (results.length < batchSize && pauseMs > 0) await sleep(pauseMs)
  }
}

/** The entries of all results, and where among them each link has its own. */
function placed(results: readonly Translation[]) {
  const entries: Translation['entries'][number][] = []
  const links: PlacedLink[] = []
  let before = 0
  for (const { entries: own, link } of results) {
    entries.push(...own)
    if (link === undefined) before += own.length
    else {
      links.push({ link, before, own: own.length })
      before = 0
    }
  }
  return { entries, links }
}

/** Counts what the chains of a batch were found to be. */
function tell(options: AppendOptions, { counts, broken }: Appended): void {
  const { log, metrics } = options
  for (const [judgement, count = 0] of Object.entries(counts)) {
    if (count > 0) metrics.chain.inc({ judgement }, count)
  }
  for (const did of broken) log.debug({ did }, 'the chain of a repo is broken: it is read whole')
  const count = counts['held-back'] ?? 0
  if (count > 0)
    log.error({ count }, 'too many resyncs are under way: a pass will find these repos')
}
