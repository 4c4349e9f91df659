import { hash } from 'node:crypto'
import { expect, test } from 'vitest'
import { packKey, parseDidKey } from '../shared/repo/signature.ts'
import { createKeyCache } from './key-cache.ts'

const k256 = 'did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF'
const p256 = 'did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo'
const hourMs = 3_600_000

/** Accounts as the directory names them. */
function aDid(number: number): string {
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567'
  const bytes = hash('sha256', String(number), 'buffer')
  const name = Array.from({ length: 24 }, (_, index) => alphabet[(bytes[index] ?? 0) & 31])
  return `did:plc:${name.join('')}`
}

test('a key comes back as it was given, of either curve, with the hour it was seen', () => {
  const cache = createKeyCache(100)
  cache.set(aDid(1), packKey(k256), 5 * hourMs + 7)
  cache.set('did:web:example.com', packKey(p256), 6 * hourMs)
  const [plc, web] = [cache.get(aDid(1)), cache.get('did:web:example.com')]
  expect([plc?.at, web?.at]).toEqual([5 * hourMs, 6 * hourMs])
  expect(parseDidKey(plc?.key ?? '').didKey).toBe(k256)
  expect(parseDidKey(web?.key ?? '').didKey).toBe(p256)
  expect(cache.get(aDid(2))).toBeNull()
})

test('what was forgotten is not there; a newer key takes the place of the older', () => {
  const cache = createKeyCache(100)
  cache.set(aDid(1), packKey(k256), hourMs)
  cache.set(aDid(1), packKey(p256), 2 * hourMs)
  expect(cache.get(aDid(1))).toEqual({ key: packKey(p256), at: 2 * hourMs })
  cache.delete(aDid(1))
  expect(cache.get(aDid(1))).toBeNull()
})

test('it tells how many keys it holds, also where some gave way', () => {
  const cache = createKeyCache(100)
  const held = () => accounts.filter((did) => cache.get(did) !== null).length
  const accounts = Array.from({ length: 300 }, (_, number) => aDid(number))
  for (const did of accounts) cache.set(did, packKey(k256), hourMs)
  for (const did of accounts.slice(0, 150)) cache.set(did, packKey(p256), hourMs)
  expect(cache.size).toBe(held())
  expect(cache.size).toBeLessThan(accounts.length)
  for (const did of accounts) cache.delete(did)
  expect(cache.size).toBe(0)
})

test('of the accounts that it has room for it holds 98 in 100', () => {
  const cache = createKeyCache(20_000)
  const key = packKey(k256)
  for (let number = 0; number < 20_000; number += 1) cache.set(aDid(number), key, hourMs)
  let held = 0
  for (let number = 0; number < 20_000; number += 1) held += cache.get(aDid(number)) ? 1 : 0
  expect(held).toBeGreaterThan(19_600)
})
