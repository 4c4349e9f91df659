/** Whether the host of an account still has its repo: what decides that a deletion is one. */

import { type Identity, IdentityError } from '../shared/identity.ts'
import { FetchError } from '../shared/identity-fetch.ts'

/** `unsure`: nobody could be asked who knows. A host that is away is no deletion. */
export type Hosted = 'hosted' | 'gone' | 'unsure'

export type Fetch = (url: URL, init: RequestInit) => Promise<Response>

export interface HostedOptions {
  identity: Pick<Identity, 'resolve'>
  fetch: Fetch
  timeoutMs: number
}

/**
 * Asks the account's PDS of today for its repo. `gone` when that says RepoNotFound, when the DID was
 * given up, or when its document names no PDS any more.
 */
export async function askHost(
  { identity, fetch, timeoutMs }: HostedOptions,
  did: string,
  signal: AbortSignal,
): Promise<Hosted> {
  try {
    const { pds } = await identity.resolve(did, { refresh: true, signal })
    if (pds === null) return 'gone'
    const url = new URL('/xrpc/com.atproto.sync.getLatestCommit', pds)
    url.searchParams.set('did', did)
    const limit = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)])
    const { ok } = await fetch(url, { signal: limit })
    return ok ? 'hosted' : 'unsure'
  } catch (error) {
    if (error instanceof IdentityError) return error.kind === 'tombstone' ? 'gone' : 'unsure'
    if (!(error instanceof FetchError)) throw error
    return error.status === 400 && error.error === 'RepoNotFound' ? 'gone' : 'unsure'
  }
}
