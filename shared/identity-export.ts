/** Pages of a PLC directory's log of operations (`/export`): read from a host that may send anything. */
import { IdentityError } from './identity.ts'
import { createFetch, FetchError } from './identity-fetch.ts'
import { KeyError, packKey } from './repo/signature.ts'
import { isDid } from './repo/syntax.ts'

/** The most lines of a page that the directory gives. */
export const largestPage = 1_000
/** A line has 1 to 4 KB. */
const maxPageBytes = 16_000_000
const timeoutMs = 60_000

/** What one operation leaves an account with. */
export interface Operation {
  did: string
  /** As `packKey` gives it; null when it has none that we can use. */
  key: string | null
}

export interface ExportPage {
  operations: Operation[]
  lines: number
  /** Lines that are no operation. */
  unreadable: number
  /** When its newest operation was made (RFC 3339); null of an empty page. */
  newest: string | null
}

/** Fetches the operations made after a time. Throws `IdentityError`. */
export async function fetchExport(options: {
  plcUrl: string
  after: string | null
  signal: AbortSignal
}): Promise<ExportPage> {
  const { plcUrl, after, signal } = options
  const url = new URL('/export', plcUrl)
  url.searchParams.set('count', String(largestPage))
  if (after !== null) url.searchParams.set('after', after)
  using http = closable(
    createFetch({ trusted: [plcUrl], allowPrivateHosts: false, signal, maxBytes: maxPageBytes }),
  )
  try {
    const response = await http.fetch(url, { signal: AbortSignal.timeout(timeoutMs) })
    if (!response.ok) throw new IdentityError('invalid', `answered ${response.status}`)
    return parseExport(await response.text())
  } catch (cause) {
    if (!(cause instanceof FetchError)) throw cause
    throw new IdentityError(cause.kind, cause.message, { cause })
  }
}

function closable(http: ReturnType<typeof createFetch>) {
  return { fetch: http.fetch, [Symbol.dispose]: http.close }
}

/** Reads the lines of a page; what is no operation costs no other its place. */
export function parseExport(text: string): ExportPage {
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  const page: ExportPage = { operations: [], lines: lines.length, unreadable: 0, newest: null }
  for (const line of lines) {
    const entry = parseLine(line)
    if (entry === null) {
      page.unreadable += 1
      continue
    }
    const { createdAt, operation } = entry
    if (page.newest === null || createdAt > page.newest) page.newest = createdAt
    if (operation !== null) page.operations.push(operation)
  }
  return page
}

/** An operation that was nullified leaves nothing. */
function parseLine(line: string): { createdAt: string; operation: Operation | null } | null {
  const { did, operation, nullified, createdAt } = objectOf(parsed(line))
  if (typeof did !== 'string' || !isDid(did) || typeof createdAt !== 'string') return null
  const time = Date.parse(createdAt)
  if (Number.isNaN(time)) return null
  const at = new Date(time).toISOString()
  if (nullified === true) return { createdAt: at, operation: null }
  const { type, signingKey, verificationMethods } = objectOf(operation)
  // The first operations had another form.
  const key = type === 'create' ? signingKey : objectOf(verificationMethods)['atproto']
  return { createdAt: at, operation: { did, key: packed(key) } }
}

function packed(key: unknown): string | null {
  if (typeof key !== 'string' || !key.startsWith('did:key:')) return null
  try {
    return packKey(key)
  } catch (error) {
    if (error instanceof KeyError) return null
    throw error
  }
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return null
  }
}

function objectOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}
