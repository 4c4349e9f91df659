import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { type Account, IdentityError } from '../shared/identity.ts'
import { testRedis } from '../test/servers/redis.ts'
import { createKeys } from './keys.ts'
import { createMetrics } from './metrics.ts'

const hourMs = 3_600_000
const signingKey = 'did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF'
const alice = 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'

async function aRoom(answer: (did: string) => Promise<string | null>) {
  const { redis, [Symbol.asyncDispose]: dispose } = await testRedis()
  const asked: string[] = []
  let now = Date.now()
  const resolve = async (did: string): Promise<Account> => {
    asked.push(did)
    return { did, handle: null, pds: null, signingKey: await answer(did) }
  }
  const stop = new AbortController()
  const metrics = createMetrics(new Registry())
  const keys = createKeys({
    ...{ redis, identity: { resolve }, cached: 100, signal: stop.signal, metrics },
    now: () => now,
  })
  return {
    keys,
    asked,
    soon: () => now + 50,
    pass: (ms: number) => {
      now += ms
    },
    async [Symbol.asyncDispose]() {
      stop.abort()
      await dispose()
    },
  }
}

test('hosts of a did:web that never answer make nobody wait longer than he may', async () => {
  await using room = await aRoom(() => new Promise(() => {}))
  const dids = Array.from({ length: 200 }, (_, number) => `did:web:slow${number}.example.com`)
  const found = await Promise.all(dids.map((did) => room.keys.find(did, room.soon())))
  expect(new Set(found)).toEqual(new Set(['unavailable']))
  const again = await room.keys.find('did:web:slow0.example.com', room.soon())
  expect([again, room.asked.length]).toEqual(['unavailable', 16])
})

test('a key is believed for a day, then looked at again beside the stream, and for a month at most', async () => {
  await using room = await aRoom(async () => signingKey)
  const { keys, asked } = room
  await keys.find(alice, room.soon())
  room.pass(20 * hourMs)
  expect(keys.at(alice)).not.toBeNull()
  expect(asked).toHaveLength(1)
  room.pass(5 * hourMs)
  expect(keys.at(alice)).not.toBeNull()
  await expect.poll(() => asked).toHaveLength(2)
  room.pass(31 * 24 * hourMs)
  expect(keys.at(alice)).toBeNull()
  await keys.find(alice, room.soon())
  expect(asked).toHaveLength(3)
})

test('an account that is gone when its key is looked at again has none any more', async () => {
  let gone = false
  await using room = await aRoom(async () => {
    if (gone) throw new IdentityError('tombstone', 'gone')
    return signingKey
  })
  const { keys } = room
  await keys.find(alice, room.soon())
  gone = true
  room.pass(25 * hourMs)
  keys.at(alice)
  await expect.poll(() => keys.at(alice)).toBeNull()
  expect(await keys.find(alice, room.soon())).toBe('none')
})

test('an answer that was under way when the account changed is not kept', async () => {
  const answer = Promise.withResolvers<string>()
  await using room = await aRoom(() => answer.promise)
  const { keys } = room
  const finding = keys.find(alice, room.soon() + 60_000)
  await expect.poll(() => room.asked).toHaveLength(1)
  keys.forget(alice)
  answer.resolve(signingKey)
  expect(await finding).toMatchObject({ key: expect.any(String) })
  expect(keys.at(alice)).toBeNull()
})

test('forged commits cost an account one look in ten seconds, and all accounts a bounded number', async () => {
  await using room = await aRoom(async () => signingKey)
  const { keys } = room
  expect(await keys.refresh(alice, room.soon())).toMatchObject({ key: expect.any(String) })
  expect(await keys.refresh(alice, room.soon())).toBe('recent')
  room.pass(10_000)
  expect(await keys.refresh(alice, room.soon())).not.toBe('recent')
  const dids = Array.from({ length: 1_000 }, (_, number) => {
    return `did:plc:${String(number)
      .padStart(24, 'a')
      .replaceAll(/[0189]/g, 'b')}${number}`
  })
  await Promise.all(dids.map((did) => keys.refresh(did, room.soon())))
  expect(room.asked.length).toBeLessThanOrEqual(202)
})
