/** From a relay's messages to entries of `firehose_live`: what is proved, refused, filtered, and counted. */
import { errorText } from '../shared/errors.ts'
import {
  type AccountEvent,
  encodeEvent,
  type IdentityEvent,
  withoutProof,
} from '../shared/events.ts'
import type { Logger } from '../shared/log.ts'
import type { Scope } from '../shared/scope.ts'
import type { Link } from '../shared/streams/chain.ts'
import type { Entry } from '../shared/streams/producer.ts'
import { type Refusal, RefusedError } from './commit.ts'
import type {
  AccountMessage,
  CommitMessage,
  IdentityMessage,
  Message,
  SyncMessage,
} from './frame.ts'
import type { Found, Keys } from './keys.ts'
import type { IngesterMetrics } from './metrics.ts'
import { isSignedBy, type Proved, prove, type VerifyMode } from './prove.ts'
import { type Prover, ProverError } from './prover.ts'
import { createRefusals } from './refusals.ts'
import type { Said } from './said.ts'
import type { Unproved } from './unproved.ts'

/** How long a commit waits for its key before INGESTER_VERIFY_UNAVAILABLE decides. */
const keyWithinMs = 5_000

export interface VerifierOptions {
  keys: Pick<Keys, 'at' | 'find' | 'refresh' | 'forget'>
  mode: VerifyMode
  /** What becomes of a commit whose key can't be had in time. */
  unavailable: 'pass' | 'wait'
  scope: Scope
  /** Where commits are put that nobody could verify; they become entries once they stand there. */
  unproved?: Pick<Unproved, 'add'>
  /** What relays have said of accounts, and is durable: the same from another one is left out. */
  said?: Said
  /** Where messages are proved, by this mode and scope; without it here. */
  prover?: Pick<Prover, 'prove'>
  signal: AbortSignal
  log: Logger
  metrics: IngesterMetrics
  keyWithinMs?: number
  now?: () => number
}

/** What a message becomes. */
export interface Translation {
  /** None when it is refused, filtered or of no interest to the stream. */
  entries: readonly Entry[]
  /** Of a commit or #sync that was accepted: how it continues its repo's chain. */
  link?: Link
  /** To be called once the entries are durable. */
  onDurable?: () => void
}

/** Judges a message. Rejects when the signal aborts before it could. */
export type Translate = (message: Message) => Promise<Translation>

/**
 * A translation whose calls overlap: identities are looked up beside the stream. Calls must be made
 * in the order of the stream, since an #identity makes the commits after it look again. Results never
 * depend on which look-up ends first.
 *
 * An #account is what one relay says, unsigned: it becomes an event, and refuses no commit, which the
 * account itself has signed.
 *
 * A #sync becomes no entry, but a link of its repo's chain.
 */
export function createVerifier(options: VerifierOptions): Translate {
  const { mode, unavailable, scope, signal, log, metrics, keys, unproved, said } = options
  const { now = Date.now, keyWithinMs: withinMs = keyWithinMs } = options
  const { prover = { prove: async (...given) => prove(...given, { mode, scope, now: now() }) } } =
    options
  const refusals = createRefusals(log, now)
  let keysAway = false

  /** `unavailable` after the time that a commit may wait; never, where it waits for the directory. */
  const find = async (did: string): Promise<Found> => {
    const found = await keys.find(did, now() + withinMs)
    if (found !== 'unavailable') {
      keysAway = false
      return found
    }
    stopped(found)
    metrics.unavailable.inc()
    if (!keysAway) log.warn({ did, policy: unavailable }, 'keys can not be had in time')
    keysAway = true
    // The host of a did:web is nobody's mirror: it must not hold the position for ever.
    if (unavailable === 'pass' || did.startsWith('did:web:')) return found
    return keys.find(did, null)
  }

  /** Proves a message by the key of its account; `unverified` when that can't be had. Throws `RefusedError`. */
  const judge = async (message: CommitMessage | SyncMessage): Promise<Judged> => {
    if (mode === 'none') return { ...(await prover.prove(message, null)), verdict: 'unverified' }
    const { did } = message
    const atHand = keys.at(did)
    if (atHand !== null) {
      const proved = await prover.prove(message, atHand)
      if (proved.signed) return { ...proved, verdict: 'signed' }
      return { ...proved, verdict: await judgeAnew(message, proved, 'signature') }
    }
    // Asked before the first wait: an #identity that comes later must not change this answer.
    const asking = find(did)
    const [proved, found] = await Promise.all([prover.prove(message, null), asking])
    stopped(found)
    if (found === 'unavailable') return { ...proved, verdict: 'unverified' }
    if (found !== 'none' && isSignedBy(found.key, proved)) return { ...proved, verdict: 'signed' }
    const reason = found === 'none' ? 'identity' : 'signature'
    return { ...proved, verdict: await judgeAnew(message, proved, reason) }
  }

  /** Looks once more at whose signature it is. In a burst after a change of keys one asks, and all judge by its answer. */
  const judgeAnew = async (
    message: CommitMessage | SyncMessage,
    proved: Proved,
    reason: Unverified,
  ): Promise<'signed'> => {
    const { did } = message
    const found = await keys.refresh(did, now() + withinMs)
    stopped(found)
    const key = typeof found === 'string' ? keys.at(did) : found.key
    if (key !== null && isSignedBy(key, proved)) return 'signed'
    // Nobody could say whether the account has another key by now: that is found out later.
    if (found === 'unavailable') await unproved?.add(message, proved, 'refused')
    if (reason === 'identity') throw new RefusedError(reason, 'the account can not be resolved')
    throw new RefusedError(reason, 'the signature is not that of the key of the account')
  }

  /** At the stop nothing is judged any more: it would pass without a look, or be refused for want of one. */
  const stopped = (found: Found | 'recent') => {
    if (found === 'unavailable') signal.throwIfAborted()
  }

  const commit = async (message: CommitMessage): Promise<Translation> => {
    const judged = await judge(message)
    const { verdict, proof, entries, counts, dropped } = judged
    if (verdict === 'signed') metrics.verified.inc({ proof })
    else metrics.unverified.inc()
    if (counts.filtered > 0) metrics.filtered.inc(counts.filtered)
    if (counts.create > 0) metrics.creates.inc(counts.create)
    if (counts.update > 0) metrics.updates.inc(counts.update)
    if (counts.delete > 0) metrics.deletes.inc(counts.delete)
    for (const reason of dropped) metrics.droppedOps.inc({ reason })
    refusals.taken()
    const link = linkOf(message, judged, mode)
    if (!link.doubtful) return { entries: entries.map((json) => ['event', json]), link }
    await unproved?.add(message, judged, 'passed')
    return { entries: entries.map((json) => ['event', withoutProof(json)]), link }
  }

  const sync = async (message: SyncMessage): Promise<Translation> => {
    const judged = await judge(message)
    metrics.syncs.inc({ result: judged.verdict })
    return { entries: [], link: linkOf(message, judged, mode) }
  }

  const identity = ({ seq, time, did, handle }: IdentityMessage): Promise<Translation> => {
    keys.forget(did)
    const named = handle === null ? {} : { handle }
    return once(`identity ${did} ${time} ${handle}`, { type: 'identity', seq, time, did, ...named })
  }

  const account = ({ seq, time, did, active, status }: AccountMessage): Promise<Translation> =>
    once(`account ${did} ${time} ${active} ${status}`, {
      ...{ type: 'account', seq, time, did, active, status },
    })

  /** What another relay has said already, and is durable, is not said again. */
  const once = async (words: string, event: IdentityEvent | AccountEvent): Promise<Translation> => {
    if (said === undefined) return { entries: [encodeEvent(event)] }
    if (await said.isNew(words)) {
      return { entries: [encodeEvent(event)], onDurable: () => said.durable(words) }
    }
    metrics.duplicates.inc()
    return nothing
  }

  const refuse = (message: CommitMessage | SyncMessage, error: unknown): Translation => {
    if (signal.aborted && error === signal.reason) throw error
    if (error instanceof ProverError) throw error
    // Of upstream data nothing ends the process; what we did not foresee is counted as our bug.
    const reason = error instanceof RefusedError ? error.reason : 'bug'
    const { type: kind, seq, did, rev } = message
    metrics.refused.inc({ kind, reason })
    metrics.errors.inc()
    if (kind === 'sync') metrics.syncs.inc({ result: reason })
    if (reason === 'bug') log.error({ seq, did, rev, err: error }, 'a message met a bug of ours')
    refusals.refused(reason, { seq, did, rev, cause: errorText(error) })
    return nothing
  }

  return async (message) => {
    switch (message.type) {
      case 'commit':
        return commit(message).catch((error: unknown) => refuse(message, error))
      case 'sync':
        return sync(message).catch((error: unknown) => refuse(message, error))
      case 'identity':
        return identity(message)
      case 'account':
        return account(message)
      case 'labels':
        metrics.refused.inc({ kind: 'labels', reason: 'endpoint' })
        return nothing
      case 'malformed':
        refusals.refused(`${message.kind} ${message.reason}`, { seq: message.seq })
        return nothing
      default:
        return nothing
    }
  }
}

const nothing: Translation = { entries: [] }

/** `unverified` when the key can't be had, or need not be. */
type Judged = Proved & { verdict: 'signed' | 'unverified' }
type Unverified = Extract<Refusal, 'identity' | 'signature'>

function linkOf(message: CommitMessage | SyncMessage, judged: Judged, mode: VerifyMode): Link {
  const { type: kind, did, rev } = message
  const { data, proof, verdict } = judged
  const { since, prevData } = kind === 'commit' ? message : { since: null, prevData: null }
  const doubtful = verdict === 'unverified' && mode !== 'none'
  return {
    kind,
    did,
    rev,
    since,
    prevData: prevData?.copy() ?? null,
    data: data.copy(),
    proven: proof === 'proven',
    doubtful,
  }
}
