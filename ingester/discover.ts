/**
 * Finds every repo: the hosts that a relay knows, then the list of repos of each, many at once. The
 * cursor of each host is stored with the requests of its page, so an interruption costs a page a host.
 */
import { isIP } from 'node:net'
import type { Redis } from 'ioredis'
import pLimit from 'p-limit'
import { errorText } from '../shared/errors.ts'
import { encodeRequest } from '../shared/events.ts'
import { createFetch } from '../shared/identity-fetch.ts'
import type { Logger } from '../shared/log.ts'
import { isPublicAddress } from '../shared/private-hosts.ts'
import { throughOutages } from '../shared/redis.ts'
import { backoff, sleep } from '../shared/retry.ts'
import { cursorDone, cursorKeys, streams } from '../shared/streams/names.ts'
import { DidSet } from './did-set.ts'
import { fetchHosts, HostListError } from './host-page.ts'
import { fetchPage, largestPage, maxPageBytes, type Page, PageError } from './repo-page.ts'

export interface DiscoverOptions {
  redis: Redis
  /** The relay that lists hosts, as the base of its endpoints. */
  relay: string
  allowPrivateHosts: boolean
  /** Requests that may wait before the lists are read on. */
  highWaterMark: number
  signal: AbortSignal
  log: Logger
  /** Called after each page and each host. */
  report?: (progress: Discovery) => void
  /** For tests: between the pages of a host, and between tries. */
  pauseMs?: number
}

/** How far it has come. Hosts that failed are asked again at the next start. */
export interface Discovery {
  hosts: number
  done: number
  failed: number
  repos: number
  /** Listed by another host as well. */
  twice: number
  /** The host says that they are not to be had. */
  inactive: number
  /** Found in a second, on the average. */
  reposPerSecond: number
  /** Null until a host has been read. */
  secondsLeft: number | null
}

/** Lists read at once. */
const hostsAtOnce = 50
/** Hosts allow 10 pages a second. */
const pagePauseMs = 110
const triesPerPage = 5
/** Pages without repos, and cursors that came before: a host that goes on for ever is left. */
const mostEmptyPages = 20
const fullPollMs = 1_000
const againEveryMs = 3_600_000

/** Resolves when every host has been read to its end or has failed, or when the signal aborts. */
export async function discover(options: DiscoverOptions): Promise<Discovery> {
  const { relay, allowPrivateHosts, signal, log } = options
  const started = performance.now()
  const state: Discovery = {
    ...{ hosts: 0, done: 0, failed: 0, repos: 0, twice: 0, inactive: 0 },
    ...{ reposPerSecond: 0, secondsLeft: null },
  }
  const seen = new DidSet()
  using web = createFetch({ trusted: [], allowPrivateHosts, maxBytes: maxPageBytes, signal })
  const limit = pLimit(hostsAtOnce)
  const report = () => {
    const ended = state.done + state.failed
    const seconds = (performance.now() - started) / 1_000
    state.reposPerSecond = Math.round(state.repos / seconds)
    const left = (seconds / ended) * (state.hosts - ended)
    state.secondsLeft = ended === 0 ? null : Math.round(left)
    options.report?.(state)
  }
  const readOne = async (name: string) => {
    if (signal.aborted) return
    try {
      const http = baseOf(name, allowPrivateHosts)
      await readHost({ name, http }, state, seen, { ...options, report, fetch: web.fetch })
      if (!signal.aborted) state.done += 1
    } catch (error) {
      if (signal.aborted) return
      state.failed += 1
      log.warn({ host: name, error: errorText(error) }, 'the repos of a host can not be listed')
    }
    report()
  }
  const reading: Promise<void>[] = []
  try {
    for await (const name of fetchHosts(relay, signal)) {
      state.hosts += 1
      reading.push(limit(() => readOne(name)))
    }
  } finally {
    await Promise.all(reading)
  }
  report()
  return state
}

/** Discovers again and again until the signal aborts: hosts come, and those that failed get another chance. */
export async function keepDiscovering(options: DiscoverOptions): Promise<void> {
  const { relay, signal, log } = options
  while (!signal.aborted) {
    try {
      const found = await discover(options)
      if (!signal.aborted) log.info({ ...found }, 'the hosts have been read')
    } catch (err) {
      if (signal.aborted) return
      if (!(err instanceof HostListError)) throw err
      log.warn({ err, relay }, 'the list of hosts can not be had; trying again')
    }
    await sleep(againEveryMs, signal)
  }
}

/** Where a host's endpoints are. */
function baseOf(name: string, allowPrivateHosts: boolean): string {
  const address = new URL(`http://${name}`).hostname
  const isPrivate = isIP(address) !== 0 && !isPublicAddress(address)
  return allowPrivateHosts && isPrivate ? `http://${name}` : `https://${name}`
}

type Reading = Omit<DiscoverOptions, 'report'> & {
  report: () => void
  /** Goes to no private address, unless that is allowed. */
  fetch: ReturnType<typeof createFetch>['fetch']
}

async function readHost(
  { name, http }: { name: string; http: string },
  state: Discovery,
  seen: DidSet,
  options: Reading,
): Promise<void> {
  const { redis, signal, pauseMs = pagePauseMs } = options
  const { key } = cursorKeys(streams.requests, name)
  let cursor = await throughOutages(() => redis.get(key), signal)
  const cursors = new Set<string>()
  let empty = 0
  while (cursor !== cursorDone && !signal.aborted) {
    const page = await tryPage(http, cursor, options)
    await untilRoom(options)
    const fresh = page.repos.filter(({ did, active }) => {
      if (active === false) state.inactive += 1
      else if (seen.add(did)) return true
      else state.twice += 1
      return false
    })
    const next = page.cursor ?? cursorDone
    if (cursors.has(next)) throw new PageError('page', 'the cursor goes in circles')
    empty = page.repos.length === 0 ? empty + 1 : 0
    if (empty > mostEmptyPages) throw new PageError('page', 'pages without repos do not end')
    cursors.add(next)
    await throughOutages(async () => {
      const step = redis.multi()
      for (const request of fresh) step.xadd(streams.requests, '*', ...encodeRequest(request))
      await step.set(key, next).exec()
    }, signal)
    state.repos += fresh.length
    options.report()
    cursor = next
    await sleep(pauseMs, signal)
  }
}

async function tryPage(
  http: string,
  cursor: string | null,
  { signal, fetch, pauseMs = pagePauseMs }: Reading,
): Promise<Page> {
  let limit = largestPage
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await fetchPage({ http, cursor, limit, signal, fetch })
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof PageError) || attempt === triesPerPage) throw error
      // A repo that the host can not list may be on this page: a smaller one may end before it.
      if (error.kind === 'page') limit = Math.max(1, Math.floor(limit / 4))
      const waitMs = backoff(attempt, { initialMs: pauseMs * 5, maxMs: 60_000 })
      await sleep(Math.max(error.retryAfterMs, waitMs), signal)
    }
  }
}

async function untilRoom({ redis, highWaterMark, signal }: Reading): Promise<void> {
  while (!signal.aborted) {
    const length = await throughOutages(() => redis.xlen(streams.requests), signal)
    if (length < highWaterMark) return
    await sleep(fullPollMs, signal)
  }
}
