/** A PDS: repos as CARs, their list and status, handles; XRPC errors and rate limits as the real ones. */

import type { Directory } from './directory.ts'
import { createFaults, type FaultKind, type Faults, type FaultTarget } from './faults.ts'
import { limitOf, listen, type Reply, type Request, required, XrpcError } from './http.ts'
import { givenRepo, type HostedRepo, repoView } from './repos.ts'
import type { Fault, When } from './switches.ts'

export interface RateLimit {
  /** Requests in a window. */
  limit: number
  windowMs: number
}

export interface PdsOptions {
  directory: Directory
  /** For all methods together; default 1,000,000 in 5 minutes, so that only its headers show. */
  rateLimit?: RateLimit
  port?: number
  faults?: Faults
  address?: string | undefined
}

export interface Pds {
  /** `http://127.0.0.1:port` */
  readonly url: string
  readonly host: string
  /** Requests answered by each path, refused ones too. */
  readonly requests: ReadonlyMap<string, number>
  repos(): Iterable<HostedRepo>
  /** What it says of an account; deleted ones are still known. */
  repo(did: string): HostedRepo | null
  /** Serves a given CAR, as it is, in place of what it served for that account before. */
  serveCar(did: string, bytes: Uint8Array): Promise<void>
  /** Serves a living repo. */
  adopt(repo: HostedRepo): void
  /** What the host says of an account from now on. */
  setStatus(did: string, status: { active: boolean; status?: string | null }): void
  fault(target: FaultTarget, fault: FaultKind, when?: number | When): Fault
  /** Every fault that was ever switched on. */
  readonly faults: readonly Fault[]
  close(): Promise<void>
}

interface Hosted {
  repo: HostedRepo
  /** Overrides what the repo says of itself. */
  said: { active: boolean; status: string | null } | null
}

export async function startPds(options: PdsOptions): Promise<Pds> {
  const { directory, rateLimit = { limit: 1_000_000, windowMs: 300_000 }, port = 0 } = options
  const hosted = new Map<string, Hosted>()
  const requests = new Map<string, number>()
  const { faults = createFaults() } = options
  const take = createLimiter(rateLimit)

  const answer = async (request: Request): Promise<Reply> => {
    requests.set(request.path, (requests.get(request.path) ?? 0) + 1)
    if (request.path === '/xrpc/_health') return { body: { version: 'simulator' } }
    if (request.path === '/.well-known/atproto-did') return wellKnown(request.hostname)
    if (!request.path.startsWith('/xrpc/')) throw new XrpcError(404, 'NotFound', 'not found')
    const { headers, spent } = take()
    if (spent) throw new XrpcError(429, 'RateLimitExceeded', 'Rate Limit Exceeded', headers)
    try {
      const reply = await method(request)
      return { ...reply, headers: { ...headers, ...reply.headers } }
    } catch (error) {
      if (!(error instanceof XrpcError)) throw error
      throw new XrpcError(error.status, error.code, error.message, headers)
    }
  }

  const method = async ({ path, query }: Request): Promise<Reply> => {
    switch (path) {
      case '/xrpc/com.atproto.sync.getRepo': {
        const body = await visible(required(query, 'did')).car()
        return { headers: { 'content-type': 'application/vnd.ipld.car' }, body }
      }
      case '/xrpc/com.atproto.sync.getLatestCommit': {
        const { head, rev } = visible(required(query, 'did'))
        return { body: { cid: head, rev } }
      }
      case '/xrpc/com.atproto.sync.getRepoStatus': {
        const { head: _, ...status } = repoView(find(required(query, 'did')))
        return { body: status }
      }
      case '/xrpc/com.atproto.sync.listRepos':
        return { body: listRepos(query, [...repos()]) }
      case '/xrpc/com.atproto.identity.resolveHandle': {
        const did = directory.resolveHandle(required(query, 'handle'))
        if (did === null) throw new XrpcError(400, 'InvalidRequest', 'Unable to resolve handle')
        return { body: { did } }
      }
      default:
        throw new XrpcError(501, 'MethodNotImplemented', 'Method Not Implemented')
    }
  }

  function* repos(): Iterable<HostedRepo> {
    for (const { repo, said } of hosted.values()) yield view(repo, said)
  }

  const find = (did: string): HostedRepo => {
    const entry = hosted.get(did)
    if (entry === undefined || entry.said?.status === 'deleted') {
      throw new XrpcError(400, 'RepoNotFound', `Could not find repo for DID: ${did}`)
    }
    return view(entry.repo, entry.said)
  }

  const visible = (did: string): HostedRepo => {
    const repo = find(did)
    if (repo.active) return repo
    switch (repo.status) {
      case 'takendown':
        throw new XrpcError(400, 'RepoTakendown', `Repo has been takendown: ${did}`)
      case 'suspended':
        throw new XrpcError(400, 'RepoSuspended', `Repo has been suspended: ${did}`)
      default:
        throw new XrpcError(400, 'RepoDeactivated', `Repo has been deactivated: ${did}`)
    }
  }

  const wellKnown = (hostname: string): Reply => {
    const did = directory.resolveHandle(hostname)
    if (did === null || !hosted.has(did)) throw new XrpcError(404, 'NotFound', 'User not found')
    return { body: did }
  }

  const listener = await listen({ answer, faults, address: options.address, port })
  return {
    url: listener.url,
    host: listener.host,
    requests,
    repos: function* () {
      for (const repo of repos()) if (repo.status !== 'deleted') yield repo
    },
    repo(did) {
      const entry = hosted.get(did)
      return entry === undefined ? null : view(entry.repo, entry.said)
    },
    async serveCar(did, bytes) {
      hosted.set(did, { repo: await givenRepo(did, bytes), said: null })
    },
    adopt: (repo) => void hosted.set(repo.did, { repo, said: null }),
    setStatus(did, { active, status = null }) {
      const entry = hosted.get(did)
      if (entry === undefined) throw new RangeError(`${did} is not hosted here`)
      entry.said = active && status === null ? null : { active, status }
    },
    fault: faults.add,
    faults: faults.all,
    close: () => listener.close(),
  }
}

/** A living repo changes under the view: only what the host says of it is fixed. */
function view(repo: HostedRepo, said: Hosted['said']): HostedRepo {
  if (said === null) return repo
  const { did, head, rev } = repo
  return { did, head, rev, ...said, car: () => repo.car() }
}

/** As PDSes do it, the cursor is opaque: here a place in the list and the account it follows. */
function listRepos(query: URLSearchParams, all: readonly HostedRepo[]) {
  const repos = all.filter(({ status }) => status !== 'deleted')
  const limit = limitOf(query, 500, 1000)
  const after = query.get('cursor')?.match(/^\d+::(.+)$/)?.[1]
  if (query.has('cursor') && after === undefined) {
    throw new XrpcError(400, 'InvalidRequest', 'Malformed cursor')
  }
  const start = after === undefined ? 0 : repos.findIndex(({ did }) => did === after) + 1
  const page = repos.slice(start, start + limit)
  const last = page.at(-1)
  const more = start + page.length < repos.length && last !== undefined
  return {
    ...(more && { cursor: `${start + page.length}::${last.did}` }),
    repos: page.map(repoView),
  }
}

function createLimiter({ limit, windowMs }: RateLimit) {
  let ends = 0
  let used = 0
  return () => {
    const now = Date.now()
    if (now >= ends) {
      ends = now + windowMs
      used = 0
    }
    const spent = used >= limit
    if (!spent) used++
    const reset = Math.ceil(ends / 1000)
    const headers: Record<string, string> = {
      'ratelimit-limit': String(limit),
      'ratelimit-remaining': String(limit - used),
      'ratelimit-reset': String(reset),
      'ratelimit-policy': `${limit};w=${Math.ceil(windowMs / 1000)}`,
    }
    if (spent) headers['retry-after'] = String(Math.max(1, Math.ceil((ends - now) / 1000)))
    return { headers, spent }
  }
}
