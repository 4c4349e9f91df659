/** What can become of a repo other than its records: one table, each reason with its kind. */

import { CarError } from '../shared/repo/car.ts'
import { CommitError } from '../shared/repo/commit.ts'

/**
 * `ended`: the account's repo is not to be had, and that is no fault. `transient`: the same request
 * may succeed later. `poison`: it will fail again, so it is set aside at once.
 */
export type Kind = 'ended' | 'transient' | 'poison'

/** Where in the work it happens; the older metrics count by it. */
export type Stage = 'identity' | 'fetch' | 'parse' | 'verify'

const table = {
  // What a host says of an account (com.atproto.sync.getRepo, errors).
  RepoNotFound: ['ended', 'fetch', 'the host of the account has no such repo'],
  RepoTakendown: ['ended', 'fetch', 'the repo was taken down by its host'],
  RepoSuspended: ['ended', 'fetch', 'the repo is suspended by its host'],
  RepoDeactivated: ['ended', 'fetch', 'the account is deactivated'],
  'identity-not-found': ['ended', 'identity', 'no such DID'],
  'identity-tombstone': ['ended', 'identity', 'the DID was given up by its owner'],
  'no-pds': ['ended', 'identity', 'the DID document names no host of a repo'],

  'identity-unavailable': ['transient', 'identity', 'the DID document could not be had'],
  unreachable: ['transient', 'fetch', 'the host could not be reached, or broke the connection'],
  timeout: ['transient', 'fetch', 'the host did not answer in time, or stopped in the middle'],
  'rate-limited': ['transient', 'fetch', 'the host asked to come back later'],
  'host-error': ['transient', 'fetch', 'the host failed'],
  'not-a-car': ['transient', 'fetch', 'the host answered with something that is no CAR'],
  'future-rev': ['transient', 'verify', 'the rev of the repo is ahead of our clock'],
  'temporary-file': ['transient', 'fetch', 'the temporary file for the CAR can not be had'],
  truncated: ['transient', 'fetch', 'the CAR ends before it is complete'],

  'identity-invalid': ['poison', 'identity', 'the DID or its document can not be used'],
  'no-signing-key': ['poison', 'identity', 'the DID document has no signing key'],
  'private-host': ['poison', 'fetch', 'the host has a private address, which is not allowed'],
  'insecure-host': ['poison', 'fetch', 'the host can not be reached by https'],
  'host-refused': ['poison', 'fetch', 'the host refused the request'],
  redirects: ['poison', 'fetch', 'the host redirected too often, or to somewhere we do not go'],
  oversize: ['poison', 'fetch', 'the CAR is larger than BACKFILLER_MAX_CAR_BYTES'],
  'too-many-blocks': ['poison', 'parse', 'the CAR has more blocks than we can find again'],
  'malformed-car': ['poison', 'parse', 'the CAR is malformed'],
  'block-too-large': ['poison', 'parse', 'a block is larger than any record may be'],
  'block-hash': ['poison', 'parse', 'a block is not what its CID says'],
  'missing-block': ['poison', 'parse', 'the CAR is not the whole repo: a block is missing'],
  'no-root': ['poison', 'parse', 'the CAR names no commit as its root'],
  'malformed-commit': ['poison', 'parse', 'the commit of the repo can not be read'],
  'unsupported-version': ['poison', 'parse', 'the repo has another version than 3'],
  mst: ['poison', 'parse', 'the tree of the repo is broken'],
  'wrong-did': ['poison', 'verify', 'the CAR is the repo of another account'],
  signature: ['poison', 'verify', 'the commit is not signed with the key of the account'],
} as const satisfies Record<string, readonly [Kind, Stage, string]>

export type Reason = keyof typeof table

/** Every reason there is. */
export const reasons = Object.keys(table) as readonly Reason[]

/** Why a repo was not handed over. The message is a sentence for a person. */
export class Failure extends Error {
  override readonly name = 'Failure'
  readonly reason: Reason
  readonly kind: Kind
  readonly stage: Stage
  /** How long the host asked to be left alone, in milliseconds. */
  readonly retryAfterMs: number

  constructor(reason: Reason, detail = '', options: ErrorOptions & { retryAfterMs?: number } = {}) {
    const [kind, stage, sentence] = table[reason]
    super(detail === '' ? sentence : `${sentence} (${detail})`, options)
    this.reason = reason
    this.kind = kind
    this.stage = stage
    this.retryAfterMs = options.retryAfterMs ?? 0
  }
}

/** The states that a host gives as the name of an error. */
const states = ['RepoNotFound', 'RepoTakendown', 'RepoSuspended', 'RepoDeactivated'] as const
const passingStatuses = new Set([408, 425, 429])

/** What an answer other than 200 means. `name` is the XRPC error, where the body has one. */
export function statusFailure(status: number, name: string, retryAfterMs: number): Failure {
  const detail = `HTTP ${status}${name === '' ? '' : ` ${name}`}`
  const state = states.find((known) => known === name)
  if (state !== undefined) return new Failure(state, detail)
  if (status === 429) return new Failure('rate-limited', detail, { retryAfterMs })
  if (status >= 500 || passingStatuses.has(status)) {
    return new Failure('host-error', detail, { retryAfterMs })
  }
  return new Failure('host-refused', detail)
}

const carReasons = {
  truncated: 'truncated',
  malformed: 'malformed-car',
  'block-too-large': 'block-too-large',
  'hash-mismatch': 'block-hash',
} as const satisfies Record<CarError['code'], Reason>

const commitReasons = {
  malformed: 'malformed-commit',
  'unsupported-version': 'unsupported-version',
} as const satisfies Record<CommitError['code'], Reason>

/** The failure that an error of reading a repo stands for, or null for one that is none of ours. */
export function failureOf(error: unknown): Failure | null {
  if (error instanceof Failure) return error
  if (error instanceof CarError) {
    return new Failure(carReasons[error.code], error.message, { cause: error })
  }
  if (error instanceof CommitError) {
    return new Failure(commitReasons[error.code], error.message, { cause: error })
  }
  return null
}
