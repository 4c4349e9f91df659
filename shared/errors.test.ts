import { ReplyError } from 'ioredis'
import { expect, test } from 'vitest'
import {
  errorFields,
  errorText,
  halves,
  InvalidEventError,
  verdict,
  withoutCredentials,
} from './errors.ts'

const withCode = (code: string) => Object.assign(new Error('it failed'), { code })
const redis = (message: string) => new ReplyError(message)

test.each([
  ['a refused connection', withCode('ECONNREFUSED'), 'retry'],
  ['a reset connection', withCode('ECONNRESET'), 'retry'],
  ['a broken pipe', withCode('EPIPE'), 'retry'],
  ['a name that does not resolve now', withCode('EAI_AGAIN'), 'retry'],
  ['Postgres: connection failure', withCode('08006'), 'retry'],
  ['Postgres: serialization failure', withCode('40001'), 'retry'],
  ['Postgres: deadlock', withCode('40P01'), 'retry'],
  ['Postgres: too many connections', withCode('53300'), 'retry'],
  ['Postgres: out of memory', withCode('53200'), 'retry'],
  ['Postgres: disk full', withCode('53100'), 'retry'],
  ['Postgres: lock not available', withCode('55P03'), 'retry'],
  ['Postgres: statement timeout', withCode('57014'), 'retry'],
  ['Postgres: shutting down', withCode('57P01'), 'retry'],
  ['Postgres: connection closed under a query', withCode('CONNECTION_CLOSED'), 'retry'],
  ['Postgres: NUL in text', withCode('22021'), 'reject'],
  ['Postgres: number out of range', withCode('22003'), 'reject'],
  ['Postgres: not null violated', withCode('23502'), 'reject'],
  ['Postgres: value too long for its index', withCode('54000'), 'reject'],
  ['Postgres: no such table', withCode('42P01'), 'crash'],
  ['Postgres: wrong password', withCode('28P01'), 'crash'],
  ['Redis: full', redis('OOM command not allowed when used memory > maxmemory'), 'retry'],
  ['Redis: loading', redis('LOADING Redis is loading the dataset in memory'), 'retry'],
  ['Redis: a replica now', redis("READONLY You can't write against a read only replica."), 'retry'],
  ['Redis: no such group', redis('NOGROUP No such key'), 'crash'],
  ['Redis: wrong type', redis('WRONGTYPE Operation against a key'), 'crash'],
  ['an entry that is no event', new InvalidEventError('not JSON'), 'reject'],
  ['a bug', new TypeError('x is not a function'), 'crash'],
  ['a value that is no error', 'text', 'crash'],
  ['a file that may not be read', withCode('EPERM'), 'crash'],
  ['a cause decides', new Error('batch failed', { cause: withCode('40P01') }), 'retry'],
  ['one of several failures decides', new AggregateError([withCode('ECONNREFUSED')]), 'retry'],
])('%s', (_name, error, expected) => {
  expect(verdict(error)).toBe(expected)
})

test('a message never decides', () => {
  expect(verdict(new Error('ECONNREFUSED 40P01 OOM'))).toBe('crash')
})

test('only a timeout and a lack of memory ask for a smaller batch', () => {
  expect(halves(withCode('57014'))).toBe(true)
  expect(halves(new Error('batch', { cause: withCode('53200') }))).toBe(true)
  expect(halves(withCode('40P01'))).toBe(false)
})

test('a cycle of causes ends', () => {
  const error = new Error('a')
  error.cause = new Error('b', { cause: error })
  expect(errorText(error)).toBe('a: b')
})

test('credentials in a URL are never shown', () => {
  const error = new Error('connect postgres://app:s3cret@db:5432/bsky failed')
  expect(errorText(error)).toBe('connect postgres://***@db:5432/bsky failed')
  expect(JSON.stringify(errorFields(error))).not.toContain('s3cret')
  expect(withoutCredentials('rediss://:pw@r/0 and https://a/b@c')).toBe(
    'rediss://***@r/0 and https://a/b@c',
  )
  expect(withoutCredentials('redis://:pw@m?sentinels=a,b&sentinel_password=s3cret&ca=/f')).toBe(
    'redis://***@m?sentinels=a,b&sentinel_password=***&ca=/f',
  )
})
