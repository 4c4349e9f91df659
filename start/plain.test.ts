/** What a person gets to read of a worker's log. */
import { expect, test } from 'vitest'
import { inWords, plainLine } from './plain.ts'

const line = (fields: object) => JSON.stringify({ service: 'ingester', time: 'now', ...fields })

test('a warning is shown with its fields and the error in words', () => {
  const err = { message: 'connect ECONNREFUSED 127.0.0.1:1', stack: 'at …' }
  expect(plainLine(line({ level: 'warn', msg: 'lost', host: 'relay.example', err }))).toBe(
    'lost (host relay.example, connect ECONNREFUSED 127.0.0.1:1: nothing listens there)',
  )
})

test.for(['trace', 'debug', 'info'])('what is only %s stays in the file', (level) => {
  expect(plainLine(line({ level, msg: 'stopped' }))).toBeNull()
})

test('of a crash the first line is shown, not the stack', () => {
  const crash = ['node:internal/x:1', '    throw err', '', 'Error: gone', '    at f (x)', '}']
  expect(crash.map(plainLine).filter((shown) => shown !== null)).toEqual(['Error: gone'])
})

test('each problem of a bad configuration is shown', () => {
  expect(plainLine('  - REDIS_URL is not set')).toBe('  - REDIS_URL is not set')
})

test('a broken log line is shown as it is', () => {
  expect(plainLine('{"level":"wa')).toBe('{"level":"wa')
})

test('an error without a known code keeps its own words', () => {
  expect(inWords('no such thing')).toBe('no such thing')
})
