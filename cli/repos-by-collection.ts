/** Pages of `com.atproto.sync.listReposByCollection`, from a relay that may send anything. */
import { version } from '../shared/metrics.ts'
import { isDid } from '../shared/repo/syntax.ts'

const timeoutMs = 30_000
const pageLimit = 2_000

/** The page after a cursor. Throws an Error that says what the relay did. */
export async function collectionPage(
  relay: string,
  collection: string,
  cursor: string | null,
  signal: AbortSignal,
): Promise<{ dids: string[]; cursor: string | null }> {
  const url = new URL('/xrpc/com.atproto.sync.listReposByCollection', relay)
  url.searchParams.set('collection', collection)
  url.searchParams.set('limit', String(pageLimit))
  if (cursor !== null) url.searchParams.set('cursor', cursor)
  const response = await fetch(url, {
    headers: { accept: 'application/json', 'user-agent': `sluice/${version}` },
    signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    redirect: 'error',
  })
  if (!response.ok) throw new Error(`${relay} answers with status ${response.status}`)
  const page = (await response.json()) as { repos?: unknown; cursor?: unknown } | null
  if (!Array.isArray(page?.repos)) throw new Error(`${relay} sends a page without a list of repos`)
  const dids = page.repos.flatMap((entry: { did?: unknown } | null) =>
    typeof entry?.did === 'string' && isDid(entry.did) ? [entry.did] : [],
  )
  return {
    dids,
    cursor: typeof page.cursor === 'string' && page.cursor !== '' ? page.cursor : null,
  }
}
