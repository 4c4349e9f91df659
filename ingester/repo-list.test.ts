import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Registry } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { sluice } from '../cli/testing.ts'
import { decodeRequest } from '../shared/events.ts'
import { createLog } from '../shared/log.ts'
import { connectRedis } from '../shared/redis.ts'
import { streamMetrics } from '../shared/streams/metrics.ts'
import { cursorKeys } from '../shared/streams/names.ts'
import { createProducer } from '../shared/streams/producer.ts'
import { relistAsked } from '../shared/streams/relist.ts'
import { startNetwork } from '../simulator/network.ts'
import { testRedis } from '../test/servers/redis.ts'
import { createDeadLetters } from './dead-letter.ts'
import { parseHost } from './host.ts'
import { createMetrics } from './metrics.ts'
import { listRepos } from './repo-list.ts'
import { PageError, parsePage } from './repo-page.ts'
import { patience, startIngester, testRoom } from './testing.ts'

const did = (index: number) =>
  `did:plc:${String(index)
    .padStart(24, 'a')
    .replaceAll(/[0189]/g, 'b')}`
const aRepo = (index: number) => ({
  did: did(index),
  head: 'x',
  rev: '3llpyftdf4h2r',
  active: true,
})

type Answer = (query: { cursor: number; limit: number }, response: ServerResponse) => unknown

/** A host whose list is what `answer` returns; it may also answer by itself. */
async function aHost(answer: Answer) {
  const asked: { cursor: number; limit: number }[] = []
  const server = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? '/', 'http://host')
    const cursor = Number(searchParams.get('cursor') ?? 0)
    const query = { cursor, limit: Number(searchParams.get('limit')) }
    asked.push(query)
    const body = answer(query, response)
    if (body !== undefined) response.end(typeof body === 'string' ? body : JSON.stringify(body))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    asked,
    host: parseHost(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

/** Repos in pages of at most ten. */
function pageOf(repos: readonly unknown[], { cursor, limit }: { cursor: number; limit: number }) {
  const end = Math.min(cursor + Math.min(limit, 10), repos.length)
  return { repos: repos.slice(cursor, end), ...(end < repos.length && { cursor: String(end) }) }
}

/** Reads a host's list into a Redis of its own. */
async function reading(answer: Answer) {
  const resources = new AsyncDisposableStack()
  const { host, asked } = resources.use(await aHost(answer))
  const { redis, url } = resources.use(await testRedis())
  const log = createLog('ingester', 'silent')
  const stopping = new AbortController()
  const own = resources.use(connectRedis({ redisUrl: url, log }))
  const registry = new Registry()
  const common = { redis: own, stream: 'repo_backfill', signal: stopping.signal, log }
  const start = async () => {
    const producer = await createProducer({
      ...common,
      cursor: { ...cursorKeys('repo_backfill', host.raw), kind: 'opaque' },
      highWater: { length: 100_000, memoryRatio: 0.8, memoryLimitBytes: 1e9 },
      groups: ['repo_backfill_group'],
      metrics: streamMetrics(new Registry(), 'ingester'),
    })
    return listRepos({
      ...common,
      host,
      producer,
      deadLetters: createDeadLetters({ ...common, maxLength: 1_000 }),
      metrics,
      health: { ready: () => {}, notReady: (reason) => void problems.push(reason) },
      waits: { initialMs: 1, maxMs: 5, stuckMs: 5 },
    })
  }
  const metrics = createMetrics(registry)
  const problems: string[] = []
  return {
    asked,
    redis,
    metrics,
    start,
    problems,
    stop: () => stopping.abort(),
    cursor: () => redis.get(`repo_backfill:cursor:${host.name}`),
    dids: async () =>
      (await redis.xrange('repo_backfill', '-', '+')).map(([, list]) => decodeRequest(list).did),
    async [Symbol.asyncDispose]() {
      stopping.abort()
      await resources.disposeAsync()
    },
  }
}

const repos = Array.from({ length: 45 }, (_, index) => aRepo(index))
const dids = repos.map((repo) => repo.did)

describe('the list of repos', () => {
  test('of the simulated relay ends with the mark, and is not read twice', async () => {
    await using room = await testRoom(await startNetwork())
    const { network, redis } = room
    const made = []
    for (let index = 0; index < 3; index++) made.push(await network.account({ quiet: true }))
    const env = { ...room.env, INGESTER_MODE: 'backfill' }
    const cursor = () => redis.get(`repo_backfill:cursor:${network.relay.host}`)
    for (let run = 0; run < 2; run++) {
      await using ingester = startIngester(env)
      await expect.poll(cursor, patience).toBe('!ingester-done')
      const complete = () => ingester.metric('ingester_backfill_complete')
      await expect.poll(complete, patience).toBe(1)
    }
    const requests = (await redis.xrange('repo_backfill', '-', '+')).map(([, list]) => list)
    expect(requests.map((list) => JSON.parse(list[1] ?? ''))).toMatchObject(
      made.map((account) => ({
        did: account.did,
        host: network.relay.url,
        status: null,
        active: true,
      })),
    )
  })

  test('is read again when an operator asks for it, while the ingester runs', async () => {
    await using room = await testRoom(await startNetwork())
    const { network, redis } = room
    await network.account({ quiet: true })
    await using _ = startIngester({ ...room.env, INGESTER_MODE: 'backfill' })
    const cursor = () => redis.get(`repo_backfill:cursor:${network.relay.host}`)
    await expect.poll(cursor, patience).toBe('!ingester-done')
    await network.account({ quiet: true })
    const env = { REDIS_URL: room.env['REDIS_URL'] ?? '', INGESTER_RELAY_HOSTS: network.relay.url }
    expect(await sluice(['backfill', '--relist'], env)).toMatchObject({ code: 0 })
    await expect.poll(() => redis.xlen('repo_backfill'), patience).toBe(3)
    await expect.poll(cursor, patience).toBe('!ingester-done')
    expect(await relistAsked(redis, network.relay.host)).toBe(false)
  })

  test('is read page by page to its end', async () => {
    await using room = await reading((query) => pageOf(repos, query))
    expect(await room.start()).toBe('done')
    expect(await room.dids()).toEqual(dids)
    expect(await room.cursor()).toBe('!ingester-done')
  })

  test('goes on where it was stopped', async () => {
    let stop = () => {}
    await using room = await reading((query) => {
      if (query.cursor === 20) stop()
      return pageOf(repos, query)
    })
    stop = room.stop
    expect(await room.start()).toBe('stopped')
    const stored = Number(await room.cursor())
    expect(await room.dids()).toEqual(dids.slice(0, stored))
  })

  test('lists inactive repos too, with their status', async () => {
    const gone = { ...aRepo(1), active: false, status: 'Deactivated' }
    await using room = await reading(() => ({ repos: [gone] }))
    await room.start()
    const [entry] = await room.redis.xrange('repo_backfill', '-', '+')
    expect(decodeRequest(entry?.[1] ?? [])).toMatchObject({ active: false, status: 'deactivated' })
  })

  test('an entry that is no repo is set aside, and costs its page no other', async () => {
    const bad = { did: 'bob' }
    const withBad = repos.toSpliced(13, 0, bad as never)
    await using room = await reading((query) => pageOf(withBad, query))
    expect(await room.start()).toBe('done')
    expect(await room.dids()).toEqual(dids)
    const dead = await room.redis.xrange('repo_backfill_dlq', '-', '+')
    expect(dead.map(([, list]) => list.slice(0, 4))).toEqual([
      ['repo', JSON.stringify(bad), 'reason', 'list'],
    ])
    expect((await room.metrics.cursorSkips.get()).values[0]?.value).toBe(1)
  })

  test('a page that can not be used is halved until the repo at fault stands alone, which is skipped', async () => {
    const broken = 27
    await using room = await reading((query) => {
      const page = pageOf(repos, query)
      const end = query.cursor + page.repos.length
      const text = JSON.stringify(page)
      return query.cursor <= broken && broken < end ? text.replace('"did"', 'did') : text
    })
    expect(await room.start()).toBe('done')
    expect(await room.dids()).toEqual(dids.toSpliced(broken, 1))
    expect(await room.redis.xlen('repo_backfill_dlq')).toBe(1)
    const alone = room.asked.filter(({ cursor }) => cursor === broken)
    expect(alone.at(-1)?.limit).toBe(1)
  })

  test('a host that fails at one place for ever is never passed by guessing', async () => {
    await using room = await reading((query, response) => {
      if (query.cursor + Math.min(query.limit, 10) <= 25) return pageOf(repos, query)
      response.statusCode = 500
      return 'broken'
    })
    const ended = room.start()
    await expect.poll(() => room.problems.length, patience).toBeGreaterThan(2)
    expect(await room.dids()).toEqual(dids.slice(0, 25))
    expect(await room.cursor()).toBe('25')
    room.stop()
    expect(await ended).toBe('stopped')
  })

  test('a cursor that goes in circles is told, and the list is not done', async () => {
    await using room = await reading(({ cursor }) => ({
      repos: [aRepo(cursor)],
      cursor: String((cursor + 1) % 3),
    }))
    const ended = room.start()
    await expect.poll(() => room.problems.join(), patience).toContain('circles')
    room.stop()
    expect(await ended).toBe('stopped')
    expect((await room.dids()).length).toBeLessThan(4)
  })

  test('a host that asks for a pause is asked again after it', async () => {
    let refused = 0
    await using room = await reading((query, response) => {
      if (query.cursor === 10 && refused < 3) {
        refused += 1
        response.statusCode = 429
        response.setHeader('retry-after', '0')
        return 'slow down'
      }
      return pageOf(repos, query)
    })
    expect(await room.start()).toBe('done')
    expect(await room.dids()).toEqual(dids)
  })
})

describe('pages', () => {
  test('what a host sends can not be taken for our mark', () => {
    const page = JSON.stringify({ repos: [], cursor: '!ingester-done' })
    expect(() => parsePage(page, 'http://host')).toThrow(PageError)
  })

  test('a page that is not JSON still tells its cursor where it stands at one place', () => {
    const read = (text: string) => {
      try {
        parsePage(text, 'http://host')
        return undefined
      } catch (error) {
        return error instanceof PageError ? error.cursor : undefined
      }
    }
    expect(read('{"repos":[{did}],"cursor":"a\\"b"}')).toBe('a"b')
    expect(read('{"repos":[{did,"cursor":"x"}],"cursor":"y"}')).toBe(null)
    expect(read('<html>')).toBe(null)
  })
})
