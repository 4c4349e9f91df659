/** One repo, from its host to the output stream: resolve, fetch, prove, hand over. */
import { setImmediate as others } from 'node:timers/promises'
import { crashPoint } from '../shared/crash-point.ts'
import { encodeEvent } from '../shared/events.ts'
import { type Account, type Identity, IdentityError } from '../shared/identity.ts'
import type { Scope } from '../shared/scope.ts'
import { RewoundError } from '../shared/streams/producer.ts'
import { Blocks } from './blocks.ts'
import type { Board } from './board.ts'
import { Failure, failureOf, type Reason } from './failures.ts'
import type { Fetcher } from './fetch.ts'
import { type Hosts, NotNowError, type Turn } from './hosts.ts'
import type { Memory } from './memory.ts'
import type { BackfillerMetrics } from './metrics.ts'
import type { Pace } from './pace.ts'
import { isSignedBy, readBlocks } from './read.ts'
import type { Place, Slots } from './slots.ts'
import type { Appender } from './together.ts'
import { type OpenedRepo, openRepo, proveTree, recordsOf } from './walk.ts'

export interface RepoOptions {
  identity: Identity
  /** Turns at the directory of did:plc, as at a host: all repos depend on it. */
  directory: Hosts
  hosts: Hosts
  fetcher: Fetcher
  appender: Appender
  /** A place for each repo that is worked on. Whoever waits, for a host or a next try, has none. */
  slots: Slots
  /** Comes before what is only on the list. */
  urgent: boolean
  pace: Pace
  board: Board
  /** The patterns as given; they are part of what is said of a snapshot. */
  scope: readonly string[]
  inScope: Scope
  /** For the blocks of all repos in hand. */
  memory: Memory
  /** Records appended at once. */
  batchSize: number
  skipSignature: boolean
  metrics: BackfillerMetrics
}

/** What was handed over. */
export interface Snapshot {
  did: string
  host: string
  rev: string
  records: number
  /** Records in scope that have no form on the stream, by reason. */
  refused: Record<string, number>
}

interface Proved extends OpenedRepo {
  host: string
  blocks: Blocks
}

/** What is known of the work on a repo while it goes on. */
export interface Trace {
  /** The host that is asked. */
  host: string
  /** Where the repo lives, as far as is known. */
  pds?: string
  /** Which try it is, from 1. */
  attempt: number
  /** When the host was asked last: what it says holds from then on, in ms. */
  askedAt?: number
}

/** An append is at most this much JSON, whatever the number of records, except for a single one. */
export const maxBatchBytes = 4 * 1024 * 1024
/** The word that a snapshot is complete counts its records by collection, unless there are more. */
const maxCounted = 1_000
/** So much of a CAR may arrive before its repo has a place. */
const worthBytes = 64 * 1024
/** How often a repo is handed over again because Redis has gone back. */
const maxRewinds = 10
/** Records looked at between two chances for others to run. */
const stepsAtOnce = 1_000

/** What may come from a DID document that has changed since we read it. */
const staleReasons: ReadonlySet<Reason> = new Set([
  'RepoNotFound',
  'RepoTakendown',
  'RepoSuspended',
  'RepoDeactivated',
  'no-pds',
  'no-signing-key',
  'signature',
])

/**
 * Fetches the repo of an account, proves it whole, and puts its records and then the word that it is
 * complete on the output stream. Nothing is put there unless all of it is proved. Throws Failure;
 * repeating it is harmless.
 */
export async function backfill(
  did: string,
  options: RepoOptions,
  signal: AbortSignal,
  trace: Trace,
): Promise<Snapshot> {
  if (trace.pds !== undefined) options.hosts.check(trace.pds)
  const account = await resolve(did, options, { signal })
  try {
    return await fetchAndHandOver(account, options, signal, trace)
  } catch (error) {
    const failure = failureOf(error)
    if (failure === null || !staleReasons.has(failure.reason)) throw error
    const fresh = await resolve(did, options, { refresh: true, signal })
    if (fresh.pds === account.pds && fresh.signingKey === account.signingKey) throw error
    return fetchAndHandOver(fresh, options, signal, trace)
  }
}

const identityReasons = {
  'not-found': 'identity-not-found',
  tombstone: 'identity-tombstone',
  invalid: 'identity-invalid',
  unavailable: 'identity-unavailable',
} as const satisfies Record<IdentityError['kind'], Reason>

/** How long whoever says 'too often' is left alone, where he does not say how long. */
const tooOftenMs = 1_000

/**
 * The account of a DID. A directory that is away, or asked too often, says nothing about a repo: the
 * request comes back later, and no try of it is counted. Throws Failure, NotNowError.
 */
async function resolve(
  did: string,
  { identity, directory, urgent }: RepoOptions,
  how: { refresh?: boolean; signal: AbortSignal },
): Promise<Account> {
  const known = how.refresh === true ? null : identity.peek(did)
  if (known !== null) return known
  using turn = did.startsWith('did:plc:')
    ? await directory.turn('the directory', how.signal, urgent)
    : null
  try {
    const account = await identity.resolve(did, how)
    turn?.worked()
    return account
  } catch (cause) {
    if (!(cause instanceof IdentityError)) throw cause
    const { kind, tooOften } = cause
    const retryAfterMs = cause.retryAfterMs ?? 0
    if (kind !== 'unavailable') turn?.worked()
    else if (turn !== null) {
      const pauseMs = Math.max(retryAfterMs, tooOften ? tooOftenMs : 0)
      turn.heard({ retryAfterMs: pauseMs })
      if (tooOften || turn.failed()) {
        throw new NotNowError(`the directory: ${cause.message}`, Date.now() + pauseMs)
      }
    }
    throw new Failure(identityReasons[kind], cause.message, { cause, retryAfterMs })
  }
}

async function fetchAndHandOver(
  account: Account,
  options: RepoOptions,
  signal: AbortSignal,
  trace: Trace,
): Promise<Snapshot> {
  const { hosts, slots, urgent, pace, board, metrics } = options
  const { pds } = account
  if (pds === null) throw new Failure('no-pds')
  trace.host = new URL(pds).host
  trace.pds = pds
  using turn = await hosts.turn(pds, signal, urgent)
  using place = slots.place(urgent)
  if (turn.slow) place.drag()
  pace.served()
  using _shown = board.begin(account.did, trace)
  metrics.running.inc()
  try {
    using blocks = new Blocks(options.memory)
    trace.askedAt = Date.now()
    const proved = await fetchProved({ pds, account, blocks, turn, place }, options, signal)
    crashPoint('backfiller.fetched')
    turn[Symbol.dispose]()
    return await handOver(proved, options, signal)
  } finally {
    metrics.running.dec()
  }
}

interface Fetching {
  pds: string
  account: Account
  blocks: Blocks
  turn: Turn
  place: Place
}

async function fetchProved(
  fetching: Fetching,
  options: RepoOptions,
  signal: AbortSignal,
): Promise<Proved> {
  const { pds, account, blocks, turn, place } = fetching
  const { fetcher, metrics, skipSignature } = options
  const roots = await judging(fetching, metrics, async () => {
    const slow = () => {
      turn.dragged()
      place.drag()
    }
    const asking = { signal, heard: turn.heard, slow }
    const { body } = await fetcher.fetchRepo(pds, account.did, asking)
    const arrived = worthAPlace(counted(body, metrics), place, signal)
    return readBlocks(arrived, blocks, signal)
  })
  if (blocks.isSpilled) metrics.spilled.inc()
  const repo = openRepo(account.did, roots, blocks, Date.now())
  if (!skipSignature) checkSignature(account, repo)
  const { ignored } = await inSteps(proveTree(repo.commit.data, blocks), metrics, signal)
  metrics.ignoredBlocks.inc(ignored)
  return { ...repo, host: new URL(pds).host, blocks }
}

const statusOf: Partial<Record<Reason, string>> = {
  RepoNotFound: 'deleted',
  RepoTakendown: 'takendown',
  RepoSuspended: 'suspended',
  RepoDeactivated: 'deactivated',
  'identity-tombstone': 'deleted',
}

export interface Ending {
  did: string
  reason: Reason
  /** When whoever said so was asked: the account may have changed since. */
  askedAt: number
}

/** Puts what has become of an account on the output stream, where the reason tells. */
export async function passOn({ did, reason, askedAt }: Ending, appender: Appender): Promise<void> {
  const status = statusOf[reason]
  if (status === undefined) return
  const time = new Date(askedAt).toISOString()
  const entry = encodeEvent({ type: 'account', seq: -1, time, did, active: false, status })
  const one = { entries: [entry], bytes: entry.join().length }
  await again(() => appender.append({ ...one, epoch: appender.epoch }))
}

/** The host is told apart from the repo: only its own failures make it cool off. */
async function judging<T>(
  { turn, pds }: Fetching,
  { answers, answerSeconds }: BackfillerMetrics,
  call: () => Promise<T>,
): Promise<T> {
  const group = groupOf(pds)
  const ended = answerSeconds.startTimer({ group })
  try {
    const result = await call()
    turn.worked()
    answers.inc({ group, result: 'repo' })
    ended()
    return result
  } catch (error) {
    const failure = failureOf(error)
    if (failure?.reason === 'rate-limited') {
      turn.heard({ retryAfterMs: Math.max(failure.retryAfterMs, tooOftenMs) })
      turn.worked()
    } else if (failure?.kind === 'transient') turn.failed()
    else if (failure !== null) turn.worked()
    answers.inc({ group, result: failure?.kind ?? 'later' })
    throw error
  }
}

/** Nearly all repos are at the first; the names of the others are anyone's choice, and no label. */
function groupOf(pds: string): string {
  return new URL(pds).hostname.endsWith('.host.bsky.network') ? 'bsky.network' : 'other'
}

async function* counted(body: AsyncIterable<Uint8Array>, metrics: BackfillerMetrics) {
  for await (const chunk of body) {
    metrics.carBytes.inc(chunk.length)
    yield chunk
  }
}

/** Waits for a place as soon as there is something to work on: an answer that drips holds none. */
async function* worthAPlace(body: AsyncIterable<Uint8Array>, place: Place, signal: AbortSignal) {
  let held: Uint8Array[] = []
  let bytes = 0
  let isInside = false
  for await (const chunk of body) {
    if (isInside) {
      yield chunk
      continue
    }
    held.push(chunk)
    bytes += chunk.length
    if (bytes < worthBytes) continue
    await place.enter(signal)
    isInside = true
    yield* held
    held = []
  }
  await place.enter(signal)
  yield* held
}

function checkSignature({ signingKey }: Account, repo: OpenedRepo): void {
  if (signingKey === null) throw new Failure('no-signing-key')
  if (!isSignedBy(signingKey, repo)) throw new Failure('signature', `of ${repo.cid}`)
}

/** Runs it to its end, letting others run between its steps. */
async function inSteps<T>(
  steps: Generator<void, T>,
  metrics: BackfillerMetrics,
  signal: AbortSignal,
): Promise<T> {
  for (;;) {
    const started = performance.now()
    const step = steps.next()
    metrics.proveSeconds.inc((performance.now() - started) / 1_000)
    if (step.done) return step.value
    await others()
    signal.throwIfAborted()
  }
}

async function handOver(
  proved: Proved,
  options: RepoOptions,
  signal: AbortSignal,
): Promise<Snapshot> {
  return again(() => appendAll(proved, options, signal))
}

/** What was appended before Redis went back may be gone: all of it is made again. */
async function again<T>(append: () => Promise<T>): Promise<T> {
  for (let rewinds = 0; ; rewinds += 1) {
    try {
      return await append()
    } catch (error) {
      if (!(error instanceof RewoundError) || rewinds === maxRewinds) throw error
    }
  }
}

async function appendAll(
  { cid, commit, host, blocks }: Proved,
  options: RepoOptions,
  signal: AbortSignal,
): Promise<Snapshot> {
  const { appender, metrics, scope, inScope, batchSize } = options
  const { did, rev } = commit
  const { epoch } = appender
  const head = { seq: -1, time: new Date().toISOString(), did, commit: cid, rev }
  const refused: Record<string, number> = {}
  let entries: string[][] = []
  let bytes = 0
  let records = 0
  const counts = new Map<string, number>()
  let steps = 0
  const flush = async () => {
    signal.throwIfAborted()
    await appender.append({ entries, bytes, epoch })
    entries = []
    bytes = 0
  }
  const chunk = async () => {
    crashPoint('backfiller.before-append')
    await flush()
    crashPoint('backfiller.appended')
  }
  for (const found of recordsOf(commit.data, blocks, inScope)) {
    steps += 1
    if (steps % stepsAtOnce === 0) await others()
    if ('outOfScope' in found) metrics.filtered.inc()
    else if ('refused' in found) {
      refused[found.refused] = (refused[found.refused] ?? 0) + 1
      metrics.refusedRecords.inc({ reason: found.refused })
    } else {
      const entry = encodeEvent({ type: 'create', ...head, ...found })
      const size = entry[1]?.length ?? 0
      if (entries.length >= batchSize || (bytes > 0 && bytes + size > maxBatchBytes)) await chunk()
      entries.push(entry)
      bytes += size
      records += 1
      const { collection } = found
      if (counts.size <= maxCounted) counts.set(collection, (counts.get(collection) ?? 0) + 1)
      metrics.extracted.inc()
    }
  }
  if (entries.length >= batchSize) await chunk()
  const counted = counts.size <= maxCounted ? { collections: Object.fromEntries(counts) } : {}
  entries.push(encodeEvent({ type: 'repo', ...head, complete: { records, scope, ...counted } }))
  crashPoint('backfiller.before-complete')
  await flush()
  crashPoint('backfiller.completed')
  return { did, host, rev, records, refused }
}
