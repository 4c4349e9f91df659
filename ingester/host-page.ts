/** The hosts that a relay knows (com.atproto.sync.listHosts), read as what anyone may have sent. */
import { version } from '../shared/metrics.ts'

const timeoutMs = 30_000
const maxPageBytes = 4_000_000
const mostPages = 1_000
const pageLimit = 1_000
/** A name with a port where that is not the usual one. */
const hostForm = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::\d{1,5})?$/

interface HostPage {
  hosts: string[]
  /** Null after the last page. */
  cursor: string | null
}

/** The list of hosts can not be had: whoever gives it is away, or sends what is none. */
export class HostListError extends Error {
  override readonly name = 'HostListError'
}

/** Each host once, in lower case. Banned ones are left out, and what is no hostname. Throws HostListError. */
export async function* fetchHosts(
  relay: string,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  const seen = new Set<string>()
  const cursors = new Set<string>()
  let cursor: string | null = null
  for (let pages = 0; pages < mostPages; pages += 1) {
    const page: HostPage = await fetchHostPage(relay, cursor, signal).catch((cause) => {
      signal.throwIfAborted()
      throw new HostListError(`the hosts of ${relay} can not be listed`, { cause })
    })
    for (const host of page.hosts) {
      if (seen.has(host)) continue
      seen.add(host)
      yield host
    }
    ;({ cursor } = page)
    if (cursor === null || cursors.has(cursor)) return
    cursors.add(cursor)
  }
}

async function fetchHostPage(
  relay: string,
  cursor: string | null,
  signal: AbortSignal,
): Promise<HostPage> {
  const url = new URL('/xrpc/com.atproto.sync.listHosts', relay)
  url.searchParams.set('limit', String(pageLimit))
  if (cursor !== null) url.searchParams.set('cursor', cursor)
  const response = await fetch(url, {
    headers: { accept: 'application/json', 'user-agent': `sluice/${version}` },
    signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    redirect: 'error',
  })
  if (!response.ok) throw new Error(`${relay} answers listHosts with status ${response.status}`)
  return parseHosts(await readText(response))
}

async function readText(response: Response): Promise<string> {
  const parts: Uint8Array[] = []
  let bytes = 0
  for await (const part of response.body ?? []) {
    bytes += part.length
    if (bytes > maxPageBytes) throw new Error(`a page of hosts above ${maxPageBytes} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}

/** Reads the text of a page. Throws what JSON.parse throws, and for a page without a list. */
export function parseHosts(text: string): HostPage {
  const page: unknown = JSON.parse(text)
  const { hosts, cursor } = (page ?? {}) as { hosts?: unknown; cursor?: unknown }
  if (!Array.isArray(hosts)) throw new Error('a page without a list of hosts')
  const names = hosts.flatMap((entry: unknown) => {
    const { hostname, status } = (entry ?? {}) as { hostname?: unknown; status?: unknown }
    if (typeof hostname !== 'string' || status === 'banned') return []
    const name = hostname.toLowerCase()
    return hostForm.test(name) && URL.canParse(`https://${name}`) ? [name] : []
  })
  return { hosts: names, cursor: typeof cursor === 'string' && cursor !== '' ? cursor : null }
}
