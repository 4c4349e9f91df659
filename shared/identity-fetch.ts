/** The GET by which identities are fetched: bounded in time and size, kept off private addresses. */
import http, { type IncomingMessage } from 'node:http'
import https from 'node:https'
import { assertPublicAddress, PrivateHostError, publicLookup } from './private-hosts.ts'

export type FetchErrorKind = 'not-found' | 'tombstone' | 'invalid' | 'unavailable'

/** An answer that is none. `status` is null where there was no answer. */
export class FetchError extends Error {
  override readonly name = 'FetchError'
  readonly kind: FetchErrorKind
  readonly status: number | null
  /** From `Retry-After`, in milliseconds. */
  readonly retryAfterMs: number | null
  /** The name of an XRPC error, such as `RepoNotFound`. */
  readonly error: string | null
  constructor(
    kind: FetchErrorKind,
    message: string,
    options: ErrorOptions & {
      status?: number
      retryAfterMs?: number | null
      error?: string | null
    } = {},
  ) {
    super(message, options)
    this.kind = kind
    this.status = options.status ?? null
    this.retryAfterMs = options.retryAfterMs ?? null
    this.error = options.error ?? null
  }
}

/** A DID document has a few hundred bytes; those of the directory stay below 10 KB. */
const maxBodyBytes = 256 * 1024
const maxRedirects = 5
/** Idle connections kept to each host. */
const maxIdle = 32

export interface FetchOptions {
  /** Base URLs that the operator gave: exempt from the check of addresses, http allowed. */
  trusted: readonly string[]
  allowPrivateHosts: boolean
  /** The most bytes of an answer; by default more than any DID document has. */
  maxBytes?: number
  /** Ends everything under way. */
  signal: AbortSignal
}

/**
 * A `fetch` for GET that gives an answer with its whole body, or a 404; all else is a FetchError:
 * 410 `tombstone`, 429, 5xx and broken connections `unavailable`, the rest `invalid`.
 */
export function createFetch(options: FetchOptions) {
  const { trusted, allowPrivateHosts, signal: closing, maxBytes = maxBodyBytes } = options
  const origins = new Set(trusted.map((base) => new URL(base).origin))
  const open = agents({})
  const guarded = allowPrivateHosts ? open : agents({ lookup: publicLookup })

  async function fetch(input: string | URL | Request, init: RequestInit = {}): Promise<Response> {
    let url = new URL(input instanceof Request ? input.url : input.toString())
    const signal = init.signal ? AbortSignal.any([closing, init.signal]) : closing
    for (let hops = 0; hops <= maxRedirects; hops++) {
      const isTrusted = origins.has(url.origin)
      const target = isTrusted ? url : checked(url, allowPrivateHosts)
      const headers = Object.fromEntries(new Headers(init.headers))
      const agent = (isTrusted ? open : guarded)[target.protocol === 'http:' ? 'http' : 'https']
      const { status, location, retryAfter, body } = await get(target, {
        headers,
        agent,
        signal,
        isTrusted,
        maxBytes,
      })
      if (status >= 200 && status < 300)
        return new Response(status === 204 ? null : body, { status })
      if (status === 404) return new Response(body, { status })
      if (status < 300 || status >= 400 || !location || init.redirect !== 'follow') {
        throw refused(status, retryAfter, body)
      }
      const next = URL.parse(location, target.href)
      if (next === null) throw refused(status, retryAfter, body)
      url = next
    }
    throw new FetchError('invalid', `more than ${maxRedirects} redirects`)
  }

  const close = () => {
    for (const agent of [open.http, open.https, guarded.http, guarded.https]) agent.destroy()
  }
  return { fetch, close, [Symbol.dispose]: close }
}

function agents(options: https.AgentOptions) {
  const settings = { ...options, keepAlive: true, maxFreeSockets: maxIdle }
  return { http: new http.Agent(settings), https: new https.Agent(settings) }
}

const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/

/** Strangers name hosts on the public internet, by https; in tests also loopback, without TLS. */
function checked(url: URL, allowPrivateHosts: boolean): URL {
  if (allowPrivateHosts) {
    const plain = new URL(url)
    if (loopback.test(url.hostname)) plain.protocol = 'http:'
    return plain
  }
  if (url.protocol !== 'https:')
    throw new FetchError('invalid', 'a host that is not asked by https')
  try {
    assertPublicAddress(url)
  } catch (cause) {
    throw failed(cause)
  }
  return url
}

function refused(status: number, retryAfter: string | undefined, body: string): FetchError {
  const kind =
    status === 410 ? 'tombstone' : status === 429 || status >= 500 ? 'unavailable' : 'invalid'
  const retryAfterMs = delayOf(retryAfter)
  return new FetchError(kind, `answered ${status}`, { status, retryAfterMs, error: nameOf(body) })
}

function nameOf(body: string): string | null {
  try {
    const answer: unknown = JSON.parse(body)
    const name = typeof answer === 'object' && answer !== null && 'error' in answer && answer.error
    return typeof name === 'string' ? name : null
  } catch {
    return null // the status alone tells, then
  }
}

/** `Retry-After` in seconds or as a date. */
function delayOf(retryAfter: string | undefined): number | null {
  if (retryAfter === undefined) return null
  const milliseconds = /^\d+$/.test(retryAfter)
    ? Number(retryAfter) * 1_000
    : Date.parse(retryAfter) - Date.now()
  return Number.isFinite(milliseconds) ? Math.max(0, milliseconds) : null
}

interface Answer {
  status: number
  location: string | undefined
  retryAfter: string | undefined
  body: string
}

interface Get {
  headers: Record<string, string>
  agent: http.Agent
  signal: AbortSignal
  isTrusted: boolean
  maxBytes: number
}

async function get(url: URL, options: Get): Promise<Answer> {
  try {
    const response = await request(url, options)
    const { location, 'retry-after': retryAfter } = response.headers
    const body = await textOf(response, options.maxBytes)
    return { status: response.statusCode ?? 0, location, retryAfter, body }
  } catch (error) {
    throw failed(error, options.isTrusted)
  }
}

async function request(url: URL, options: Get, tries = maxIdle): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
  const sent = (url.protocol === 'http:' ? http : https).get(url, options, resolve)
  sent.on('error', reject)
  try {
    return await promise
  } catch (error) {
    // The other side may close an idle connection at the moment we use it: that is no answer at all.
    // After a rest all of them may be closed, so that the next one tried is no better.
    if (tries > 0 && sent.reusedSocket && codeOf(error) === 'ECONNRESET')
      return request(url, options, tries - 1)
    throw error
  }
}

async function textOf(response: IncomingMessage, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of response) {
    size += chunk.length
    if (size > maxBytes) throw new FetchError('invalid', `an answer of over ${maxBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** A host that strangers named and that does not exist is their fault; one of the operator's is away. */
function failed(cause: unknown, isTrusted = false): FetchError {
  if (cause instanceof FetchError) return cause
  if (cause instanceof PrivateHostError) return new FetchError('invalid', cause.message, { cause })
  const code = codeOf(cause)
  if (code === 'ENOTFOUND' && !isTrusted)
    return new FetchError('not-found', 'no such host', { cause })
  return new FetchError('unavailable', `no answer (${code ?? 'unknown'})`, { cause })
}

function codeOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error ? String(error.code) : null
}
