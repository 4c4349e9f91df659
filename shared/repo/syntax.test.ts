import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sharedLines } from '../../test/data.ts'
import { isAtUri, isDid, isHandle, isNsid, isRkey } from './syntax.ts'
import { compareTids, isTid, tidOf, tidTime } from './tid.ts'

const folder = 'vectors/atproto-interop-tests/syntax'

describe.each([
  ['did', isDid],
  ['handle', isHandle],
  ['nsid', isNsid],
  ['recordkey', isRkey],
  ['tid', isTid],
  ['aturi', isAtUri],
] as const)('the published syntax: %s', (name, accepts) => {
  test.each(sharedLines(`${folder}/${name}_syntax_valid.txt`))('valid: %s', (text) => {
    expect(accepts(text)).toBe(true)
  })
  test.each(sharedLines(`${folder}/${name}_syntax_invalid.txt`))('invalid: %s', (text) => {
    expect(accepts(text)).toBe(false)
  })
})

test('what ends in a line break is no name', () => {
  expect(isDid('did:plc:a\n')).toBe(false)
  expect(isHandle('a.example\n')).toBe(false)
  expect(isNsid('a.example.b\n')).toBe(false)
  expect(isRkey('self\n')).toBe(false)
  expect(isTid('3jzfcijpj2z2a\n')).toBe(false)
})

test('a long text that is almost a name is refused in no time', () => {
  const started = performance.now()
  for (const accepts of [isDid, isHandle, isNsid, isRkey, isAtUri]) {
    accepts(`did:plc:${':'.repeat(100_000)}`)
    accepts(`${'a-'.repeat(120)}!`)
    accepts(`at://${'a.'.repeat(100_000)}!`)
  }
  expect(performance.now() - started).toBeLessThan(100)
})

test('a TID names its moment, and their order is that of time', () => {
  const time = Date.UTC(2026, 6, 4, 14, 38, 7, 517)
  const tid = tidOf(time * 1_000 + 250, 7)
  expect(isTid(tid)).toBe(true)
  expect(tidTime(tid)).toBe(time + 0.25)
  expect(compareTids(tid, tidOf(time * 1_000 + 251))).toBeLessThan(0)
  expect(compareTids(tid, tid)).toBe(0)
})

test('a rev of the recorded network names the moment of its recording', () => {
  expect(new Date(tidTime('3mptbypluud2a')).toISOString()).toBe('2026-07-04T14:38:07.514Z')
})

test('property: the time of a TID is its whole microseconds', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 52 }), fc.nat(1_023), (microseconds, clock) => {
      expect(tidTime(tidOf(microseconds, clock))).toBe(microseconds / 1_000)
    }),
  )
})
