/** Accounts by their DID: document, signing key, PDS and claimed handle, from a bounded cache. */
import { DidResolver, HandleResolver } from '@atproto/identity'
import { createFetch, FetchError, type FetchErrorKind } from './identity-fetch.ts'
import { KeyError, parseVerificationKey } from './repo/signature.ts'
import { isDid, isHandle } from './repo/syntax.ts'

/** What the DID document of an account says, at the time it was fetched. */
export interface Account {
  did: string
  /** What the document claims, in lower case: true only when the handle resolves to the DID. */
  handle: string | null
  /** Origin of its PDS, without a slash at the end. */
  pds: string | null
  /** `did:key:z…`; null where the document has none that we can use. */
  signingKey: string | null
  /** Of a labeler: what its labels are signed with. */
  labelKey?: string
}

/** Why a DID or handle could not be resolved. Only `unavailable` is worth trying again soon. */
export class IdentityError extends Error {
  override readonly name = 'IdentityError'
  readonly kind: FetchErrorKind
  /** How long the other side asks us to wait, in milliseconds. */
  readonly retryAfterMs: number | null
  /** Whether the other side says that we ask too often. */
  readonly tooOften: boolean
  constructor(kind: FetchErrorKind, message: string, options: ErrorOptions = {}) {
    super(message, options)
    const { cause } = options
    this.kind = kind
    this.retryAfterMs = cause instanceof FetchError ? cause.retryAfterMs : null
    this.tooOften = cause instanceof FetchError && cause.status === 429
  }
}

export interface IdentityOptions {
  /** Base URL of the PLC directory. */
  plcUrl: string
  /** Base URL that handles are resolved at by XRPC; null: DNS and https, as the spec says. */
  handleResolver?: string | null
  /** Lets did:web and handles lead to private addresses, and to loopback without TLS. */
  allowPrivateHosts: boolean
  /** Limit of each request, in milliseconds, its body included. */
  timeoutMs: number
  /** Documents kept; an entry takes about 500 bytes. */
  maxEntries: number
  /** How long a document is believed, in milliseconds. */
  ttlMs: number
  /** Milliseconds since 1970; for tests. */
  now?: () => number
}

export interface Identity extends Disposable {
  /** The account of a DID where the cache holds it. */
  peek(did: string): Account | null
  /**
   * The account of a DID (plc or web). `refresh` asks anew whatever the cache holds. Callers of the
   * same DID share one request. Throws IdentityError, or the reason of an aborted signal.
   */
  resolve(did: string, options?: { refresh?: boolean; signal?: AbortSignal }): Promise<Account>
  /** The DID that a handle leads to now, or null. Never cached. Throws IdentityError. */
  resolveHandle(handle: string, options?: { signal?: AbortSignal }): Promise<string | null>
  /** Gives up what is under way, as `unavailable`, and closes the connections. */
  close(): void
}

/** What is known to fail for good is asked again after this, or after the ttl where that is less. */
const negativeTtlMs = 60_000

type Known = { account: Account } | { error: IdentityError }

export function createIdentity(options: IdentityOptions): Identity {
  const { plcUrl, handleResolver = null, allowPrivateHosts, timeoutMs, maxEntries, ttlMs } = options
  const { now = Date.now } = options
  const closing = new AbortController()
  const trusted = [plcUrl, ...(handleResolver === null ? [] : [handleResolver])]
  const http = createFetch({ trusted, allowPrivateHosts, signal: closing.signal })
  const documents = new DidResolver({ plcUrl, timeout: timeoutMs, fetch: http.fetch })
  const cache = new Map<string, { known: Known; until: number }>()
  const underWay = new Map<string, Promise<unknown>>()

  async function ask(did: string): Promise<Account> {
    const known = await resolveDocument(documents, did)
    if ('account' in known || known.error.kind !== 'unavailable') remember(did, known)
    return unwrap(known)
  }

  function remember(did: string, known: Known): void {
    cache.delete(did)
    const ttl = 'account' in known ? ttlMs : Math.min(ttlMs, negativeTtlMs)
    cache.set(did, { known, until: now() + ttl })
    for (const oldest of cache.keys()) {
      if (cache.size <= maxEntries) break
      cache.delete(oldest)
    }
  }

  function recall(did: string): Known | null {
    const entry = cache.get(did)
    if (entry === undefined) return null
    cache.delete(did)
    if (entry.until <= now()) return null
    cache.set(did, entry) // Last in the order of the map: the first one is the next to go.
    return entry.known
  }

  /** One request for all who ask the same at the same time; each may stop waiting by itself. */
  function shared<T>(key: string, signal: AbortSignal | undefined, start: () => Promise<T>) {
    const running = (underWay.get(key) as Promise<T> | undefined) ?? begin(key, start)
    return signal ? orAborted(running, signal) : running
  }

  function begin<T>(key: string, start: () => Promise<T>): Promise<T> {
    const running = start().finally(() => underWay.delete(key))
    underWay.set(key, running)
    return running
  }

  const close = () => {
    closing.abort()
    http.close()
  }

  return {
    peek(did) {
      const known = recall(did)
      return known !== null && 'account' in known ? known.account : null
    },
    async resolve(did, { refresh = false, signal } = {}) {
      signal?.throwIfAborted()
      if (!isDid(did)) throw new IdentityError('invalid', 'not a DID')
      const known = refresh ? null : recall(did)
      return known ? unwrap(known) : shared(did, signal, () => ask(did))
    },
    async resolveHandle(handle, { signal } = {}) {
      signal?.throwIfAborted()
      if (!isHandle(handle)) return null
      const name = handle.toLowerCase()
      return shared(`at://${name}`, signal, () =>
        handleResolver === null
          ? resolveBySpec(name, http.fetch, timeoutMs)
          : resolveAt(handleResolver, name, http.fetch, timeoutMs),
      )
    },
    close,
    [Symbol.dispose]: close,
  }
}

function unwrap(known: Known): Account {
  if ('error' in known) throw known.error
  return known.account
}

async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const abort = () => reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

async function resolveDocument(documents: DidResolver, did: string): Promise<Known> {
  try {
    const document = await documents.resolveNoCheck(did)
    if (document === null) return { error: new IdentityError('not-found', 'no such DID') }
    return { account: accountOf(did, document) }
  } catch (error) {
    return { error: identityError(error) }
  }
}

function identityError(cause: unknown): IdentityError {
  if (cause instanceof IdentityError) return cause
  if (cause instanceof FetchError) return new IdentityError(cause.kind, cause.message, { cause })
  return new IdentityError('invalid', 'the DID has no document that can be read', { cause })
}

/**
 * Reads the document of a DID (spec: DID, "DID Documents"): the first entry of each kind counts, and
 * what we have no use for may have any shape. Throws IdentityError for a document of another DID.
 */
export function accountOf(did: string, document: unknown): Account {
  if (!isObject(document) || document['id'] !== did) {
    throw new IdentityError('invalid', 'not a document of this DID')
  }
  const isNamed = (name: string) => (entry: Fields) =>
    entry['id'] === name || entry['id'] === did + name
  const keys = listOf(document['verificationMethod']).filter(isObject)
  const keyOf = (name: string) => {
    const key = keys.find(isNamed(name))
    return key ? didKeyOf(key['type'], key['publicKeyMultibase']) : null
  }
  const labelKey = keyOf('#atproto_label')
  const pds = listOf(document['service']).filter(isObject).find(isNamed('#atproto_pds'))
  return {
    did,
    handle: claimedHandle(listOf(document['alsoKnownAs'])),
    pds: pds?.['type'] === 'AtprotoPersonalDataServer' ? originOf(pds['serviceEndpoint']) : null,
    signingKey: keyOf('#atproto'),
    ...(labelKey === null ? {} : { labelKey }),
  }
}

type Fields = Record<string, unknown>

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

function claimedHandle(aliases: readonly unknown[]): string | null {
  const handle = aliases
    .filter(isText)
    .find((alias) => alias.startsWith('at://'))
    ?.slice('at://'.length)
  return handle !== undefined && isHandle(handle) ? handle.toLowerCase() : null
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}

function originOf(endpoint: unknown): string | null {
  if (!isText(endpoint)) return null
  const url = URL.parse(endpoint)
  return url?.protocol === 'https:' || url?.protocol === 'http:' ? url.origin : null
}

function didKeyOf(type: unknown, multibase: unknown): string | null {
  if (!isText(type) || !isText(multibase)) return null
  try {
    return parseVerificationKey(type, multibase).didKey
  } catch (error) {
    if (error instanceof KeyError) return null
    throw error
  }
}

type Fetch = ReturnType<typeof createFetch>['fetch']

/** Asks a server that resolves handles for others (lexicon com.atproto.identity.resolveHandle). */
async function resolveAt(base: string, handle: string, fetch: Fetch, timeoutMs: number) {
  const url = new URL('/xrpc/com.atproto.identity.resolveHandle', base)
  url.searchParams.set('handle', handle)
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(timeoutMs) })
    if (!response.ok) return null
    const answer = (await response.json()) as { did?: unknown } | null
    const did = answer?.did
    if (typeof did === 'string' && isDid(did)) return did
  } catch (cause) {
    if (cause instanceof SyntaxError) throw new IdentityError('invalid', 'the answer is not JSON')
    if (cause instanceof FetchError && cause.status === 400) return null
    throw identityError(cause)
  }
  throw new IdentityError('invalid', 'the answer holds no DID')
}

/** DNS, then https (spec: handle, "Handle Resolution"); a host that is away is not a handle that is not. */
async function resolveBySpec(handle: string, fetch: Fetch, timeoutMs: number) {
  let failure: FetchError | null = null
  const noted: Fetch = async (input, init) => {
    try {
      return await fetch(input, init)
    } catch (error) {
      if (error instanceof FetchError) failure = error
      throw error
    }
  }
  const timeout = AbortSignal.timeout(timeoutMs)
  const resolver = new HandleResolver({ timeout: timeoutMs, fetch: noted })
  const did = await orAborted(resolver.resolve(handle), timeout).catch((cause) => {
    throw new IdentityError('unavailable', 'no answer in time', { cause })
  })
  if (did !== undefined) return isDid(did) ? did : null
  failure = failure as FetchError | null
  if (failure?.kind === 'unavailable') throw identityError(failure)
  return null
}
