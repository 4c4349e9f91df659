/**
 * How far behind an ingester stays while nobody knows the keys of those who write: accounts made one
 * after the other, behind a directory that allows ten requests a second, then one that is down.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { startIngester } from '../ingester/testing.ts'
import { environment } from '../shared/config.ts'
import { sleep } from '../shared/retry.ts'
import { wallClock } from '../simulator/clock.ts'
import { startNetwork } from '../simulator/network.ts'
import { findPlaces } from '../start/places.ts'
import { freePort } from '../start/process.ts'
import { startRedis } from '../start/redis.ts'

const seconds = Number(process.argv[2] ?? 60)
/** Simulator and ingester share one thread: more a second would measure how they share it. */
const perSecond = Number(process.argv[3] ?? 30)

const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
const server = await startRedis({
  places: await findPlaces(environment),
  dir: folder,
  port: await freePort(),
  args: ['--maxmemory', '2gb'],
})
const network = await startNetwork({ clock: wallClock(1) })
const redis = new Redis(server.url)
const ingester = startIngester({
  ...{ REDIS_URL: server.url, PLC_URL: network.plc.url, INGESTER_RELAY_HOSTS: network.relay.url },
  ...{ INGESTER_MODE: 'firehose', INGESTER_COLLECTIONS: '*', INGESTER_HIGH_WATER_MARK: '10000000' },
})
try {
  network.plc.allow(10)
  await measure('a directory that allows ten a second', seconds)
  const down = network.plc.fault({}, { kind: 'drop' })
  await measure('a directory that is down', seconds)
  down.clear()
  network.plc.allow(null)
  const began = Date.now()
  const left = () => redis.hlen('ingester:unproved')
  // The directory that allowed ten a second is asked a tenth more often every 5 s.
  while ((await left()) > 0 && Date.now() - began < 180_000) await sleep(200)
  const proved = await ingester.metric('ingester_late_proofs_total', { result: 'proved' })
  const others = (await ingester.metric('ingester_late_proofs_total')) - proved
  console.log(
    `proved later: ${proved}, otherwise: ${others}, left: ${await left()},`,
    `${Math.round((Date.now() - began) / 1_000)} s after the directory answered again`,
  )
} finally {
  await ingester.stop()
  redis.disconnect()
  await network[Symbol.asyncDispose]()
  await server.stop()
  await rm(folder, { recursive: true, force: true })
}

/** Makes accounts for so long; tells the largest lag that was seen. */
async function measure(what: string, seconds: number): Promise<void> {
  const until = Date.now() + seconds * 1_000
  const before = { asked: network.plc.requests, ...(await counts()) }
  let made = 0
  let largest = 0
  const watching = (async () => {
    while (Date.now() < until) {
      await sleep(100)
      largest = Math.max(largest, await ingester.metric('ingester_source_lag_seconds'))
    }
  })()
  while (Date.now() < until) {
    await network.account()
    made += 1
    await sleep(1_000 / perSecond)
  }
  await watching
  const after = await counts()
  console.log(
    `${what}: ${made} new accounts in ${seconds} s, ${after.unverified - before.unverified} commits let through, ` +
      `${after.verified - before.verified} verified at once, ${network.plc.requests - before.asked} questions, ` +
      `largest lag ${largest.toFixed(2)} s`,
  )
}

async function counts() {
  return {
    verified: await ingester.metric('ingester_commits_verified_total'),
    unverified: await ingester.metric('ingester_commits_unverified_total'),
  }
}
