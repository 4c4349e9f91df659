/** All that one commit or sync message can show without a look-up: opened, proved, its events written. Pure. */
import { encodeEvent } from '../shared/events.ts'
import type { Cid } from '../shared/repo/cid.ts'
import { KeyError, parseDidKey, verifySignature } from '../shared/repo/signature.ts'
import type { Scope } from '../shared/scope.ts'
import { type DroppedOp, eventsOf, openMessage, type Proof, proveOps } from './commit.ts'
import type { CommitMessage, SyncMessage } from './frame.ts'

export type VerifyMode = 'full' | 'signature' | 'none'

/** What a message was found to be. */
export interface Proved {
  proof: Proof
  /** Whether the key that was given signed it; false without one, or where nothing is verified. */
  signed: boolean
  /** For a key that was not at hand: `isSignedBy`. Both empty where nothing is verified. */
  unsigned: Uint8Array
  sig: Uint8Array
  /** Root of the record tree after the commit. */
  data: Cid
  /** The events of the ops in scope, in their order: what each entry's `event` says. */
  entries: readonly Buffer[]
  counts: { create: number; update: number; delete: number; filtered: number }
  dropped: readonly DroppedOp[]
}

export interface ProveOptions {
  mode: VerifyMode
  scope: Scope
  now: number
}

/** Proves a message with the key of its account (`did:key:…`), as far as one is at hand. Throws `RefusedError`. */
export function prove(
  message: CommitMessage | SyncMessage,
  key: string | null,
  { mode, scope, now }: ProveOptions,
): Proved {
  const opened = openMessage(message, now, mode !== 'none')
  const { unsigned, signed: commit } = opened
  const isCommit = message.type === 'commit'
  const proof = isCommit && mode === 'full' ? proveOps(message, opened) : 'unproven'
  const { sig, data } = commit
  const signed = mode !== 'none' && isSignedBy(key, { unsigned, sig })
  const { events, filtered, dropped } = isCommit
    ? eventsOf(message, opened.blocks, scope)
    : { events: [], filtered: 0, dropped: [] }
  const counts = { create: 0, update: 0, delete: 0, filtered }
  for (const { type } of events) counts[type] += 1
  const entries = events.map((event) => Buffer.from(encodeEvent(event)[1] ?? ''))
  const rest = { data, entries, counts, dropped }
  if (mode === 'none') return { proof, signed, unsigned: nothing, sig: nothing, ...rest }
  return { proof, signed, unsigned, sig, ...rest }
}

const nothing = new Uint8Array(0)

/** True when this key made the signature; false without one, and for one that is none. */
export function isSignedBy(
  key: string | null,
  { unsigned, sig }: Pick<Proved, 'unsigned' | 'sig'>,
): boolean {
  if (key === null) return false
  try {
    return verifySignature(parseDidKey(key), unsigned, sig)
  } catch (error) {
    if (error instanceof KeyError) return false
    throw error
  }
}
