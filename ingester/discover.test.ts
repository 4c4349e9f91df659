/** Every repo of every host that a relay knows, from hosts that may say anything. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { expect, test, vi } from 'vitest'
import { readConfig } from '../shared/config.ts'
import { decodeRequest } from '../shared/events.ts'
import { createHealth } from '../shared/metrics.ts'
import { startManyHosts } from '../simulator/many-hosts.ts'
import { testRedis } from '../test/servers/redis.ts'
import { DidSet } from './did-set.ts'
import { type Discovery, discover } from './discover.ts'
import { parseHosts } from './host-page.ts'
import { runIngester } from './ingester.ts'
import { options } from './options.ts'

const log = pino({ level: 'silent' })
const { signal } = new AbortController()
const settings = { allowPrivateHosts: true, highWaterMark: 1e6, log, pauseMs: 0 }

async function requested(redis: Awaited<ReturnType<typeof testRedis>>['redis']) {
  const entries = await redis.xrange('repo_backfill', '-', '+')
  return entries.map(([, fields]) => decodeRequest(fields).did)
}

test('every repo of every host is requested once', async () => {
  await using many = await startManyHosts({ hosts: 40, accounts: 3_000 })
  await using server = await testRedis()
  const reports: Discovery[] = []
  const report = (progress: Discovery) => void reports.push({ ...progress })
  const to = { redis: server.redis, relay: many.url, signal }
  const found = await discover({ ...settings, ...to, report })
  expect(found).toMatchObject({ hosts: 40, done: 40, failed: 0, repos: 3_000, twice: 0 })
  expect(reports.at(0)).toMatchObject({ done: 0, secondsLeft: null })
  const middle = reports.find(({ done }) => done === 20)
  expect(middle?.repos).toBeGreaterThanOrEqual(20 * 75)
  expect(middle?.reposPerSecond).toBeGreaterThan(0)
  expect(reports.at(-1)).toMatchObject({ done: 40, repos: 3_000, secondsLeft: 0 })
  const dids = await requested(server.redis)
  expect(dids.length).toBe(3_000)
  expect(new Set(dids).size).toBe(3_000)
})

test('hosts that were read to their end are not read again, and one that was interrupted goes on', async () => {
  await using many = await startManyHosts({ hosts: 2, accounts: 6_000 })
  await using server = await testRedis()
  const { redis } = server
  const stopping = new AbortController()
  const first = discover({
    ...settings,
    redis,
    relay: many.url,
    signal: stopping.signal,
    pauseMs: 50,
  })
  await vi.waitFor(async () => expect(await redis.xlen('repo_backfill')).toBeGreaterThan(0))
  stopping.abort()
  await first.catch(() => {})
  const before = await redis.xlen('repo_backfill')
  expect(before).toBeLessThan(6_000)
  await discover({ ...settings, redis, relay: many.url, signal })
  const dids = await requested(redis)
  expect(new Set(dids).size).toBe(6_000)
  expect(dids.length).toBe(6_000)
  expect(await discover({ ...settings, redis, relay: many.url, signal })).toMatchObject({
    repos: 0,
  })
})

test('a host whose cursor goes in circles, one that is not there and a private one end as failed', async () => {
  await using server = await testRedis()
  await using circle = await serve((path) =>
    path.includes('listHosts')
      ? {
          hosts: [circle.host, '127.0.0.1:1', 'localhost', 'a b'].map((hostname) => ({ hostname })),
        }
      : { repos: [], cursor: 'again' },
  )
  const { redis } = server
  const found = await discover({ ...settings, redis, relay: circle.url, signal })
  expect(found).toMatchObject({ hosts: 3, done: 0, failed: 3, repos: 0 })
  const asked = circle.asked()
  const strict = { ...settings, allowPrivateHosts: false }
  expect(await discover({ ...strict, redis, relay: circle.url, signal })).toMatchObject({
    failed: 3,
  })
  // Only the list of hosts, which the operator has named.
  expect(circle.asked()).toBe(asked + 1)
})

test('a page without an end, a page that is none and an entry that is no repo cost only their host', async () => {
  await using server = await testRedis()
  const did = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
  await using endless = await serve(() => ({ repos: [], padding: ' '.repeat(9_000_000) }))
  await using none = await serve(() => ({ repositories: [] }))
  await using good = await serve((path) =>
    path.includes('listHosts')
      ? { hosts: [endless, none, good].map(({ host }) => ({ hostname: host })) }
      : { repos: [{ did: 'no did' }, 7, null, { did }] },
  )
  const found = await discover({ ...settings, redis: server.redis, relay: good.url, signal })
  expect(found).toMatchObject({ done: 1, failed: 2, repos: 1 })
  expect(await requested(server.redis)).toEqual([did])
})

test('what two hosts list is requested once, and what a host says is gone is not', async () => {
  await using server = await testRedis()
  const did = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
  const gone = { did: 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb', active: false, status: 'deactivated' }
  await using other = await serve(() => ({ repos: [{ did }, gone] }))
  await using relay = await serve((path) =>
    path.includes('listHosts')
      ? { hosts: [other.host, relay.host].map((hostname) => ({ hostname })) }
      : { repos: [{ did }] },
  )
  const found = await discover({ ...settings, redis: server.redis, relay: relay.url, signal })
  expect(found).toMatchObject({ done: 2, repos: 1, twice: 1, inactive: 1 })
})

test('names that are none, and banned hosts, are left out', () => {
  const hosts = ['a.test', 'A.test', '../etc', 'a.test/x', '', 'x:99999', 'user@a.test', 7, null]
  const page = {
    hosts: [
      ...hosts.map((hostname) => ({ hostname })),
      { hostname: 'b.test', status: 'banned' },
      5,
    ],
  }
  expect(parseHosts(JSON.stringify(page))).toEqual({ hosts: ['a.test', 'a.test'], cursor: null })
  expect(() => parseHosts('{}')).toThrow('without a list')
})

test('a set of DIDs knows each, and no other', () => {
  const set = new DidSet()
  for (let number = 0; number < 50_000; number += 1) expect(set.add(`did:plc:${number}`)).toBe(true)
  for (let number = 0; number < 50_000; number += 1)
    expect(set.add(`did:plc:${number}`)).toBe(false)
  expect(set.size).toBe(50_000)
})

async function serve(answer: (path: string) => object) {
  let asked = 0
  const server = createServer(({ url = '' }, response) => {
    asked += 1
    response.end(JSON.stringify(answer(url)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    ...{ host, url: `http://${host}`, asked: () => asked },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

test('an ingester in the mode backfill finds the repos of all hosts when it is told to', async () => {
  await using many = await startManyHosts({ hosts: 10, accounts: 100 })
  await using server = await testRedis()
  const stopping = new AbortController()
  const registry = new Registry()
  const ended = runIngester({
    config: readConfig(options, {
      REDIS_URL: server.url,
      INGESTER_MODE: 'backfill',
      INGESTER_DISCOVERY: 'hosts',
      INGESTER_RELAY_HOSTS: many.url,
      ALLOW_PRIVATE_HOSTS: 'true',
    }),
    log,
    signal: stopping.signal,
    registry,
    health: createHealth(),
  })
  const metric = async (name: string) =>
    (await registry.getSingleMetric(`ingester_${name}`)?.get())?.values[0]?.value
  await vi.waitFor(async () => expect(await metric('backfill_complete')).toBe(1), {
    timeout: 20_000,
  })
  stopping.abort()
  await ended
  expect(new Set(await requested(server.redis)).size).toBe(100)
  expect(await metric('discovered_repos')).toBe(100)
})
