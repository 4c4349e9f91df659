import { expect, test } from 'vitest'
import {
  assertPublicAddress,
  isPublicAddress,
  PrivateHostError,
  publicLookup,
} from './private-hosts.ts'

test.each([
  '0.0.0.0',
  '10.1.2.3',
  '100.64.0.1',
  '127.0.0.1',
  '169.254.169.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.168.1.1',
  '198.18.0.1',
  '224.0.0.1',
  '255.255.255.255',
  '::',
  '::1',
  '::ffff:127.0.0.1',
  '::ffff:8.8.8.8',
  '64:ff9b::7f00:1',
  'fe80::1',
  'fc00::1',
  'ff02::1',
  '2001:db8::1',
  '2002:7f00:1::',
  'localhost',
])('%s is not public', (address) => {
  expect(isPublicAddress(address)).toBe(false)
})

test.each(['1.1.1.1', '8.8.8.8', '172.15.0.1', '172.32.0.1', '2606:4700::1111', '2a00:1450::1'])(
  '%s is public',
  (address) => {
    expect(isPublicAddress(address)).toBe(true)
  },
)

test.each([
  'http://127.0.0.1:2470',
  'https://[::1]/',
  'https://[::ffff:127.0.0.1]/',
  'https://[::ffff:a9fe:a9fe]/',
  'https://169.254.169.254/',
  'https://0x7f000001/',
  'https://2130706433/',
  'https://127.1/',
])('a URL that leads to this machine is refused: %s', (url) => {
  expect(() => assertPublicAddress(new URL(url))).toThrow(PrivateHostError)
})

test('an address on the internet passes', () => {
  assertPublicAddress(new URL('https://1.1.1.1/'))
})

test.each([true, false])('a connection by name gets no private address (all: %s)', async (all) => {
  const { promise, resolve } = Promise.withResolvers<Error | null>()
  publicLookup('localhost', { all }, resolve)
  expect(await promise).toBeInstanceOf(PrivateHostError)
})
