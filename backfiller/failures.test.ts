/** The table of failures: what ends, what passes, what is poison. */
import { expect, test } from 'vitest'
import { CarError } from '../shared/repo/car.ts'
import { CommitError } from '../shared/repo/commit.ts'
import { Failure, failureOf, type Kind, type Reason, reasons } from './failures.ts'

const kinds: Record<Kind, Reason[]> = {
  ended: [
    'RepoNotFound',
    'RepoTakendown',
    'RepoSuspended',
    'RepoDeactivated',
    'identity-not-found',
    'identity-tombstone',
    'no-pds',
  ],
  transient: [
    'identity-unavailable',
    'unreachable',
    'timeout',
    'rate-limited',
    'host-error',
    'not-a-car',
    'future-rev',
    'temporary-file',
    'truncated',
  ],
  poison: [
    'identity-invalid',
    'no-signing-key',
    'private-host',
    'insecure-host',
    'host-refused',
    'redirects',
    'oversize',
    'too-many-blocks',
    'malformed-car',
    'block-too-large',
    'block-hash',
    'missing-block',
    'no-root',
    'malformed-commit',
    'unsupported-version',
    'mst',
    'wrong-did',
    'signature',
  ],
}

test.each(Object.entries(kinds))('what is %s', (kind, expected) => {
  expect(reasons.filter((reason) => new Failure(reason).kind === kind)).toEqual(expected)
})

test('every reason has a sentence of its own', () => {
  expect(new Set(reasons.map((reason) => new Failure(reason).message)).size).toBe(reasons.length)
})

test.each([
  [new CarError('truncated', ''), 'truncated'],
  [new CarError('malformed', ''), 'malformed-car'],
  [new CarError('block-too-large', ''), 'block-too-large'],
  [new CarError('hash-mismatch', ''), 'block-hash'],
  [new CommitError('malformed', ''), 'malformed-commit'],
  [new CommitError('unsupported-version', ''), 'unsupported-version'],
  [new Failure('mst'), 'mst'],
])('%o is %s', (error, reason) => {
  expect(failureOf(error)?.reason).toBe(reason)
})

test('what nobody foresaw is no failure of a repo', () => {
  expect(failureOf(new TypeError('x is not a function'))).toBeNull()
})
