/** What relays were told of a network: the commits, deletions, accounts and identities. */
import type { LexMap } from '@atproto/lex-data'

/** The latest state that an account's host announced. */
export interface AccountState {
  active: boolean
  status: string | null
}

export interface Heard {
  /** Takes in one event, as `NetworkOptions.onEvent` gives it. */
  note(type: string, body: LexMap): void
  /** The CID of every commit, by `did rev`. */
  readonly commits: ReadonlyMap<string, string>
  /** The rev of each account's newest commit that changed a record of a collection followed. */
  readonly revs: ReadonlyMap<string, string>
  /** The rev at which each URI was last deleted. */
  readonly deletions: ReadonlyMap<string, string>
  readonly accounts: ReadonlyMap<string, AccountState>
  /** The accounts with an `#identity` event. */
  readonly identities: ReadonlySet<string>
}

/** Nothing heard yet. It grows with the network: for tests, not for a network that lives for ever. */
export function createHeard(): Heard {
  const commits = new Map<string, string>()
  const revs = new Map<string, string>()
  const deletions = new Map<string, string>()
  const accounts = new Map<string, AccountState>()
  const identities = new Set<string>()

  const note = (type: string, body: LexMap) => {
    const did = String(body['did'] ?? body['repo'])
    const rev = String(body['rev'])
    if (type === '#identity') identities.add(did)
    if (type === '#account') {
      const { active, status } = body
      accounts.set(did, { active: active === true, status: status ? String(status) : null })
    }
    if (type !== '#commit') return
    commits.set(`${did} ${rev}`, String(body['commit']))
    const ops = body['ops'] as { action: string; path: string }[]
    if (ops.some(({ path }) => isFollowed(path))) revs.set(did, rev)
    for (const { action, path } of ops) {
      if (action === 'delete') deletions.set(`at://${did}/${path}`, rev)
    }
  }
  return { note, commits, revs, deletions, accounts, identities }
}

/** Whether an ingester that is not told otherwise hands it on. */
function isFollowed(path: string): boolean {
  const collection = path.split('/')[0] ?? ''
  return /^(app|chat)\.bsky\./.test(collection) || collection === 'com.germnetwork.declaration'
}
