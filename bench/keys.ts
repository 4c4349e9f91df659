/** What kept keys cost: bytes of Redis and of this process an account, µs a look at the memory. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createKeyCache } from '../ingester/key-cache.ts'
import { environment } from '../shared/config.ts'
import { createKeyStore } from '../shared/identity-keys.ts'
import { createLog } from '../shared/log.ts'
import { connectRedis, settled } from '../shared/redis.ts'
import { findPlaces } from '../start/places.ts'
import { freePort } from '../start/process.ts'
import { startRedis } from '../start/redis.ts'
import { didOf, keyOf } from './accounts.ts'

const now = Date.now()

const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
const server = await startRedis({
  places: await findPlaces(environment),
  dir: folder,
  port: await freePort(),
  args: ['--appendonly', 'no', '--save', ''],
})
const redis = connectRedis({ redisUrl: server.url, log: createLog('bench', 'silent') })
try {
  await settled(redis, new AbortController().signal)
  const store = createKeyStore(redis)
  const used = async () => Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1])
  const empty = await used()
  for (let number = 0; number < 2_000_000; ) {
    const entries = Array.from({ length: 1_000 }, () => {
      number += 1
      return { did: didOf(number), key: keyOf(number), at: now }
    })
    await store.put(entries)
    if ([200_000, 500_000, 1_000_000, 2_000_000].includes(number)) {
      const each = ((await used()) - empty) / number
      console.log(`redis, ${number} accounts: ${each.toFixed(1)} bytes an account`)
    }
  }
} finally {
  redis.disconnect()
  await server.stop()
  await rm(folder, { recursive: true, force: true })
}

const before = process.memoryUsage().rss
const cache = createKeyCache(1_000_000)
const atRest = process.memoryUsage().rss
for (let number = 0; number < 1_000_000; number += 1) cache.set(didOf(number), keyOf(number), now)
globalThis.gc?.()
const full = process.memoryUsage().rss
let held = 0
const dids = Array.from({ length: 200_000 }, (_, number) => didOf(number * 5))
const began = process.cpuUsage()
for (const did of dids) held += cache.get(did) === null ? 0 : 1
const { user, system } = process.cpuUsage(began)
const mb = (bytes: number) => (bytes / 1e6).toFixed(0)
console.log(`process: ${mb(atRest - before)} MB empty, ${mb(full - before)} MB with 1,000,000 set`)
console.log(`${((held / dids.length) * 100).toFixed(1)} % of them held`)
console.log(`${((user + system) / dids.length).toFixed(2)} µs a look`)
