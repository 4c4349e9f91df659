import { hash } from 'node:crypto'
import { expect, test } from 'vitest'
import { testRedis } from '../test/servers/redis.ts'
import { createKeyStore, nameOf } from './identity-keys.ts'
import { packKey } from './repo/signature.ts'

const k256 = packKey('did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF')
const p256 = packKey('did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo')
const hourMs = 3_600_000
const now = 480_000 * hourMs
const base32 = 'abcdefghijklmnopqrstuvwxyz234567'

/** An account; those with a `bucket` stand in the same one. */
function aDid(number: number, bucket = ''): string {
  const bytes = hash('sha256', String(number), 'buffer')
  const name = Array.from({ length: 24 }, (_, index) => base32[(bytes[index] ?? 0) & 31])
  return `did:plc:${bucket}${name.join('').slice(bucket.length)}`
}

async function aStore() {
  const { redis, [Symbol.asyncDispose]: dispose } = await testRedis()
  return { redis, store: createKeyStore(redis, () => now), [Symbol.asyncDispose]: dispose }
}

test('a key of either curve comes back with the hour it was seen', async () => {
  await using room = await aStore()
  const web = 'did:web:example.com'
  await room.store.put([
    { did: aDid(1), key: k256, at: now - 30 * hourMs },
    { did: web, key: p256, at: now },
  ])
  expect(await room.store.get(aDid(1))).toEqual({ key: k256, at: now - 30 * hourMs })
  expect(await room.store.get(web)).toEqual({ key: p256, at: now })
  expect(await room.store.get(aDid(2))).toBeNull()
  await room.store.remove([aDid(1), web])
  expect(await room.store.get(aDid(1))).toBeNull()
})

test('what was seen later stays when an older sight of it comes, if so asked', async () => {
  await using room = await aStore()
  const did = aDid(1)
  await room.store.put([{ did, key: k256, at: now }])
  await room.store.put([{ did, key: p256, at: now - hourMs }], 'newer')
  expect(await room.store.get(did)).toEqual({ key: k256, at: now })
  await room.store.put([{ did, key: p256, at: now + hourMs }], 'newer')
  expect(await room.store.get(did)).toMatchObject({ key: p256 })
})

test('a bucket holds a bounded number of accounts, and stays compact', async () => {
  await using room = await aStore()
  const crowd = Array.from({ length: 1_000 }, (_, number) => aDid(number, 'aaaa'))
  await room.store.put(crowd.map((did) => ({ did, key: k256, at: now })))
  const [bucket = '', ...others] = await room.redis.keys('ingester:keys:*')
  expect(others).toEqual([])
  expect(await room.redis.hlen(bucket)).toBe(128)
  expect(await room.redis.object('ENCODING', bucket)).toMatch(/^(listpack|ziplist)$/)
})

test('names are the first bytes behind a did:plc, and differ', () => {
  expect(nameOf('did:plc:aaaaaaaaaaaaaaaaaaaaaaaa').toString('hex')).toBe('00'.repeat(10))
  expect(nameOf('did:plc:77777777777777777777aaaa').toString('hex')).toBe('ff'.repeat(10))
  const names = Array.from({ length: 1_000 }, (_, number) => nameOf(aDid(number)).toString('hex'))
  expect(new Set(names).size).toBe(1_000)
})

test('a Redis that is away holds no keys', async () => {
  const room = await aStore()
  await using _ = room
  room.redis.disconnect()
  expect(await room.store.get(aDid(1))).toBeNull()
})
