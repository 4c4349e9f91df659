/** `sluice backfill` and `sluice status`, with a backfiller at work. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { startManyHosts } from '../simulator/many-hosts.ts'
import { startRoom } from '../test/backfiller-room.ts'
import { completeRepos, type RecordedRepo } from '../test/recorded-repos.ts'
import { testDatabase } from '../test/servers/postgres.ts'
import { testRedis } from '../test/servers/redis.ts'
import { sluice } from './testing.ts'

const dids = ['did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb'] as const

async function requests({ redis }: Awaited<ReturnType<typeof testRedis>>) {
  const entries = await redis.xrange('repo_backfill', '-', '+')
  return entries.map(([, fields]) => JSON.parse(fields[1] ?? '') as { did: string; reason: string })
}

test('accounts are asked for by DID, and --resync says so', async () => {
  await using server = await testRedis()
  const env = { REDIS_URL: server.url }
  const { code, out } = await sluice(['backfill', ...dids, '--json'], env)
  expect([code, JSON.parse(out)]).toEqual([0, { requested: 2, unknown: [] }])
  await sluice(['backfill', dids[0], '--resync'], env)
  expect((await requests(server)).map(({ did, reason }) => [did, reason])).toEqual([
    [dids[0], 'manual'],
    [dids[1], 'manual'],
    [dids[0], 'resync'],
  ])
})

test.each([
  [[]],
  [['not an account']],
  [[dids[0], '--discover']],
  [['--collection', 'no']],
  [['--file', '/nowhere']],
])('%j is a mistake of the user, and nothing is asked for', async (args) => {
  await using server = await testRedis()
  expect((await sluice(['backfill', ...args], { REDIS_URL: server.url })).code).toBe(2)
  expect(await server.redis.xlen('repo_backfill')).toBe(0)
})

test('a file gives its first column, with or without a heading', async () => {
  await using server = await testRedis()
  const folder = await mkdtemp(join(tmpdir(), 'sluice-csv-'))
  try {
    const file = join(folder, 'list.csv')
    await writeFile(file, `account,note\n"${dids[0]}",a\r\n\n${dids[1]},b\n`)
    await sluice(['backfill', '--file', file], { REDIS_URL: server.url })
    expect((await requests(server)).map(({ did }) => did)).toEqual([...dids])
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('all repos of a host, of every host, and those with a collection', async () => {
  await using server = await testRedis()
  await using many = await startManyHosts({ hosts: 3, accounts: 2_500 })
  const env = {
    REDIS_URL: server.url,
    INGESTER_RELAY_HOSTS: many.url,
    ALLOW_PRIVATE_HOSTS: 'true',
  }
  const ofHost = await sluice(['backfill', '--host', many.hostUrl(1), '--json'], env)
  expect(JSON.parse(ofHost.out)).toMatchObject({ requested: 833 })
  const all = await sluice(['backfill', '--discover', '--json'], env)
  expect(JSON.parse(all.out)).toMatchObject({ hosts: 3, done: 3, repos: 2_500 })
  expect(all.err).toMatch(/3 of 3; 2500 repos, \d+\/s; left: about 0 s/)
  await using relay = await collections()
  const some = await sluice(['backfill', '--collection', 'app.bsky.feed.generator', '--json'], {
    ...env,
    INGESTER_RELAY_HOSTS: relay.url,
  })
  expect(JSON.parse(some.out)).toMatchObject({ requested: 2 })
})

test('what waits for our backfillers alone can be moved for older ones', async () => {
  await using server = await testRedis()
  await server.redis.xadd('repo_backfill_first', '*', 'repo', `{"did":"${dids[0]}"}`)
  await sluice(['backfill', '--move-first'], { REDIS_URL: server.url })
  expect((await requests(server)).map(({ did }) => did)).toEqual([dids[0]])
  expect(await server.redis.xlen('repo_backfill_first')).toBe(0)
})

test('the status of the backfill and of one repo, from the queue to Postgres', async () => {
  await using room = await startRoom()
  await using database = await testDatabase()
  const [tiny, other] = [...completeRepos].sort((a, b) => a.records - b.records) as [
    RecordedRepo,
    RecordedRepo,
  ]
  for (const repo of [tiny, other]) await room.serve(repo)
  const env = { ...room.env, DATABASE_URL: database.url }
  const status = async (...args: string[]) =>
    JSON.parse((await sluice(['status', '--json', ...args], env)).out)
  await room.ask(tiny.did)
  expect((await status()).backfill).toMatchObject({
    remaining: 1,
    done: 0,
    secondsLeft: null,
    backfillers: [],
  })
  expect(await status('--repo', tiny.did)).toMatchObject({ state: 'waiting' })

  const hanging = room.network.pds[0].fault({ did: other.did }, { kind: 'hang' })
  await room.ask(other.did)
  await room.start()
  await vi.waitFor(
    async () => expect(await status('--repo', other.did)).toMatchObject({ state: 'running' }),
    { timeout: 20_000 },
  )
  expect(hanging.fired).toBe(1)
  expect((await status()).backfill).toMatchObject({
    remaining: 1,
    done: 1,
    backfillers: [{ consumer: 'backfiller1', done: 1, running: 1, records: tiny.records }],
    hosts: [{ host: room.network.pds[0].host, running: 1, asked: 2 }],
  })
  expect(await status('--repo', tiny.did)).toMatchObject({ state: 'unknown' })
  await database.sql`insert into repo_sync (did, "snapshotRev") values (${tiny.did}, '3kaaaaaaaaaa2')`
  expect(await status('--repo', tiny.did)).toMatchObject({ state: 'done at 3kaaaaaaaaaa2' })
  await database.sql`update repo_sync set status = 'takendown'`
  expect(await status('--repo', tiny.did)).toMatchObject({ state: 'ended: takendown' })
  const { out } = await sluice(['status'], env)
  expect(out).toMatch(/^backfiller1 +1 +1 /m)
})

/** A relay that knows two repos with a collection, a page each. */
async function collections() {
  const server = createServer(({ url = '' }, response) => {
    const isSecond = url.includes('cursor=')
    const page = { repos: [{ did: dids[isSecond ? 1 : 0] }], ...(isSecond ? {} : { cursor: 'x' }) }
    response.end(JSON.stringify(page))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
