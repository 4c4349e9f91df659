/**
 * Closes the gaps of a relay: goes through its list of repos once, at a bounded rate, and asks for
 * those that are behind what is listed. Where it stands is in Redis, so a restart goes on from there.
 */
import type { Redis } from 'ioredis'
import { errorText } from '../shared/errors.ts'
import type { Logger } from '../shared/log.ts'
import { throughOutages } from '../shared/redis.ts'
import { tidTime } from '../shared/repo/tid.ts'
import { backoff, sleep } from '../shared/retry.ts'
import { readRevs } from '../shared/streams/chain.ts'
import { closeGaps, type Gap, readGaps } from '../shared/streams/gaps.ts'
import { gapPassKey } from '../shared/streams/names.ts'
import { type WholeRepo, wantResyncs } from '../shared/streams/resyncs.ts'
import type { Host } from './host.ts'
import type { IngesterMetrics } from './metrics.ts'
import { fetchPage, largestPage, type Page, PageError } from './repo-page.ts'

/** How often the ledger is looked at. */
const lookEveryMs = 2_000
/** A relay allows 10 pages a second, and the first list of repos may be read beside this. */
const pauseMs = 500
const pollMs = 1_000
/** Revs are made by the clocks of hosts, positions have that of the relay. */
const slackMs = 60_000
/** 200 million repos: more is a list that goes in circles. */
const mostPages = 200_000

export interface GapPassOptions {
  redis: Redis
  host: Host
  stream: string
  /** The moment of this host up to which everything is durable; null before there is one. */
  progress: () => number | null
  signal: AbortSignal
  log: Logger
  metrics: IngesterMetrics
  waits?: { lookEveryMs: number; pauseMs: number; pollMs: number }
}

/** A pass as it stands in Redis: JSON. */
interface Pass {
  /** Gaps opened until then are closed at its end. */
  began_at: string
  /** Of repos without a state, those that wrote since then may have been missed; null: none. */
  since: string | null
  cursor: string | null
  pages: number
}

/** Closes what gaps there are, and those that will be opened, until the signal aborts. */
export async function keepClosingGaps(options: GapPassOptions): Promise<void> {
  const { redis, host, stream, signal, metrics } = options
  const { lookEveryMs: everyMs } = options.waits ?? { lookEveryMs }
  const read = () => throughOutages(() => readGaps(redis), signal)
  while (!signal.aborted) {
    const all = (await read()).filter(({ closed_at }) => closed_at === null)
    metrics.openGaps.set(all.length)
    const mine = all.filter((gap) => gap.host === host.name && gap.stream === stream)
    if (mine.length > 0) await closeBy(options, mine)
    else await sleep(everyMs, signal)
  }
}

async function closeBy(options: GapPassOptions, gaps: readonly Gap[]): Promise<void> {
  const { redis, host, stream, signal, log } = options
  const key = gapPassKey(host.name)
  const stored = await throughOutages(() => redis.get(key), signal)
  let pass = stored === null ? passFor(gaps) : (JSON.parse(stored) as Pass)
  log.info({ ...pass, count: gaps.length }, 'going through the list of repos to close gaps')
  let noted = 0
  for (;;) {
    const page = await pageAfter(options, pass.cursor)
    if (page === null) return
    noted += await askForBehind(options, page, pass)
    if (signal.aborted) return
    pass = { ...pass, cursor: page.cursor, pages: pass.pages + 1 }
    if (page.cursor === null || pass.pages >= mostPages) break
    await throughOutages(() => redis.set(key, JSON.stringify(pass)), signal)
    await sleep((options.waits ?? { pauseMs }).pauseMs, signal)
  }
  const { began_at } = pass
  await throughOutages(async () => {
    const open = (await readGaps(redis)).filter((gap) => gap.closed_at === null)
    const closed = open.filter(
      (gap) => gap.host === host.name && gap.stream === stream && gap.opened_at <= began_at,
    )
    await closeGaps(redis, closed)
    await redis.del(key)
  }, signal)
  log.info(
    { count: noted },
    'the gaps of a relay are closed: repos that were behind are read whole',
  )
}

function passFor(gaps: readonly Gap[]): Pass {
  const lossy = gaps.filter(({ reason }) => reason !== 'epoch')
  const since = lossy.flatMap((gap) => gap.since ?? []).toSorted()[0] ?? null
  return { began_at: new Date().toISOString(), since, cursor: null, pages: 0 }
}

/** The page after a cursor, however long that takes; null when the signal aborts. */
async function pageAfter(options: GapPassOptions, cursor: string | null): Promise<Page | null> {
  const { host, signal, log } = options
  for (let attempt = 1; !signal.aborted; attempt += 1) {
    try {
      return await fetchPage({ http: host.http, cursor, limit: largestPage, signal })
    } catch (error) {
      if (signal.aborted) break
      if (!(error instanceof PageError)) throw error
      if (attempt === 1) log.warn({ cause: errorText(error) }, 'gaps wait for the list of repos')
      await sleep(Math.max(error.retryAfterMs, backoff(attempt, { maxMs: 60_000 })), signal)
    }
  }
  return null
}

/** Notes the repos of a page of which something listed has not come, and gives how many. */
async function askForBehind(options: GapPassOptions, page: Page, pass: Pass): Promise<number> {
  const { redis, progress, signal } = options
  const { pollMs: everyMs } = options.waits ?? { pollMs }
  const since = pass.since === null ? Number.POSITIVE_INFINITY : Date.parse(pass.since) - slackMs
  const fetchedAt = Date.now()
  let listed = page.repos.flatMap(({ did, rev, active }) =>
    rev === undefined || active === false ? [] : { did, rev },
  )
  const findBehind = async (): Promise<WholeRepo[]> => {
    const held = await throughOutages(
      () =>
        readRevs(
          redis,
          listed.map(({ did }) => did),
        ),
      signal,
    )
    return listed.filter(({ rev }, index) => {
      const have = held[index] ?? null
      return have === null ? tidTime(rev) >= since : rev > have
    })
  }
  listed = await findBehind()
  // What was listed may still be on its way: it is behind when our position has passed it.
  const newest = Math.max(...listed.map(({ rev }) => Math.min(tidTime(rev), fetchedAt)))
  while (listed.length > 0 && !signal.aborted && (progress() ?? 0) < newest + everyMs) {
    await sleep(everyMs, signal)
  }
  if (signal.aborted) return 0
  if (listed.length > 0) listed = await findBehind()
  for (let done = 0; done < listed.length && !signal.aborted; ) {
    done += await throughOutages(() => wantResyncs(redis, listed.slice(done)), signal)
    if (done < listed.length) await sleep(everyMs, signal)
  }
  return listed.length
}
