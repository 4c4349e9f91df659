/** `sluice doctor --takeover`, `--drain`, `--forget-group`, where older workers were. */
import { readFile } from 'node:fs/promises'
import type { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { migrate } from '../migrations/migrate.ts'
import { encodeEvent } from '../shared/events.ts'
import { ledgerBalance } from '../shared/streams/ledger.ts'
import { eventually, type Pipeline, startPipeline } from '../test/pipeline.ts'
import { type TestDatabase, testDatabase } from '../test/servers/postgres.ts'
import { type TestRedis, testRedis } from '../test/servers/redis.ts'
import { sluice } from './testing.ts'

interface Finding {
  level: string
  about: string
  what: string
  todo: string
}

const [live, group] = ['firehose_live', 'firehose_group']
const did = `did:plc:${'a'.repeat(24)}`
const account = (seq: number) =>
  encodeEvent({
    type: 'account',
    seq,
    time: '2026-01-01T00:00:00.000Z',
    did,
    active: true,
    status: null,
  })

/** The AppView's tables alone; of R's databases with its column. */
async function oldDatabase(more = ''): Promise<TestDatabase> {
  const made = await testDatabase({ migrated: false })
  const appview = await readFile(new URL('../migrations/0001_appview.sql', import.meta.url), 'utf8')
  await made.sql.unsafe(`create schema bsky; ${appview}; ${more}`)
  return made
}

let server: TestRedis
let redis: Redis
beforeEach(async () => {
  server = await testRedis()
  redis = server.redis
  return () => server[Symbol.asyncDispose]()
})

async function look(database: TestDatabase, env: Record<string, string> = {}) {
  const all = { REDIS_URL: server.url, DATABASE_URL: database.url, ...env }
  const { code, out, err } = await sluice(['doctor', '--takeover', '--json'], all)
  if (out === '') throw new Error(err)
  return { code, findings: JSON.parse(out) as Finding[] }
}

async function add(stream: string, count: number): Promise<void> {
  for (let seq = 1; seq <= count; seq += 1) await redis.xadd(stream, '*', ...account(seq))
}

/** As an older worker has it: read, and not acknowledged. */
async function readAs(name: string, count: number, stream = live, of = group): Promise<string[]> {
  await redis.xgroup('CREATE', stream, of, '0', 'MKSTREAM').catch(() => {})
  const reply = await redis.xreadgroup('GROUP', of, name, 'COUNT', count, 'STREAMS', stream, '>')
  return (reply?.[0]?.[1] ?? []).map(([id]) => id)
}

describe('before ours take over', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await oldDatabase('alter table bsky.record add column rev varchar')
  })
  afterAll(() => database[Symbol.asyncDispose]())

  test('an installation of older workers is told as it is, and nothing stands against it', async () => {
    await add(live, 5)
    await readAs('rust-indexer1', 2)
    await redis.set(`${live}:cursor:wss://relay.test`, '77')
    const { code, findings } = await look(database)
    expect(findings.filter(({ level }) => level === 'danger')).toEqual([])
    expect(code).toBe(0)
    const told = findings.map(({ about, what }) => `${about}: ${what}`)
    expect(told).toContain(`${live}: group ${group}: pending 2, lag 3`)
    expect(told).toContain(`${live}: others read as ${group} within the last minute: rust-indexer1`)
    expect(told).toContain(`${live}:cursor:relay.test: wss://relay.test = 77`)
    expect(told).toContain('postgres: record.rev is there: the Rust workers have written')
    expect(findings).toContainEqual(expect.objectContaining({ todo: 'sluice migrate --adopt' }))
  })

  test('what the trim of the Rust workers has erased under pending entries is counted', async () => {
    await add(live, 4)
    const [, , third = ''] = await readAs('rust-indexer1', 4)
    await redis.xtrim(live, 'MINID', third)
    const { findings } = await look(database)
    expect(findings).toContainEqual(
      expect.objectContaining({ about: live, what: '2 entries were erased before they were done' }),
    )
  })

  test('cursors under several spellings are shown, and the highest is named', async () => {
    await redis.mset(`${live}:cursor:relay.test`, '99', `${live}:cursor:https://relay.test/`, '100')
    const { findings } = await look(database)
    expect(findings).toContainEqual({
      level: 'mind',
      about: `${live}:cursor:relay.test`,
      what: 'https://relay.test/ = 100, relay.test = 99',
      todo: 'ours resume after 100, the highest, and write all of them',
    })
  })

  test.each([
    [
      'a group that holds trimming',
      'group prod_stream is not named',
      async () => void (await readAs('x', 1, live, 'prod_stream')),
    ],
    [
      'a position that is none',
      'holds op',
      async () => void (await redis.set(`${live}:cursor:relay.test`, 'op')),
    ],
    [
      'a key of ours that is something else',
      'is a list, and ours a hash',
      async () => void (await redis.rpush('ingester:chain', 'x')),
    ],
    [
      'a stream that is none',
      'is a string, not a stream',
      async () => void (await redis.set('repo_backfill', 'x')),
    ],
    [
      'a group of labels that ours would not continue',
      'group firehose_group is not named',
      async () => void (await readAs('rust-indexer1', 1, 'label_live')),
    ],
  ])('%s is a danger: exit code 1, and what to do', async (_, what, spoil) => {
    await add(live, 1)
    await add('label_live', 1)
    await spoil()
    const { code, findings } = await look(database)
    expect(code).toBe(1)
    const dangers = findings.filter(({ level }) => level === 'danger')
    expect(dangers).toHaveLength(1)
    expect(dangers[0]?.what).toContain(what)
    expect(dangers[0]?.todo).not.toBe('')
  })

  test('a consumer name of ours that somebody has is a danger', async () => {
    await add(live, 1)
    await readAs('indexer1', 1)
    const { code, findings } = await look(database, { INDEXER_CONSUMER: 'indexer1' })
    expect(code).toBe(1)
    expect(findings[0]).toMatchObject({ level: 'danger', what: 'the name indexer1 is in use' })
  })

  test('a trigger that a fork has on tables of ours is told', async () => {
    await using fork = await oldDatabase(`
      create function heard() returns trigger language plpgsql as $$ begin return new; end $$;
      create trigger notification_heard before insert on bsky.notification
        for each row execute function heard()`)
    expect((await look(fork)).findings).toContainEqual(
      expect.objectContaining({
        level: 'mind',
        what: 'the trigger notification_heard of notification runs for what ours write',
      }),
    )
  })

  test('a schema that ours can not write is a danger, column by column', async () => {
    await using broken = await oldDatabase('alter table bsky.post drop column "hasPostGate"')
    const { code, findings } = await look(broken)
    expect(code).toBe(1)
    expect(findings[0]?.what).toBe('column post.hasPostGate is missing')
  })
})

test('a group that does not count is forgotten when nobody reads it; one that counts is not', async () => {
  await add(live, 3)
  await readAs('indexer1', 1)
  await readAs('x', 2, live, 'prod_stream')
  const forget = (...args: string[]) =>
    sluice(['doctor', '--forget-group', ...args], { REDIS_URL: server.url })
  expect(await forget(group)).toMatchObject({ code: 2 })
  expect(await forget('prod_stream')).toMatchObject({
    code: 2,
    err: expect.stringContaining('by x'),
  })
  await redis.xgroup('DELCONSUMER', live, 'prod_stream', 'x')
  expect(await forget('prod_stream', '--json')).toMatchObject({
    code: 0,
    out: `${JSON.stringify([{ stream: live, group: 'prod_stream', pending: 0, lag: 1 }])}\n`,
  })
  expect(await forget('prod_stream')).toMatchObject({ code: 2 })
  await redis.xgroup('DELCONSUMER', live, group, 'indexer1')
  expect(await forget(group)).toMatchObject({ code: 2 })
  const groups = (await redis.xinfo('GROUPS', live)) as unknown[][]
  expect(groups.map((flat) => flat[1])).toEqual([group])
})

describe('after older workers ran again', () => {
  const time = '2026-01-02T03:04:05.678Z'
  const uri = (rkey: string) => `at://${did}/app.bsky.feed.post/${rkey}`

  test('revs that no longer belong to their records are forgotten, and no others', async () => {
    await using database = await oldDatabase()
    await migrate({ databaseUrl: database.url, schema: 'bsky', adopt: true })
    const { sql } = database
    const left = Date.parse(time)
    const record = (by: string, rkey: string, indexedAt: string) =>
      sql`insert into record (uri, cid, did, json, "indexedAt", rev)
        values (${uri(rkey)}, 'c', ${by}, '{}', ${indexedAt}, 'r5')`
    const untouched = `did:plc:${'b'.repeat(24)}`
    await record(did, 'before', new Date(left - 7_200_000).toISOString())
    await record(did, 'since', new Date(left + 1_000).toISOString())
    await record(untouched, 'ours', new Date(left + 1_000).toISOString())
    await sql`insert into repo_sync (did, rev) values (${did}, 'r5'), (${untouched}, 'r5')`
    await sql`insert into actor_sync (did, "commitCid", "repoRev")
      values (${did}, 'c', 'r7'), (${untouched}, 'c', 'r5')`
    await sql`insert into position (host, stream, "group", seq, "entryId", "updatedAt")
      values ('relay.test', ${live}, ${group}, 5, ${`${left}-0`}, ${time})`
    await add(live, 1)
    const { findings } = await look(database)
    expect(findings).toContainEqual(
      expect.objectContaining({ level: 'done', what: expect.stringContaining('in 1 records') }),
    )
    const revs = await sql`select uri, rev from record order by uri`
    expect(Object.fromEntries(revs.map((row) => [row['uri'], row['rev']]))).toEqual({
      [uri('before')]: 'r5',
      [uri('since')]: null,
      [uri('ours')]: 'r5',
    })
    expect((await look(database)).findings).toContainEqual(
      expect.objectContaining({ what: expect.stringContaining('in 0 records') }),
    )
  })

  test('what others acknowledged is counted as theirs, and the ledger balances again', async () => {
    await using database = await oldDatabase()
    await redis.hset(`${live}:ledger:${group}`, 'base', 0, 'applied', 2)
    await add(live, 5)
    await redis.xack(live, group, ...(await readAs('one', 5)))
    await redis.xgroup('DELCONSUMER', live, group, 'one')
    expect(await ledgerBalance(redis, live, group)).toMatchObject({ off: 3, balanced: false })
    await look(database)
    expect(await ledgerBalance(redis, live, group)).toMatchObject({ others: 3, balanced: true })
  })
})

describe('draining', () => {
  let pipeline: Pipeline
  beforeAll(async () => {
    pipeline = await startPipeline()
  })
  afterAll(() => pipeline[Symbol.asyncDispose]())

  test('everything that is pending is done, nothing new is read, and a later indexer reads on', async () => {
    const { redis, redisUrl } = pipeline
    await redis.xadd(live, '*', ...account(1))
    const indexer = await pipeline.start('indexer', { ENABLE_DID_RESOLUTION: 'false' })
    await indexer.ready()
    await pipeline.drained(live, group)
    const env = { REDIS_URL: redisUrl }
    expect(await sluice(['doctor', '--drain', '--json'], env)).toMatchObject({ code: 0 })
    await redis.xadd(live, '*', ...account(2))
    await redis.xadd('firehose_backfill', '*', ...account(-1))
    expect(await indexer.stop()).toBe(0)
    expect(await pipeline.pending(live, group)).toBe(0)
    expect(await pipeline.left(live, group)).toBe(1)
    const later = await pipeline.start('indexer', { ENABLE_DID_RESOLUTION: 'false' })
    await later.ready()
    await pipeline.drained(live, group)
    await eventually(() => pipeline.left('firehose_backfill', group), 0)
    expect(await later.stop()).toBe(0)
  })

  test('what nobody of ours would ever do is not waited for', async () => {
    await add(live, 1)
    await readAs('rust-indexer1', 1)
    const { code, err } = await sluice(['doctor', '--drain'], { REDIS_URL: server.url })
    expect(code).toBe(2)
    expect(err).toContain('start one first')
  })
})

test('one task at a time', async () => {
  expect(await sluice(['doctor', '--takeover', '--drain'], {})).toMatchObject({ code: 2 })
  expect(await sluice(['doctor', '--stream', live], {})).toMatchObject({ code: 2 })
})
