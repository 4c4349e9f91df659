/** Dead letters of deleted accounts: real letters in Redis, the accounts that a purge left in Postgres. */
import type { LexMap } from '@atproto/lex-data'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { letterStreams } from '../shared/streams/dead-letters.ts'
import { lettersKey } from '../shared/streams/names.ts'
import { messageFrame } from '../simulator/frames.ts'
import { type TestDatabase, testDatabase } from '../test/servers/postgres.ts'
import { type TestRedis, testRedis } from '../test/servers/redis.ts'
import { readmit } from './accounts.ts'
import {
  forgetLetters,
  keepForgettingLetters,
  type LettersOptions,
  lettersKind,
} from './letters.ts'
import { did } from './testing.ts'

const [gone, bob] = [did('gone'), did('bob')]
const never = new AbortController().signal

let database: TestDatabase
let server: TestRedis
beforeAll(async () => {
  database = await testDatabase()
})
afterAll(() => database[Symbol.asyncDispose]())
beforeEach(async () => {
  await database.sql.unsafe('truncate reconcile')
  server = await testRedis()
  return () => server[Symbol.asyncDispose]()
})

const options = (more: Partial<LettersOptions> = {}): LettersOptions => {
  return { redis: server.redis, sql: database.sql, schema: database.schema, ...streams, ...more }
}
const streams = { streams: letterStreams }

const wish = (...dids: string[]) =>
  database.sql`insert into reconcile ${database.sql(dids.map((key) => ({ kind: lettersKind, key })))}`
const wishes = async () => {
  const rows = await database.sql<
    { key: string }[]
  >`select key from reconcile where kind = ${lettersKind}`
  return rows.map(({ key }) => key)
}

/** A letter of each form that a worker writes about an account. */
async function everyLetterOf(of: string): Promise<void> {
  const { redis } = server
  const event = JSON.stringify({ type: 'create', did: of, record: { subject: bob } })
  await redis.xadd('firehose_live_dlq', '*', 'event', event, 'reason', 'invalid')
  await redis.xadd('firehose_live_dlq', '*', 'did', of, 'rev', '3k', 'reason', 'disproved')
  const commit = spoilt('#commit', {
    ops: [{ path: bob }],
    rev: '3k',
    seq: 1,
    repo: of,
    time: 'now',
  })
  await redis.xadd('firehose_live_dlq', '*', 'reason', 'frame', 'frame', commit)
  const account = spoilt('#account', { did: of, seq: 2, time: 'now', active: false })
  await redis.xadd('firehose_live_dlq', '*', 'reason', 'frame', 'frame', account)
  await redis.xadd('firehose_backfill_dlq', '*', 'event', event, 'reason', 'crash')
  const repo = JSON.stringify({ did: of })
  await redis.xadd('repo_backfill_dlq', '*', 'repo', repo, 'reason', 'signature', 'attempts', '3')
}

/** What a frame about an account leaves: cut short, so that nobody can decode it. */
function spoilt(type: string, body: LexMap): string {
  return Buffer.from(messageFrame(type, body).slice(0, -3)).toString('base64')
}

const lengths = () => Promise.all(letterStreams.map((name) => server.redis.xlen(name)))

test('those of a deleted account go, of every stream and form; those of others stay', async () => {
  await everyLetterOf(gone)
  const own = await lengths()
  await everyLetterOf(bob)
  await server.redis.xadd('firehose_live_dlq', '*', 'reason', 'frame', 'frame', 'AAAA')
  await server.redis.xadd('label_live_dlq', '*', 'label', `{"src":"${gone}"}`, 'reason', 'label')
  await wish(gone)
  expect(await forgetLetters(options(), never)).toBe(1)
  expect(own).toEqual([4, 1, 0, 1])
  expect(await lengths()).toEqual([5, 1, 1, 1])
  for (const name of letterStreams) {
    const text = JSON.stringify(await server.redis.xrange(name, '-', '+'))
    if (name !== 'label_live_dlq') expect(text).not.toContain(gone)
  }
  expect(await wishes()).toEqual([])
  expect(await server.redis.exists(lettersKey)).toBe(0)
})

test('one walk does for many accounts, in portions; interrupted, it is done again', async () => {
  const many = Array.from({ length: 600 }, (_, n) => did(`a${n}`))
  const pipeline = server.redis.pipeline()
  for (const of of many) {
    for (let n = 0; n < 2; n += 1)
      pipeline.xadd('repo_backfill_dlq', '*', 'repo', `{"did":"${of}"}`)
  }
  await pipeline.exec()
  await wish(...many)
  const portions: number[] = []
  const stopped = async (dropped: number) => {
    if (dropped > 0) throw new Error('killed')
  }
  await expect(forgetLetters(options({ probe: stopped }), never)).rejects.toThrow('killed')
  expect([await server.redis.xlen('repo_backfill_dlq'), (await wishes()).length]).toEqual([
    700, 600,
  ])
  // Its turn ends by itself.
  await server.redis.del(lettersKey)
  const probe = async (dropped: number) => void portions.push(dropped)
  expect(await forgetLetters(options({ probe }), never)).toBe(600)
  expect(portions.filter((dropped) => dropped > 0)).toEqual([500, 200])
  expect([await lengths(), await wishes()]).toEqual([[0, 0, 0, 0], []])
})

test('while one indexer walks no other does', async () => {
  await everyLetterOf(gone)
  await wish(gone)
  let others = 0
  const probe = async () => {
    others += await forgetLetters(options(), never)
  }
  expect(await forgetLetters(options({ probe }), never)).toBe(1)
  expect(others).toBe(0)
})

test('an account that is back keeps its letters', async () => {
  await everyLetterOf(gone)
  await wish(gone)
  await database.sql.begin((tx) => readmit(tx, gone))
  expect(await wishes()).toEqual([])
})

test('the loop beside the batches outlasts a Redis that is away', async () => {
  await everyLetterOf(gone)
  await wish(gone)
  let reads = 0
  const sql = new Proxy(database.sql, {
    get(target, name) {
      if (name === 'unsafe') reads += 1
      return Reflect.get(target, name)
    },
  })
  const stop = new AbortController()
  const away = server.redis.duplicate({
    ...{ enableOfflineQueue: false, maxRetriesPerRequest: 0 },
    ...{ port: 1, retryStrategy: () => 10 },
  })
  away.on('error', () => {})
  const running = keepForgettingLetters(options({ redis: away, sql, everyMs: 10 }), stop.signal)
  await expect.poll(() => reads).toBeGreaterThan(1)
  expect(await wishes()).toEqual([gone])
  Object.assign(away.options, { port: server.redis.options.port })
  await expect.poll(wishes).toEqual([])
  expect(await lengths()).toEqual([0, 0, 0, 0])
  stop.abort()
  await running
  away.disconnect()
})
