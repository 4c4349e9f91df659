/** Pages of `com.atproto.sync.listReposByCollection`, from a relay that may send anything. */
import { fetchPageText, PageError } from '../ingester/repo-page.ts'
import { isDid } from '../shared/repo/syntax.ts'

const pageLimit = 2_000

/** The page after a cursor. Throws `PageError`. */
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
  const page = parsed(await fetchPageText(url, signal))
  if (!Array.isArray(page?.repos)) throw new PageError('page', 'a page without a list of repos')
  const dids = page.repos.flatMap((entry: { did?: unknown } | null) =>
    typeof entry?.did === 'string' && isDid(entry.did) ? [entry.did] : [],
  )
  return {
    dids,
    cursor: typeof page.cursor === 'string' && page.cursor !== '' ? page.cursor : null,
  }
}

function parsed(text: string): { repos?: unknown; cursor?: unknown } | null {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new PageError('page', 'a page that is not JSON', { cause })
  }
}
