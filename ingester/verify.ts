/** From a relay's messages to entries of `firehose_live`: what is proved, refused, filtered, and counted. */
import pLimit from 'p-limit'
import { errorText } from '../shared/errors.ts'
import { encodeEvent } from '../shared/events.ts'
import { IdentityError } from '../shared/identity.ts'
import type { Logger } from '../shared/log.ts'
import { backoff, sleep } from '../shared/retry.ts'
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
import type { IngesterMetrics } from './metrics.ts'
import { isSignedBy, type Proved, prove, type VerifyMode } from './prove.ts'
import { type Prover, ProverError } from './prover.ts'
import { createRecent } from './recent.ts'

/** How long a commit waits for its key before INGESTER_VERIFY_UNAVAILABLE decides. */
const keyWithinMs = 5_000
/** Look-ups at once: a cold start meets some hundred accounts a second. */
const lookUpsAtOnce = 64
/** Whose #identity or inactive #account was seen lately. */
const accountsRemembered = 100_000
/** An account whose host can't serve all of it now goes on committing (spec: account, "status"). */
const speaking: ReadonlySet<string> = new Set(['desynchronized', 'throttled'])
/** A forged commit costs its account a look-up; a flood of them costs one in this time. */
const refreshEveryMs = 10_000

/** The part of an account's identity that is needed here. */
interface Account {
  /** `did:key:…`; null when the document has none. */
  signingKey: string | null
}

export interface Resolver {
  /** What is at hand, and may still be believed. */
  peek?(did: string): Account | null
  /** Throws `IdentityError`. */
  resolve(did: string, options: { refresh: boolean; signal: AbortSignal }): Promise<Account>
}

export interface VerifierOptions {
  identity: Resolver
  mode: VerifyMode
  /** What becomes of a commit whose key can't be had in time. */
  unavailable: 'pass' | 'wait'
  scope: Scope
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
 * in the order of the stream, since an #identity makes the commits after it look again, and an
 * inactive #account refuses them. Results never depend on which look-up ends first.
 *
 * A #sync becomes no entry, but a link of its repo's chain.
 */
export function createVerifier(options: VerifierOptions): Translate {
  const { mode, unavailable, scope, signal, log, metrics } = options
  const { now = Date.now, keyWithinMs: withinMs = keyWithinMs } = options
  const limit = pLimit(lookUpsAtOnce)
  const { prover = { prove: async (...given) => prove(...given, { mode, scope, now: now() }) } } =
    options
  /** Their documents are to be fetched anew before the next commit is judged. */
  const stale = createRecent(accountsRemembered)
  /** Since which position: what is read again from before it is taken. */
  const inactive = new Map<string, number>()
  const refreshed = new Map<string, number>()
  const refreshing = new Map<string, Promise<LookUp>>()

  let directoryAway = false

  const lookUp = (did: string, refresh: boolean, until: number): Promise<LookUp> => {
    const left = Math.max(0, until - Date.now())
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(left)])
    return limit(async () => {
      if (deadline.aborted) return 'unavailable'
      try {
        return await options.identity.resolve(did, { refresh, signal: deadline })
      } catch (error) {
        if (deadline.aborted) return 'unavailable'
        if (!(error instanceof IdentityError)) throw error
        return error.kind === 'unavailable' ? 'unavailable' : 'none'
      }
    })
  }

  /** Tries for as long as it may: `unavailable` is the answer after that, or at the stop. */
  const identityOf = async (did: string, refresh: boolean): Promise<LookUp> => {
    let until = Date.now() + withinMs
    for (let attempt = 1; ; attempt += 1) {
      const found = await lookUp(did, refresh, until)
      if (found !== 'unavailable') {
        directoryAway = false
        return found
      }
      if (signal.aborted) return found
      if (Date.now() >= until) {
        metrics.unavailable.inc()
        if (!directoryAway) log.warn({ did, policy: unavailable }, 'keys can not be had in time')
        directoryAway = true
        if (unavailable === 'pass') return found
        until = Date.now() + withinMs
      }
      const waitMs = backoff(attempt, { initialMs: 200, maxMs: 2_000 })
      await sleep(Math.min(waitMs, Math.max(0, until - Date.now())), signal)
    }
  }

  /** Whether another look at the directory is due; at most one in a while for each account. */
  const mayRefresh = (did: string): boolean => {
    const last = refreshed.get(did)
    if (last !== undefined && now() - last < refreshEveryMs) return false
    refreshed.delete(did)
    refreshed.set(did, now())
    for (const [oldest] of refreshed) {
      if (refreshed.size <= accountsRemembered) break
      refreshed.delete(oldest)
    }
    return true
  }

  /** Asks the directory anew; whoever asks meanwhile gets the same answer. */
  const refresh = (did: string): Promise<LookUp> => {
    metrics.refreshes.inc()
    const asking = identityOf(did, true).finally(() => {
      if (refreshing.get(did) === asking) refreshing.delete(did)
    })
    refreshing.set(did, asking)
    return asking
  }

  const known = (did: string): Promise<LookUp> => refreshing.get(did) ?? identityOf(did, false)

  /** Proves a message by the key of its account; `unverified` when that can't be had. Throws `RefusedError`. */
  const judge = async (message: CommitMessage | SyncMessage): Promise<Judged> => {
    if (mode === 'none') return { ...(await prover.prove(message, null)), verdict: 'unverified' }
    const { did } = message
    const atHand =
      stale.has(did) || refreshing.has(did) ? null : (options.identity.peek?.(did) ?? null)
    if (atHand !== null) {
      const proved = await prover.prove(message, atHand.signingKey)
      if (proved.signed) return { ...proved, verdict: 'signed' }
      return { ...proved, verdict: await judgeAnew(did, proved, 'signature') }
    }
    // Asked before the first wait: an #identity that comes later must not change this answer.
    const asking = stale.delete(did) ? refresh(did) : known(did)
    const [proved, found] = await Promise.all([prover.prove(message, null), asking])
    stopped(found)
    if (found === 'unavailable') return { ...proved, verdict: 'unverified' }
    if (found !== 'none' && isSignedBy(found.signingKey, proved)) {
      return { ...proved, verdict: 'signed' }
    }
    const reason = found === 'none' ? 'identity' : 'signature'
    return { ...proved, verdict: await judgeAnew(did, proved, reason) }
  }

  /** Looks once more at whose signature it is. In a burst after a change of keys one asks, and all judge by its answer. */
  const judgeAnew = async (did: string, proved: Proved, reason: Unproved): Promise<'signed'> => {
    const found = await (mayRefresh(did) ? refresh(did) : known(did))
    stopped(found)
    if (typeof found !== 'string' && isSignedBy(found.signingKey, proved)) return 'signed'
    if (reason === 'identity') throw new RefusedError(reason, 'the account can not be resolved')
    throw new RefusedError(reason, 'the signature is not that of the key of the account')
  }

  /** At the stop nothing is judged any more: it would pass without a look, or be refused for want of one. */
  const stopped = (found: LookUp) => {
    if (found === 'unavailable') signal.throwIfAborted()
  }

  const commit = async (message: CommitMessage): Promise<Translation> => {
    const restsSince = inactive.get(message.did)
    if (restsSince !== undefined && message.seq > restsSince) {
      throw new RefusedError('account-inactive', 'a commit of an account that is not active')
    }
    const judged = await judge(message)
    const { verdict, proof, entries, counts, dropped } = judged
    if (verdict === 'signed') metrics.verified.inc({ proof })
    else metrics.unverified.inc()
    if (counts.filtered > 0) metrics.filtered.inc(counts.filtered)
    if (counts.create > 0) metrics.creates.inc(counts.create)
    if (counts.update > 0) metrics.updates.inc(counts.update)
    if (counts.delete > 0) metrics.deletes.inc(counts.delete)
    for (const reason of dropped) metrics.droppedOps.inc({ reason })
    const events = entries.map((json) => ['event', json])
    return { entries: events, link: linkOf(message, judged, mode) }
  }

  const sync = async (message: SyncMessage): Promise<Translation> => {
    const judged = await judge(message)
    metrics.syncs.inc({ result: judged.verdict })
    return { entries: [], link: linkOf(message, judged, mode) }
  }

  const identity = ({ seq, time, did, handle }: IdentityMessage): Translation => {
    stale.add(did)
    refreshed.delete(did)
    const named = handle === null ? {} : { handle }
    return { entries: [encodeEvent({ type: 'identity', seq, time, did, ...named })] }
  }

  const account = ({ seq, time, did, active, status }: AccountMessage): Translation => {
    inactive.delete(did)
    if (!active && !speaking.has(status ?? '')) inactive.set(did, seq)
    for (const [oldest] of inactive) {
      if (inactive.size <= accountsRemembered) break
      inactive.delete(oldest)
    }
    return { entries: [encodeEvent({ type: 'account', seq, time, did, active, status })] }
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
    else log.debug({ seq, did, rev, reason, cause: errorText(error) }, 'message refused')
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
      default:
        return nothing
    }
  }
}

const nothing: Translation = { entries: [] }

/** `none`: there is certainly no such account; `unavailable`: nobody can say now. */
type LookUp = Account | 'none' | 'unavailable'

/** `unverified` when the key can't be had, or need not be. */
type Judged = Proved & { verdict: 'signed' | 'unverified' }
type Unproved = Extract<Refusal, 'identity' | 'signature'>

function linkOf(message: CommitMessage | SyncMessage, judged: Judged, mode: VerifyMode): Link {
  const { type: kind, did, rev } = message
  const { data, proof, verdict } = judged
  const { since, prevData } = kind === 'commit' ? message : { since: null, prevData: null }
  const doubtful = verdict === 'unverified' && mode !== 'none'
  return { kind, did, rev, since, prevData, data, proven: proof === 'proven', doubtful }
}
