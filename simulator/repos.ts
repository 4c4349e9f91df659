/** What a host knows of a repo that it serves. */
import { decode } from '@atproto/lex-cbor'
import { isCid, isLexMap } from '@atproto/lex-data'
import { readCarWithRoot } from '@atproto/repo'

export interface HostedRepo {
  readonly did: string
  /** CID of the commit; null when the bytes served have none that can be read. */
  readonly head: string | null
  readonly rev: string | null
  readonly active: boolean
  /** Why it is not active: takendown, suspended, deactivated, deleted, … */
  readonly status: string | null
  /** The whole repo as a CAR. */
  car(): Promise<Uint8Array>
}

/** A repo as `listRepos` shows it. */
export function repoView({ did, head, rev, active, status }: HostedRepo) {
  return { did, head, rev, active, ...(status !== null && { status }) }
}

/** A repo of given bytes, which may be broken: what cannot be read of the commit is null. */
export async function givenRepo(did: string, bytes: Uint8Array): Promise<HostedRepo> {
  const commit = await readCommit(bytes).catch(() => ({ head: null, rev: null }))
  return { did, ...commit, active: true, status: null, car: async () => bytes }
}

async function readCommit(bytes: Uint8Array): Promise<{ head: string; rev: string | null }> {
  const { root, blocks } = await readCarWithRoot(bytes, { skipCidVerification: true })
  const block = blocks.get(root)
  const commit = block && decode(block)
  if (!isLexMap(commit) || !isCid(commit['data'])) return { head: root.toString(), rev: null }
  const { rev } = commit
  return { head: root.toString(), rev: typeof rev === 'string' ? rev : null }
}
