/** Fetching one repo as a CAR from the host where it lives. */
import { Agent as HttpAgent, type IncomingMessage, request as requestHttp } from 'node:http'
import { Agent as HttpsAgent, request as requestHttps } from 'node:https'
import { pipeline, type Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { errorText } from '../shared/errors.ts'
import { assertPublicAddress, PrivateHostError, publicLookup } from '../shared/private-hosts.ts'
import { Failure, statusFailure } from './failures.ts'
import { type Limits, limitsOf, NotNowError } from './hosts.ts'

export interface FetcherOptions {
  /** For the first byte; and for any pause after that. */
  timeoutMs: number
  /** For the connection, TLS included. */
  connectMs?: number
  /** A host is slow that lets us wait so long for its answer, or for a part of it worth speaking of. */
  slowMs?: number
  maxBytes: number
  userAgent: string
  /** Lets hosts, or those at some origins, have private addresses, and go without TLS. */
  allowPrivateHosts: boolean | readonly string[]
}

/** What is told while one repo is fetched. */
export interface Asking {
  signal: AbortSignal
  /** The limits of every answer, also of one that is a failure. */
  heard: (limits: Limits) => void
  /** The host takes long. What it throws ends the fetch, and is thrown by it. */
  slow: () => void
}

/** An answer whose body is still to come. */
export interface CarResponse {
  limits: Limits
  /** Ends early with a Failure: timeout, truncated, oversize, unreachable. Iterate it once, or destroy. */
  body: AsyncIterable<Uint8Array>
}

export interface Fetcher extends Disposable {
  /** Asks a host for the repo of an account. Throws Failure, what `slow` throws, the signal's reason. */
  fetchRepo: (pds: string, did: string, asking: Asking) => Promise<CarResponse>
}

const maxRedirects = 3
/** Enough of an error answer to hold its name. */
const maxErrorBytes = 64 * 1024
/** Progress of less than this within the timeout counts as none: a byte a minute would hold us for ever. */
const leastProgressBytes = 16 * 1024
/** Less than this within `slowMs` is slow. */
const leastQuickBytes = 128 * 1024
/** These answers come from a proxy or a captive portal, whatever their status. */
const notCars = /^(text\/|application\/(json|xml|xhtml))/

export function createFetcher(options: FetcherOptions): Fetcher {
  const { timeoutMs, connectMs = 10_000, slowMs = 2_000, maxBytes, userAgent } = options
  const { allowPrivateHosts } = options
  const mayBePrivate = ({ origin }: URL) =>
    typeof allowPrivateHosts === 'boolean' ? allowPrivateHosts : allowPrivateHosts.includes(origin)
  const agents = {
    'http:': new HttpAgent({ keepAlive: true, maxFreeSockets: 64, timeout: timeoutMs }),
    'https:': new HttpsAgent({ keepAlive: true, maxFreeSockets: 64, timeout: timeoutMs }),
  }

  /** One request; resolves with the head of the answer. */
  const get = (url: URL, { signal, slow }: Asking, isAgain = false): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const request = (url.protocol === 'https:' ? requestHttps : requestHttp)(url, {
        agent: agents[url.protocol === 'https:' ? 'https:' : 'http:'],
        headers: {
          accept: 'application/vnd.ipld.car',
          'accept-encoding': 'zstd, gzip',
          'user-agent': userAgent,
        },
        signal,
        ...(mayBePrivate(url) ? {} : { lookup: publicLookup }),
      })
      const within = (ms: number, what: string) =>
        setTimeout(() => request.destroy(new Failure('timeout', `${what} within ${ms} ms`)), ms)
      const dragging = setTimeout(() => {
        const ending = endingOf(slow)
        if (ending !== null) request.destroy(ending)
      }, slowMs)
      const timers = [within(timeoutMs, 'no answer'), dragging]
      const settle = () => timers.forEach(clearTimeout)
      request.on('socket', (socket) => {
        if (!socket.connecting) return
        const connecting = within(Math.min(connectMs, timeoutMs), 'no connection')
        timers.push(connecting)
        socket.once(url.protocol === 'https:' ? 'secureConnect' : 'connect', () =>
          clearTimeout(connecting),
        )
      })
      request.on('response', (response) => {
        settle()
        resolve(response)
      })
      request.on('error', (error) => {
        settle()
        if (signal.aborted) reject(signal.reason)
        // The host may have closed an idle connection in the moment when we used it again.
        else if (request.reusedSocket && !isAgain && 'code' in error && error.code === 'ECONNRESET')
          resolve(get(url, { signal, slow, heard: () => {} }, true))
        else reject(connectionFailure(error))
      })
      request.end()
    })

  return {
    async fetchRepo(pds, did, asking) {
      let url = new URL(`/xrpc/com.atproto.sync.getRepo?did=${encodeURIComponent(did)}`, pds)
      for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
        if (!mayBePrivate(url)) checkPublic(url)
        const response = await get(url, asking)
        const limits = limitsOf(response.headers)
        asking.heard(limits)
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
        return { limits, body: bodyOf(response, { timeoutMs, slowMs, maxBytes, ...asking }) }
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

interface BodyOptions extends Pick<Asking, 'signal' | 'slow'> {
  timeoutMs: number
  slowMs: number
  maxBytes: number
}

/** The bytes of the answer, decompressed, as long as they keep coming. */
async function* bodyOf(response: IncomingMessage, options: BodyOptions) {
  const { timeoutMs, slowMs, maxBytes, signal, slow } = options
  const decoded = decompressed(response)
  const chunks = decoded[Symbol.asyncIterator]()
  // Only the time that we wait for the host counts, not the time that we take ourselves.
  const life = createWait(timeoutMs, leastProgressBytes)
  const pace = createWait(slowMs, leastQuickBytes)
  let total = 0
  try {
    for (;;) {
      const started = performance.now()
      const timers = [
        setTimeout(() => {
          decoded.destroy(new Failure('timeout', `too slow after ${total} bytes`))
        }, life.leftMs()),
        setTimeout(() => {
          const ending = endingOf(slow)
          if (ending !== null) decoded.destroy(ending)
        }, pace.leftMs()),
      ]
      const { done, value } = await chunks.next().finally(() => timers.forEach(clearTimeout))
      if (done) return
      const chunk: Uint8Array = value
      total += chunk.length
      for (const wait of [life, pace]) wait.over(performance.now() - started, chunk.length)
      if (total > maxBytes) throw new Failure('oversize', `more than ${maxBytes} bytes`)
      yield chunk
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : bodyFailure(error, total)
  } finally {
    decoded.destroy()
    response.destroy()
  }
}

/** Adds up the waits until they have brought so many bytes. */
function createWait(mostMs: number, enoughBytes: number) {
  let waitedMs = 0
  let bytes = 0
  return {
    leftMs: () => Math.max(0, mostMs - waitedMs),
    over(ms: number, more: number) {
      waitedMs += ms
      bytes += more
      if (bytes < enoughBytes) return
      waitedMs = 0
      bytes = 0
    },
  }
}

/** What a call throws, or null. */
function endingOf(call: () => void): Error | null {
  try {
    call()
    return null
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
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

function bodyFailure(error: unknown, total: number): Error {
  if (error instanceof Failure || error instanceof NotNowError) return error
  // A connection that ends within the body, or a compressed stream that does.
  return new Failure('truncated', `after ${total} bytes: ${errorText(error)}`, { cause: error })
}

function connectionFailure(error: unknown): Error {
  if (error instanceof Failure || error instanceof NotNowError) return error
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
