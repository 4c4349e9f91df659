/** A PLC directory, and the place where handles resolve. */
import type { Directory } from './directory.ts'
import { type DidDocument, latestData, type PlcEntry, withPds } from './documents.ts'
import { createFaults, type FaultKind, type FaultTarget } from './faults.ts'
import { limitOf, listen, type Reply, type Request, required, XrpcError } from './http.ts'
import type { Fault, When } from './switches.ts'

export interface Plc {
  /** `http://127.0.0.1:port` */
  readonly url: string
  /** Serves a given document; with `pds` its PDS endpoint is replaced by that URL. */
  serve(document: DidDocument, options?: { pds?: string }): void
  /** Serves a given audit log and what follows from it. */
  serveLog(entries: readonly PlcEntry[]): void
  /** Answers at most so many requests in each second from now on, the others with 429; null: all. */
  allow(perSecond: number | null): void
  /** Requests that came, refused ones too. */
  readonly requests: number
  fault(target: FaultTarget, fault: FaultKind, when?: number | When): Fault
  /** Every fault that was ever switched on. */
  readonly faults: readonly Fault[]
  close(): Promise<void>
}

export async function startPlc(
  directory: Directory,
  faults = createFaults(),
  address?: string,
): Promise<Plc> {
  let requests = 0
  let perSecond: number | null = null
  let window = { second: 0, used: 0 }
  const limited = (request: Request): Reply => {
    requests += 1
    const second = Math.floor(Date.now() / 1_000)
    if (second !== window.second) window = { second, used: 0 }
    window.used += 1
    if (perSecond === null || window.used <= perSecond) return answer(request, directory)
    throw new XrpcError(429, 'RateLimitExceeded', 'Too many requests', { 'retry-after': '1' })
  }
  const listener = await listen({ answer: limited, faults, address })
  return {
    url: listener.url,
    allow(limit) {
      perSecond = limit
    },
    get requests() {
      return requests
    },
    serve: (document, { pds } = {}) =>
      directory.setDocument(pds === undefined ? document : withPds(document, pds)),
    serveLog(entries) {
      for (const entry of entries) directory.append(entry)
    },
    fault: faults.add,
    faults: faults.all,
    close: () => listener.close(),
  }
}

export interface HandleResolver {
  /** Answers `resolveHandle`, and `/.well-known/atproto-did` by its Host header, for every account. */
  readonly url: string
  fault(target: FaultTarget, fault: FaultKind, when?: number | When): Fault
  /** Every fault that was ever switched on. */
  readonly faults: readonly Fault[]
  close(): Promise<void>
}

export async function startHandleResolver(
  directory: Directory,
  faults = createFaults(),
  address?: string,
): Promise<HandleResolver> {
  const listener = await listen({
    faults,
    address,
    answer: ({ path, query, hostname }) => {
      const wellKnown = path === '/.well-known/atproto-did'
      if (!wellKnown && path !== '/xrpc/com.atproto.identity.resolveHandle') {
        throw new XrpcError(404, 'NotFound', 'not found')
      }
      const did = directory.resolveHandle(wellKnown ? hostname : required(query, 'handle'))
      if (did !== null) return { body: wellKnown ? did : { did } }
      if (wellKnown) throw new XrpcError(404, 'NotFound', 'User not found')
      throw new XrpcError(400, 'InvalidRequest', 'Unable to resolve handle')
    },
  })
  const { add, all } = faults
  return { url: listener.url, fault: add, faults: all, close: () => listener.close() }
}

function answer({ path, query }: Request, directory: Directory): Reply {
  if (path === '/export') return exported(query, directory)
  if (path === '/_health' || path === '/') return { body: { version: 'simulator' } }
  const [did = '', ...rest] = path.slice(1).split('/').map(decodeURIComponent)
  const document = did.startsWith('did:plc:') ? directory.document(did) : undefined
  const log = directory.log(did)
  const notFound = () => new XrpcError(404, 'NotFound', `DID not registered: ${did}`)
  if (document === undefined) throw notFound()
  const name = rest.join('/')
  if (name !== '' && log.length === 0) throw notFound()
  // The logs outlive a tombstone; the document and the data do not.
  if (name === 'log') {
    return { body: log.filter(({ nullified }) => !nullified).map(({ operation }) => operation) }
  }
  if (name === 'log/audit') return { body: [...log] }
  if (document === null) throw new XrpcError(410, 'Gone', `DID not available: ${did}`)
  if (name === '') return { headers: { 'content-type': 'application/did+ld+json' }, body: document }
  if (name === 'data') return { body: { did, ...latestData(log) } }
  throw new XrpcError(404, 'NotFound', 'not found')
}

/** A page of all logs: one operation a line, those made after `after`, `count` (10) at most. */
function exported(query: URLSearchParams, directory: Directory): Reply {
  const after = query.get('after')
  if (after !== null && Number.isNaN(Date.parse(after))) {
    throw new XrpcError(400, 'InvalidRequest', 'Invalid after parameter')
  }
  const since = after === null ? Number.NEGATIVE_INFINITY : Date.parse(after)
  const page = directory
    .operations()
    .filter(({ createdAt }) => Date.parse(createdAt) > since)
    .slice(0, limitOf(query, 10, 1000, 'count'))
  const body = page.map((entry) => JSON.stringify(entry)).join('\n')
  return { headers: { 'content-type': 'application/jsonlines' }, body }
}
