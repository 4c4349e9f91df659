/** `sluice identities warm`, on a simulated directory. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import { createKeyStore } from '../shared/identity-keys.ts'
import { packKey } from '../shared/repo/signature.ts'
import { startNetwork } from '../simulator/network.ts'
import { testRedis } from '../test/servers/redis.ts'
import { sluice } from './testing.ts'

test('every account of the log has its newest key, and the next run reads only what is new', async () => {
  await using network = await startNetwork()
  await using server = await testRedis()
  const accounts = [await network.account(), await network.account(), await network.account()]
  network.plc.allow(1)
  const env = { REDIS_URL: server.url, PLC_URL: network.plc.url }
  const first = await sluice(['identities', 'warm', '--json'], env)
  expect(first.code).toBe(0)
  const store = createKeyStore(server.redis)
  const keyOf = async (did: string) => (await store.get(did))?.key
  for (const { did, signingKey } of accounts) expect(await keyOf(did)).toBe(packKey(signingKey))
  expect(JSON.parse(first.out)).toMatchObject({ unreadable: 0 })
  const [changed] = accounts
  if (changed === undefined) throw new Error('no account')
  await network.changeIdentity(changed.did, { curve: 'p256' })
  const second = await sluice(['identities', 'warm', '--json'], env)
  expect(JSON.parse(second.out).operations).toBeLessThan(JSON.parse(first.out).operations)
  expect(await keyOf(changed.did)).toBe(packKey(changed.signingKey))
})

/** A directory that sends what it likes. */
async function aLog(page: (after: string | null) => string) {
  const asked: (string | null)[] = []
  const server = createServer((request, response) => {
    const after = new URL(request.url ?? '/', 'http://log').searchParams.get('after')
    asked.push(after)
    response.end(page(after))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    asked,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

test('lines that are no operation are counted and cost no other its place', async () => {
  const key = 'did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF'
  const did = 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'
  const gone = 'did:plc:44ybard66vv44zksje25o7dz'
  const at = { createdAt: '2023-01-01T00:00:00.000Z' }
  const operation = { type: 'plc_operation', verificationMethods: { atproto: key } }
  const lines = [
    { did, operation, ...at },
    { did, operation: { type: 'create', signingKey: key }, nullified: true, ...at },
    { did: gone, operation, ...at },
    { did: gone, operation: { type: 'plc_tombstone' }, ...at },
    { did: 'nobody', operation, ...at },
    { did, operation, createdAt: 'yesterday' },
  ].map((line) => JSON.stringify(line))
  await using log = await aLog(() => [...lines, '<html>', 'null', '7'].join('\n'))
  await using server = await testRedis()
  const env = { REDIS_URL: server.url, PLC_URL: log.url }
  const { code, out } = await sluice(['identities', 'warm', '--json'], env)
  expect([code, JSON.parse(out)]).toMatchObject([0, { operations: 3, unreadable: 5 }])
  const store = createKeyStore(server.redis)
  expect(await store.get(did)).toMatchObject({ key: packKey(key) })
  expect(await store.get(gone)).toBeNull()
})

test('a log that goes in circles ends with exit code 1', async () => {
  const line = JSON.stringify({
    did: 'did:plc:ewvi7nxzyoun6zhxrhs64oiz',
    createdAt: '2023-01-01T00:00:00Z',
  })
  await using log = await aLog(() => Array(1_000).fill(line).join('\n'))
  await using server = await testRedis()
  const { code } = await sluice(['identities', 'warm'], { REDIS_URL: server.url, PLC_URL: log.url })
  expect(code).toBe(1)
  expect(log.asked.length).toBeLessThan(5)
})
