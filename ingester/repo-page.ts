/** Pages of `com.atproto.sync.listRepos`: read from a host that may send anything. */
import type { BackfillRequest } from '../shared/events.ts'
import { FetchError } from '../shared/identity-fetch.ts'
import { version } from '../shared/metrics.ts'
import { PrivateHostError } from '../shared/private-hosts.ts'
import { isDid } from '../shared/repo/syntax.ts'
import { isTid } from '../shared/repo/tid.ts'
import { retryAfter } from './socket.ts'

/** The most repos of a page that the lexicon allows. */
export const largestPage = 1_000
/** A page of a thousand repos has 150 KB. */
export const maxPageBytes = 8_000_000
const timeoutMs = 30_000
const longestCursor = 4_096

export interface Page {
  repos: BackfillRequest[]
  /** The JSON of entries that are no repo. */
  unreadable: string[]
  /** Null after the last page. */
  cursor: string | null
}

/** A page that could not be had. */
export class PageError extends Error {
  override readonly name = 'PageError'
  /** `away`: the host, or its patience; `page`: the host answers, and it can't be used. */
  readonly kind: 'away' | 'page'
  readonly retryAfterMs: number
  /** The cursor that an unusable page has all the same. */
  readonly cursor: string | null
  constructor(
    kind: 'away' | 'page',
    message: string,
    options: ErrorOptions & { retryAfterMs?: number; cursor?: string | null } = {},
  ) {
    super(message, options)
    this.kind = kind
    this.retryAfterMs = options.retryAfterMs ?? 0
    this.cursor = options.cursor ?? null
  }
}

type Fetch = (url: URL, init: RequestInit) => Promise<Response>

/** Fetches the page after a cursor. Throws `PageError`, and for a private host PrivateHostError. */
export async function fetchPage(options: {
  /** The base of the host's endpoints; it becomes the `host` of each request. */
  http: string
  cursor: string | null
  limit: number
  signal: AbortSignal
  /** For hosts that strangers named: one that goes to no private address. */
  fetch?: Fetch
}): Promise<Page> {
  const { http, cursor, limit, signal, fetch: get = fetch } = options
  const url = new URL(`${http}/xrpc/com.atproto.sync.listRepos`)
  url.searchParams.set('limit', String(limit))
  if (cursor !== null) url.searchParams.set('cursor', cursor)
  return parsePage(await fetchPageText(url, signal, get), http)
}

/** Fetches the text of a page of any list, within its bounds. Throws as `fetchPage`. */
export function fetchPageText(url: URL, signal: AbortSignal, get: Fetch = fetch): Promise<string> {
  return request(url, AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]), get)
}

async function request(url: URL, signal: AbortSignal, fetch: Fetch): Promise<string> {
  const headers = { accept: 'application/json', 'user-agent': `sluice/${version}` }
  try {
    const response = await fetch(url, { headers, signal, redirect: 'error' })
    if (response.status === 429 || response.status === 503) {
      await response.body?.cancel()
      const retryAfterMs = retryAfter(response.headers.get('retry-after') ?? undefined, Date.now())
      throw new PageError('away', `the host answers with status ${response.status}`, {
        retryAfterMs,
      })
    }
    if (!response.ok) {
      await response.body?.cancel()
      throw new PageError('page', `the host answers with status ${response.status}`)
    }
    return await readBody(response)
  } catch (cause) {
    if (cause instanceof PageError) throw cause
    throw cause instanceof FetchError ? failed(cause) : away(cause)
  }
}

/** As above, of a fetch that throws what is no answer for it. */
function failed(cause: FetchError): Error {
  if (cause.cause instanceof PrivateHostError) return cause.cause
  const { status, kind } = cause
  const isAway = status === 429 || status === 503 || (status === null && kind !== 'invalid')
  return isAway ? away(cause, cause.retryAfterMs ?? 0) : new PageError('page', cause.message)
}

function away(cause: unknown, retryAfterMs = 0): PageError {
  return new PageError('away', 'the list of repos can not be fetched', { cause, retryAfterMs })
}

async function readBody(response: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of response.body ?? []) {
    length += chunk.length
    if (length > maxPageBytes) throw new PageError('page', `a page above ${maxPageBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** Reads the text of a page. Throws `PageError`, with the cursor where that can be read. */
export function parsePage(text: string, host: string): Page {
  const page = parseJson(text)
  if (!isObject(page) || !Array.isArray(page['repos'])) {
    throw new PageError('page', 'a page without a list of repos', { cursor: salvageCursor(text) })
  }
  const result: Page = { repos: [], unreadable: [], cursor: cursorOf(page['cursor']) }
  for (const entry of page['repos']) {
    const repo = repoOf(entry, host)
    if (repo === null) result.unreadable.push(JSON.stringify(entry).slice(0, 4_096))
    else result.repos.push(repo)
  }
  return result
}

function repoOf(entry: unknown, host: string): BackfillRequest | null {
  if (!isObject(entry)) return null
  const { did, rev, active, status } = entry
  if (typeof did !== 'string' || !isDid(did)) return null
  return {
    did,
    host,
    ...(typeof rev === 'string' && isTid(rev) ? { rev } : {}),
    active: active !== false,
    status: typeof status === 'string' && status !== '' ? status.toLowerCase() : null,
    reason: 'bulk',
  }
}

function cursorOf(value: unknown): string | null {
  if (value === undefined || value === null || value === '') return null
  if (typeof value === 'string' && value.length <= longestCursor && isNoMark(value)) return value
  throw new PageError('page', 'a page with a cursor that is none')
}

/** Ours begin so: what a host sends must not be taken for them. */
function isNoMark(cursor: string): boolean {
  return !cursor.startsWith('!')
}

/** The cursor of a page that is not JSON, where it still stands at one place only. */
function salvageCursor(text: string): string | null {
  const found = [...text.matchAll(/"cursor"\s*:\s*"((?:[^"\\]|\\["\\/])*)"/g)]
  const value = found.length === 1 ? found[0]?.[1]?.replaceAll(/\\(.)/g, '$1') : undefined
  return value && value.length <= longestCursor && isNoMark(value) ? value : null
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
