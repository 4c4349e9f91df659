/** Fetching one repo as a CAR from the host where it lives. */
import { Agent as HttpAgent, type IncomingMessage, request as requestHttp } from 'node:http'
import { Agent as HttpsAgent, request as requestHttps } from 'node:https'
import { pipeline, type Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { errorText } from '../shared/errors.ts'
import { assertPublicAddress, PrivateHostError, publicLookup } from '../shared/private-hosts.ts'
import { Failure, statusFailure } from './failures.ts'
import { type Limits, limitsOf } from './hosts.ts'

export interface FetcherOptions {
  /** For the connection and the first byte; and for any pause after that. */
  timeoutMs: number
  maxBytes: number
  userAgent: string
  /** Lets hosts have private addresses, and go without TLS. */
  allowPrivateHosts: boolean
}

/** An answer whose body is still to come. */
export interface CarResponse {
  limits: Limits
  /** Ends early with a Failure: timeout, truncated, oversize, unreachable. Iterate it once, or destroy. */
  body: AsyncIterable<Uint8Array>
}

export interface Fetcher extends Disposable {
  /**
   * Asks a host for the repo of an account. Throws Failure; `heard` is told the limits of every
   * answer, also of one that is a failure.
   */
  fetchRepo: (
    pds: string,
    did: string,
    signal: AbortSignal,
    heard: (limits: Limits) => void,
  ) => Promise<CarResponse>
}

const maxRedirects = 3
/** Enough of an error answer to hold its name. */
const maxErrorBytes = 64 * 1024
/** Progress of less than this within the timeout counts as none: a byte a minute would hold us for ever. */
const leastProgressBytes = 16 * 1024
/** These answers come from a proxy or a captive portal, whatever their status. */
const notCars = /^(text\/|application\/(json|xml|xhtml))/

export function createFetcher(options: FetcherOptions): Fetcher {
  const { timeoutMs, maxBytes, userAgent, allowPrivateHosts } = options
  const agents = {
    'http:': new HttpAgent({ keepAlive: true, maxFreeSockets: 64, timeout: timeoutMs }),
    'https:': new HttpsAgent({ keepAlive: true, maxFreeSockets: 64, timeout: timeoutMs }),
  }

  /** One request; resolves with the head of the answer. */
  const get = (url: URL, signal: AbortSignal): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const request = (url.protocol === 'https:' ? requestHttps : requestHttp)(url, {
        agent: agents[url.protocol === 'https:' ? 'https:' : 'http:'],
        headers: {
          accept: 'application/vnd.ipld.car',
          'accept-encoding': 'zstd, gzip',
          'user-agent': userAgent,
        },
        signal,
        ...(allowPrivateHosts ? {} : { lookup: publicLookup }),
      })
      const timer = setTimeout(() => {
        request.destroy(new Failure('timeout', `no answer within ${timeoutMs / 1_000} s`))
      }, timeoutMs)
      request.on('response', (response) => {
        clearTimeout(timer)
        resolve(response)
      })
      request.on('error', (error) => {
        clearTimeout(timer)
        reject(signal.aborted ? signal.reason : connectionFailure(error))
      })
      request.end()
    })

  return {
    async fetchRepo(pds, did, signal, heard) {
      let url = new URL(`/xrpc/com.atproto.sync.getRepo?did=${encodeURIComponent(did)}`, pds)
      for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
        if (!allowPrivateHosts) checkPublic(url)
        const response = await get(url, signal)
        const limits = limitsOf(response.headers)
        heard(limits)
        const status = response.statusCode ?? 0
        const { location } = response.headers
        if (status >= 300 && status < 400 && location !== undefined) {
          response.destroy()
          url = redirected(url, location)
          continue
        }
        if (status !== 200) {
          throw statusFailure(
            status,
            await errorName(response, timeoutMs),
            limits.retryAfterMs ?? 0,
          )
        }
        checkHead(response, maxBytes)
        return { limits, body: bodyOf(response, { timeoutMs, maxBytes, signal }) }
      }
      throw new Failure('redirects', `more than ${maxRedirects}`)
    },
    [Symbol.dispose]() {
      for (const agent of Object.values(agents)) agent.destroy()
    },
  }
}

/** Hosts are named by others, who may not send us into our own network, nor past TLS. */
function checkPublic(url: URL): void {
  if (url.protocol !== 'https:') throw new Failure('insecure-host', url.origin)
  try {
    assertPublicAddress(url)
  } catch (error) {
    throw connectionFailure(error)
  }
}

function redirected(from: URL, location: string): URL {
  if (!URL.canParse(location, from.href)) throw new Failure('redirects', 'to what is no URL')
  const url = new URL(location, from)
  const isWeb = url.protocol === 'https:' || url.protocol === 'http:'
  if (!isWeb || (from.protocol === 'https:' && url.protocol === 'http:')) {
    throw new Failure('redirects', `to ${url.protocol}`)
  }
  return url
}

function checkHead(response: IncomingMessage, maxBytes: number): void {
  const length = Number(response.headers['content-length'] ?? 0)
  const type = response.headers['content-type'] ?? ''
  if (length <= maxBytes && !notCars.test(type)) return
  response.destroy()
  if (length > maxBytes) throw new Failure('oversize', `${length} bytes announced`)
  throw new Failure('not-a-car', type)
}

interface BodyOptions {
  timeoutMs: number
  maxBytes: number
  signal: AbortSignal
}

/** The bytes of the answer, decompressed, as long as they keep coming. */
async function* bodyOf(response: IncomingMessage, options: BodyOptions) {
  const { timeoutMs, maxBytes, signal } = options
  const decoded = decompressed(response)
  const chunks = decoded[Symbol.asyncIterator]()
  // Only the time that we wait for the host counts, not the time that we take ourselves.
  let waitedMs = 0
  let progress = 0
  let total = 0
  try {
    for (;;) {
      const started = performance.now()
      const timer = setTimeout(() => {
        decoded.destroy(new Failure('timeout', `too slow after ${total} bytes`))
      }, timeoutMs - waitedMs)
      const { done, value } = await chunks.next().finally(() => clearTimeout(timer))
      if (done) return
      const chunk: Uint8Array = value
      waitedMs = Math.min(waitedMs + performance.now() - started, timeoutMs)
      progress += chunk.length
      total += chunk.length
      if (total > maxBytes) throw new Failure('oversize', `more than ${maxBytes} bytes`)
      if (progress >= leastProgressBytes) {
        waitedMs = 0
        progress = 0
      }
      yield chunk
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : bodyFailure(error, total)
  } finally {
    decoded.destroy()
    response.destroy()
  }
}

function decompressed(response: IncomingMessage): Readable {
  const encoding = response.headers['content-encoding'] ?? 'identity'
  if (encoding === 'identity') return response
  const decoder =
    encoding === 'gzip' ? createGunzip() : encoding === 'zstd' ? createZstdDecompress() : null
  if (decoder !== null) return pipeline(response, decoder, () => {})
  response.destroy()
  throw new Failure('host-refused', `an encoding that we did not offer: ${encoding.slice(0, 40)}`)
}

function bodyFailure(error: unknown, total: number): Failure {
  if (error instanceof Failure) return error
  // A connection that ends within the body, or a compressed stream that does.
  return new Failure('truncated', `after ${total} bytes: ${errorText(error)}`, { cause: error })
}

function connectionFailure(error: unknown): Failure {
  if (error instanceof Failure) return error
  if (error instanceof PrivateHostError) {
    return new Failure('private-host', error.message, { cause: error })
  }
  return new Failure('unreachable', errorText(error), { cause: error })
}

/** The XRPC error name of an answer, or '' where it has none that can be read. */
async function errorName(response: IncomingMessage, timeoutMs: number): Promise<string> {
  const timer = setTimeout(() => response.destroy(), timeoutMs)
  const parts: Buffer[] = []
  let bytes = 0
  try {
    for await (const part of response) {
      parts.push(part)
      bytes += part.length
      if (bytes > maxErrorBytes) break
    }
    const body: unknown = JSON.parse(Buffer.concat(parts).toString())
    const name = typeof body === 'object' && body !== null && 'error' in body ? body.error : ''
    return typeof name === 'string' && /^[A-Za-z0-9]{1,64}$/.test(name) ? name : ''
  } catch {
    return '' // the status alone decides then
  } finally {
    clearTimeout(timer)
  }
}
