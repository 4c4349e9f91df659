/** A database that the older Rust workers have filled: examined, healed, and used as if it were ours. */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { migrate } from '../../migrations/migrate.ts'
import { connectPostgres } from '../../shared/postgres.ts'
import { type TestDatabase, testDatabase } from '../../test/servers/postgres.ts'
import type { ApplyOptions, Point } from '../apply.ts'
import { aLike, aPost, did, miscounts, refTo, testIndexer, uri } from '../testing.ts'
import { type DoctorOptions, examine, type Finding } from './doctor.ts'

const main = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))
const never = new AbortController().signal
const alice = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const bob = 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb'
const post = `at://${alice}/app.bsky.feed.post/3kzaaaaaaaa22`

let indexer: Awaited<ReturnType<typeof testIndexer>>
let database: TestDatabase
let sql: ReturnType<typeof connectPostgres>

beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
beforeEach(async () => {
  database = await rustDatabase()
  sql = connectPostgres({ databaseUrl: database.url, poolSize: 3, log: pino({ level: 'silent' }) })
  return async () => {
    await sql[Symbol.asyncDispose]()
    await database[Symbol.asyncDispose]()
  }
})

/** Made by the AppView's tables alone, filled by the Rust workers, and adopted by us. */
async function rustDatabase(): Promise<TestDatabase> {
  const made = await testDatabase({ migrated: false })
  const text = (path: string) => readFile(new URL(path, import.meta.url), 'utf8')
  await made.sql.unsafe('create schema bsky')
  await made.sql.unsafe(await text('../../migrations/0001_appview.sql'))
  await made.sql.unsafe(await text('../../test/fixtures/databases/rust.sql'))
  await migrate({ databaseUrl: made.url, schema: 'bsky', adopt: true })
  return made
}

const options = (more: Partial<DoctorOptions> = {}): DoctorOptions => ({
  apply: { ...indexer.options, sql } as ApplyOptions,
  repair: false,
  counts: true,
  since: null,
  signal: never,
  ...more,
})
const sums = (findings: readonly Finding[]) => {
  const byKind: Record<string, number> = {}
  for (const { kind, found } of findings) byKind[kind] = (byKind[kind] ?? 0) + found
  return byKind
}
const rows = (query: string) => database.sql.unsafe(query)

const expected = {
  tombstones: 2,
  links: 1,
  revs: 0,
  blobs: 2,
  times: 11,
  actors: 1,
  notifications: 2,
  counts: 2,
}
const healthy = Object.fromEntries(Object.keys(expected).map((kind) => [kind, 0]))

test('everything is found, and nothing is changed without being asked', async () => {
  const before = await rows(`select json, "indexedAt" from record order by uri`)
  expect(sums(await examine(options()))).toEqual(expected)
  expect(await rows(`select json, "indexedAt" from record order by uri`)).toEqual(before)
  expect(sums(await examine(options()))).toEqual(expected)
})

test('everything is healed, and a second look finds nothing', async () => {
  expect(sums(await examine(options({ repair: true })))).toMatchObject({ tombstones: 2, links: 1 })
  expect(sums(await examine(options()))).toEqual(healthy)
  expect(await rows('select uri, rev from record_tombstone')).toEqual([
    { uri: `at://${bob}/app.bsky.feed.like/3kzaaaaaaad22`, rev: '3kzaaaaaaae22' },
  ])
  expect(await rows('select "thumbCid" from post_embed_external')).toEqual([
    { thumbCid: expect.stringMatching(/^bafkrei/) },
  ])
  expect(await rows('select "avatarCid", "bannerCid" from profile')).toEqual([
    { avatarCid: expect.stringMatching(/^bafkrei/), bannerCid: null },
  ])
  expect(
    await rows(
      `select json like '%"ref":{"$link":"bafkrei%' as healed from record where uri = '${post}'`,
    ),
  ).toEqual([{ healed: true }])
  expect(await rows('select "createdAt", "indexedAt", "sortAt" from post')).toEqual([
    {
      createdAt: '2025-10-30T06:56:52.000Z',
      indexedAt: '2025-10-30T06:56:52.123Z',
      sortAt: '2025-10-30T06:56:52.000Z',
    },
  ])
  expect(await rows('select did from actor order by did')).toEqual([{ did: alice }, { did: bob }])
  expect(await rows(`select key from reconcile where kind = 'handle'`)).toEqual([{ key: bob }])
  expect(await rows('select * from notification')).toHaveLength(1)
  expect(await miscounts(database.sql as never)).toEqual([])
  expect(await rows('select * from doctor_progress')).toEqual([])
})

test('a repair that was interrupted continues where it was, and its pages stay done', async () => {
  const stop = new AbortController()
  const onProgress = (walk: string, done: number) => {
    if (walk === 'records' && done === 3) stop.abort(new Error('stopped'))
  }
  const turns = { repair: true, pageSize: 1 }
  const stopped = examine(options({ ...turns, signal: stop.signal, onProgress }))
  await expect(stopped).rejects.toThrow('stopped')
  expect(await rows('select name, found from doctor_progress')).toEqual([
    { name: 'records', found: '1' },
  ])
  let records = 0
  const count = (walk: string) => {
    if (walk === 'records') records += 1
  }
  await examine(options({ ...turns, onProgress: count }))
  // Of the five records two are left, and the last look finds no more.
  expect(records).toBe(3)
  expect(sums(await examine(options()))).toEqual(healthy)
})

test('revs that workers without revs left behind are forgotten, so that what comes is newer', async () => {
  const since = '2025-10-30T06:56:52.100Z'
  await examine(options({ repair: true }))
  const found = sums(await examine(options({ repair: true, since })))
  expect(found['revs']).toBe(3)
  expect(await rows('select distinct rev from record')).toEqual([{ rev: null }])
  expect(sums(await examine(options({ since })))).toEqual(healthy)
})

test.each<Point>(['written', 'counted'])(
  'counters are set right while an indexer that counts there has %s',
  async (at) => {
    const loved = aPost({ by: did('alice'), rev: 1 })
    await indexer.applyWith({ sql })([loved])
    await rows(`insert into post_agg (uri, "likeCount") values ('${uri(loved)}', 1000)`)
    const reached = Promise.withResolvers<void>()
    const release = Promise.withResolvers<void>()
    const probe = async (point: Point) => {
      if (point !== at) return
      reached.resolve()
      await release.promise
    }
    const like = aLike({ by: bob, rev: 2, of: refTo(loved) })
    const counting = indexer.applyWith({ sql, probe })([like])
    await reached.promise
    let done = false
    const examining = examine(options({ repair: true })).finally(() => {
      done = true
    })
    await expect.poll(async () => done || (await waiting()) > 0, { interval: 2 }).toBe(true)
    release.resolve()
    await Promise.all([counting, examining])
    expect(await rows(`select "likeCount" from post_agg where uri = '${uri(loved)}'`)).toEqual([
      { likeCount: '1' },
    ])
    expect(await miscounts(database.sql as never)).toEqual([])
  },
)

async function waiting(): Promise<number> {
  const found = await rows(
    `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  return found.length
}

test('an indexer works on it at once, healed or not', async () => {
  const apply = indexer.applyWith({ sql })
  const like = aLike({
    by: did('c'),
    rev: 9,
    of: { uri: post, cid: refTo(aPost({ by: alice, rev: 1 })).cid },
  })
  expect((await apply([like])).outcomes).toEqual(['applied'])
  // A deletion that is a row is a deletion: what is older stays away, what is newer comes.
  const again = aLike({ by: bob, rev: 1, rkey: '3kzaaaaaaad22', of: { uri: post, cid: like.cid } })
  const older = { ...again, rev: '3kz2222222222' }
  const newer = { ...again, rev: '3kzb222222222' }
  expect((await apply([older])).outcomes).toEqual(['stale'])
  expect((await apply([newer])).outcomes).toEqual(['applied'])
  await examine(options({ repair: true }))
  expect(await miscounts(database.sql as never)).toEqual([])
})

test('the command tells by its exit code whether something is wrong, and heals when asked', async () => {
  await using empty = await testDatabase({ migrated: false })
  const env = { DATABASE_URL: database.url, PATH: '' }
  const sluice = (...args: string[]) =>
    new Promise<{ code: number; out: string; err: string }>((resolve) => {
      execFile(process.execPath, [main, 'doctor', ...args], { env }, (error, out, err) => {
        resolve({ code: error === null ? 0 : Number(error.code), out, err })
      })
    })
  const found = await sluice('--json', '--counts')
  expect(found.code).toBe(1)
  expect(JSON.parse(found.out)).toContainEqual(
    expect.objectContaining({ kind: 'tombstones', found: 2, repaired: 0 }),
  )
  expect((await sluice('--repair', '--counts')).code).toBe(0)
  expect(sums(await examine(options()))).toEqual(healthy)
  env.DATABASE_URL = empty.url
  const mistaken = await sluice()
  expect(mistaken.code).toBe(2)
  expect(mistaken.err).toMatch(/^sluice: .*run `sluice migrate` first\n$/)
})
