/**
 * Reads a host's list of repos to its end, once, into `repo_backfill`. The cursor is opaque: it is
 * stored with the requests of its page, and only what the host gave is ever sent back.
 */
import { hash } from 'node:crypto'
import { crashPoint } from '../shared/crash-point.ts'
import { errorText } from '../shared/errors.ts'
import { encodeRequest } from '../shared/events.ts'
import type { Logger } from '../shared/log.ts'
import type { Part } from '../shared/metrics.ts'
import { backoff, sleep } from '../shared/retry.ts'
import { cursorDone } from '../shared/streams/names.ts'
import { type Producer, RewoundError } from '../shared/streams/producer.ts'
import type { DeadLetters } from './dead-letter.ts'
import type { Host } from './host.ts'
import type { IngesterMetrics } from './metrics.ts'
import { createRecent } from './recent.ts'
import { fetchPage, largestPage, type Page, PageError } from './repo-page.ts'

/** A page that can't be used is asked for so often before a smaller one is. */
const pageTries = 3
/** Hosts allow 10 pages a second. */
const pauseMs = 100
/** After what only a person can mend, or the host. */
const stuckWaitMs = 10 * 60_000
/** Cursors that must not come again. */
const cursorsRemembered = 200_000
/** A host that has no more repos and does not say so. */
const mostEmptyPages = 100
const tellEveryMs = 60_000

export interface RepoListOptions {
  host: Host
  producer: Producer
  deadLetters: DeadLetters
  signal: AbortSignal
  log: Logger
  metrics: IngesterMetrics
  health: Part
  /** Bounds of the wait after a failure, and the wait after what can't be passed. */
  waits?: { initialMs: number; maxMs: number; stuckMs: number }
}

/** Begins the list anew: the next `listRepos` reads all of it. */
export async function beginAnew(producer: Producer): Promise<void> {
  await producer.append({ entries: [], cursor: fromStart })
}

/** As a stored cursor; a host gives none that is empty. */
const fromStart = ''

/** Resolves when the list has been read to its end, now or before, or when the signal aborts. */
export async function listRepos(options: RepoListOptions): Promise<'done' | 'stopped'> {
  const { host, producer, signal, log, health } = options
  const reader = createReader(options)
  let cursor = (await producer.cursor()) || null
  let repos = 0
  let told = Date.now()
  while (!signal.aborted && cursor !== cursorDone) {
    const page = await reader.next(cursor)
    if (page === null) break
    try {
      await append(options, page, cursor)
      cursor = page.cursor ?? cursorDone
      repos += page.repos.length
    } catch (error) {
      if (!(error instanceof RewoundError)) throw error
      cursor = error.cursor || null
      reader.forget()
    }
    if (Date.now() - told >= tellEveryMs) {
      told = Date.now()
      log.info({ host: host.name, repos, cursor }, 'reading the list of repos')
    }
    await sleep(pauseMs, signal)
  }
  if (cursor !== cursorDone) return 'stopped'
  health.ready()
  log.info({ host: host.name }, 'the list of repos has been read to its end')
  return 'done'
}

async function append(options: RepoListOptions, page: Page, cursor: string | null): Promise<void> {
  const { host, producer, deadLetters, log, metrics } = options
  for (const repo of page.unreadable) {
    metrics.cursorSkips.inc()
    log.warn({ host: host.name }, 'a repo in a list can not be read: set aside')
    await deadLetters.write({ repo, reason: 'list', error: 'not a repo', ...where(host, cursor) })
  }
  crashPoint('ingester.before-page')
  await producer.append({
    entries: page.repos.map(encodeRequest),
    cursor: page.cursor ?? cursorDone,
  })
  crashPoint('ingester.page-appended')
  metrics.reposFetched.inc(page.repos.length + page.unreadable.length)
  metrics.reposWritten.inc(page.repos.length)
}

function where(host: Host, cursor: string | null): Record<string, string> {
  return { host: host.http, after: cursor ?? '', attempts: String(pageTries), consumer: 'ingester' }
}

interface Reader {
  /** The page after a cursor, however long that takes; null when the signal aborts. */
  next(cursor: string | null): Promise<Page | null>
  /** Cursors may come again: the list is read from an older place. */
  forget(): void
}

function createReader(options: RepoListOptions): Reader {
  const { host, deadLetters, signal, log, metrics, health } = options
  const { initialMs, maxMs, stuckMs } = options.waits ?? {
    initialMs: 500,
    maxMs: 60_000,
    stuckMs: stuckWaitMs,
  }
  let seen = createRecent(cursorsRemembered)
  let limit = largestPage
  let emptyPages = 0

  const stuck = async (cursor: string | null, reason: string) => {
    health.notReady(`${host.name}: ${reason}`)
    log.error({ host: host.name, cursor, reason }, 'the list of repos can not be read further')
    await sleep(stuckMs, signal)
  }

  /** The page as it came, or null when the one repo at fault was set aside and there is no more to it. */
  const circles = (page: Page, cursor: string | null): string | null => {
    if (page.cursor === null) return null
    emptyPages = page.repos.length + page.unreadable.length === 0 ? emptyPages + 1 : 0
    if (emptyPages > mostEmptyPages) return 'pages without repos do not end'
    const name = hash('sha256', page.cursor)
    if (page.cursor === cursor || seen.has(name)) return 'the cursor goes in circles'
    seen.add(name)
    return null
  }

  return {
    forget() {
      seen = createRecent(cursorsRemembered)
    },
    async next(cursor) {
      let away = 0
      let failures = 0
      while (!signal.aborted) {
        try {
          const page = await fetchPage({ http: host.http, cursor, limit, signal })
          const fault = circles(page, cursor)
          if (fault === null) {
            health.ready()
            limit = Math.min(largestPage, limit * 2)
            return page
          }
          metrics.fetchErrors.inc()
          emptyPages = 0
          await stuck(cursor, fault)
        } catch (error) {
          if (signal.aborted) break
          if (!(error instanceof PageError)) throw error
          metrics.fetchErrors.inc()
          metrics.errors.inc()
          const fields = { host: host.name, cursor, limit, err: error }
          if (error.kind === 'away') {
            away += 1
            health.notReady(`${host.name}: ${errorText(error)}`)
            if (away === 1) log.warn(fields, 'the list of repos can not be had; trying again')
            const waitMs = backoff(away, { initialMs, maxMs })
            await sleep(Math.max(error.retryAfterMs, waitMs), signal)
            continue
          }
          failures += 1
          if (failures < pageTries) {
            await sleep(backoff(failures, { initialMs, maxMs }), signal)
          } else if (limit > 1) {
            // Half the page: the repo at fault is in it or is not, and stands alone in the end.
            log.warn(fields, 'a page of repos can not be used: asking for half of it')
            limit = Math.floor(limit / 2)
            failures = 0
          } else if (error.cursor === null) {
            // Only the host knows what comes after: a cursor is never guessed.
            await stuck(cursor, errorText(error))
            failures = 0
          } else {
            const repo = JSON.stringify({ did: null, host: host.http })
            const fault = { repo, reason: 'list', error: errorText(error), ...where(host, cursor) }
            await deadLetters.write(fault)
            metrics.cursorSkips.inc()
            log.error(fields, 'a repo in a list can not be read: set aside')
            return { repos: [], unreadable: [], cursor: error.cursor }
          }
        }
      }
      return null
    },
  }
}
