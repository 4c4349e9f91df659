/** What befalls an indexer while it has entries in hand: the rows are those of an undisturbed run, and nothing is left pending. */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import {
  aDeleteOf,
  aFollow,
  aLike,
  aPost,
  aReply,
  did,
  dump,
  miscounts,
  refTo,
  tid,
} from '../indexer/testing.ts'
import { type Event, encodeEvent, type PutEvent } from '../shared/events.ts'
import type { Sql } from '../shared/postgres.ts'
import { ledgerBalance } from '../shared/streams/ledger.ts'
import { type Pipeline, type RunningWorker, startPipeline } from './pipeline.ts'

vi.setConfig({ testTimeout: 240_000, hookTimeout: 60_000 })
const stream = 'firehose_live'
const group = 'firehose_group'
const accounts = 12
const hotPost = aPost({ by: did('0'), rev: 1 })
const sluice = promisify(execFile)
const cli = fileURLToPath(new URL('../cli/main.ts', import.meta.url))

let pipeline: Pipeline
beforeEach(async () => {
  pipeline = await startPipeline()
})
afterEach(async () => {
  await pipeline[Symbol.asyncDispose]()
})

test('statements that take too long are tried again in halves, until each part fits', async () => {
  await failingTrigger('record', 'insert', {
    when: '(select count(*) from news) > 4',
    code: '57014',
  })
  await startIndexer()
  await append(events)
  await allDone({ dead: {} })
  expect(await fired()).toBeGreaterThan(5)
  await expectCalm()
})

test('serialization failures and deadlocks that Postgres reports are tried again', async () => {
  const { sql } = pipeline
  await failingTrigger('post_agg', 'update', {
    when: "nextval('bsky.tries') % 3 = 0",
    code: '40001',
  })
  const worker = await startIndexer()
  await append(events.filter((event) => !knots.includes(event)))
  await allDone({ dead: {} })
  await tieKnots()
  const deadlocks = async () => {
    const [row] = await sql<{ n: number }[]>`
      select deadlocks::int as n from pg_stat_database where datname = current_database()`
    return row?.n ?? 0
  }
  await expect.poll(deadlocks).toBeGreaterThan(0)
  expect(await fired()).toBeGreaterThan(0)
  expect(await worker.metric('indexer_stream_apply_retries_total')).toBeGreaterThan(0)
  await expectCalm()
})

test('an indexer that slept for longer than the claim time wakes, and nothing is applied twice', async () => {
  const { redis } = pipeline
  await slow()
  const sleeper = await startIndexer()
  await append(events)
  await expect.poll(() => pipeline.pending(stream, group)).toBeGreaterThan(0)
  sleeper.child.kill('SIGSTOP')
  await startIndexer({ INDEXER_CONSUMER: 'indexer2' })
  const asleep = await pendingOf('indexer1')
  expect(asleep.length).toBeGreaterThan(0)
  // The minute of the claim, without waiting for it.
  await redis.xclaim(stream, group, 'indexer1', 0, ...asleep, 'IDLE', 3_600_000, 'JUSTID')
  // It may sleep in a transaction: what it has locked waits until Postgres ends its session, a minute later.
  await expect.poll(() => pendingOf('indexer1'), { timeout: 110_000 }).toEqual([])
  sleeper.child.kill('SIGCONT')
  await allDone({ dead: {} })
  expect(sleeper.child.exitCode).toBe(null)
  await expectCalm()
})

test('of ten thousand entries with a few poisoned ones all others are applied, and what was set aside is applied once it is mended', async () => {
  const { sql, redis, redisUrl } = pipeline
  const forbidden = aPost({ by: did('poison'), rev: 90_001 }, { text: 'not yet' })
  const crowd = Array.from({ length: 9_600 }, (_, n) =>
    aLike({
      by: did(`crowd${n % 400}x`),
      rev: 100_000 + n,
      of: { ...refTo(hotPost), uri: `${refTo(hotPost).uri}${n}` },
    }),
  )
  await sql.unsafe(`
    create function bsky.forbid() returns trigger language plpgsql as $$ begin
      if new.uri = '${refTo(forbidden).uri}' then raise exception 'forbidden' using errcode = '23514'; end if;
      return new; end $$;
    create trigger forbid before insert on bsky.record for each row execute function bsky.forbid()`)
  await append([...events, ...crowd])
  const longName = noise(180).replaceAll(/\d/g, 'x').match(/.{60}/g)?.join('.')
  const longUri = `at://did:web:${noise(2_030)}/app.bsky.${longName}/${noise(510)}`
  const poison: [string, string][] = [
    ['event', '{"type":"create","did":'],
    ['event', '{"type":"shout","did":"did:plc:a","seq":1,"time":"2026-01-01T00:00:00.000Z"}'],
    ['event', 'null'],
    ['payload', '{}'],
    ['event', JSON.stringify({ ...aPost({ by: did('1'), rev: 90_002 }), did: 7 })],
    // 1 MB of text: refused by the lexicon.
    [
      'event',
      encodeEvent(aPost({ by: did('1'), rev: 90_003 }, { text: 'a'.repeat(1_000_000) }))[1] ?? '',
    ],
    // A value that is too long for the index that it stands in, and not for its lexicon.
    [
      'event',
      encodeEvent(
        aLike({ by: did('1'), rev: 90_004, of: { ...refTo(hotPost), uri: longUri } }),
      )[1] ?? '',
    ],
    ['event', encodeEvent(forbidden)[1] ?? ''],
  ]
  for (const entry of poison) await redis.xadd(stream, '*', ...entry)
  await startIndexer({ INDEXER_BATCH_SIZE: '500', INDEXER_CONCURRENCY: '1000' })
  await expect.poll(() => pipeline.left(stream, group), { timeout: 100_000 }).toBe(0)

  const [{ count } = { count: 0 }] = await sql<{ count: number }[]>`
    select count(*)::int as count from "like" where subject like ${`${refTo(hotPost).uri}_%`}`
  expect(count).toBe(crowd.length)
  const letters = await redis.xrange(`${stream}_dlq`, '-', '+')
  const rejected = letters.filter(([, fields]) => fields.includes(encodeEvent(forbidden)[1] ?? ''))
  expect(rejected).toHaveLength(1)
  expect(rejected[0]?.[1]).toContain('rejected')
  const balance = await ledgerBalance(redis, stream, group)
  expect(balance).toMatchObject({ balanced: true, pending: 0 })
  const refusedOrDead = [
    ...Object.values(balance?.refused ?? {}),
    ...Object.values(balance?.dead ?? {}),
  ]
  expect(refusedOrDead.reduce((sum, n) => sum + n, 0)).toBe(poison.length)

  await sql`drop trigger forbid on bsky.record`
  const { stdout } = await sluice(
    process.execPath,
    [cli, 'dlq', 'requeue', '--stream', `${stream}_dlq`, '--reason', 'rejected', '--json'],
    { env: { REDIS_URL: redisUrl } },
  )
  expect(JSON.parse(stdout)).toMatchObject({ requeued: 2 })
  await expect.poll(() => sql`select from post where uri = ${refTo(forbidden).uri}`).toHaveLength(1)
  // What nothing can mend is set aside again.
  await expect.poll(() => redis.xlen(`${stream}_dlq`)).toBe(letters.length - 1)
})

/** What does not get shorter when it is compressed. */
function noise(length: number): string {
  return createHash('shake256', { outputLength: length })
    .update('noise')
    .digest('base64url')
    .replaceAll(/[_-]/g, 'x')
    .slice(0, length)
}

/** Likes of the famous post that are no duplicates of others. */
const knots: Event[] = [0, 1, 2].map((n) =>
  aLike({ by: did(`knot${n}x`), rev: 500 + n, of: refTo(hotPost) }),
)

/** Posts, replies, likes, follows and deletions of a few accounts, about each other. */
const events: Event[] = [hotPost, ...history(), ...knots]

function* history(): Generator<Event> {
  const posts: PutEvent[] = [hotPost]
  for (let rev = 2; rev < 400; rev += 1) {
    const by = did(String(rev % accounts))
    const of = posts[rev % posts.length] ?? hotPost
    if (rev % 7 === 0) yield aFollow({ by, rev, of: did(String((rev * 5 + 1) % accounts)) })
    else if (rev % 5 === 0) yield aLike({ by, rev, of: refTo(of) })
    else if (rev % 11 === 0 && posts.length > 3)
      yield aDeleteOf(posts.splice(2, 1)[0] ?? hotPost, rev)
    else if (rev % 3 === 0) {
      const reply = aReply({ by, rev, to: of })
      posts.push(reply)
      yield reply
    } else yield aLike({ by, rev, of: refTo(hotPost), rkey: tid(rev) })
  }
}

let undisturbed: Promise<string[]> | undefined

/** What the events leave where nothing happens, made once. */
function calm(): Promise<string[]> {
  undisturbed ??= (async () => {
    const before = pipeline
    await using own = await startPipeline()
    pipeline = own
    try {
      await startIndexer()
      await append(events)
      await allDone({ dead: {} })
      return await dump(own.sql as unknown as Sql)
    } finally {
      pipeline = before
    }
  })()
  return undisturbed
}

async function expectCalm(): Promise<void> {
  expect(await miscounts(pipeline.sql as unknown as Sql)).toEqual([])
  expect(await dump(pipeline.sql as unknown as Sql)).toEqual(await calm())
}

function startIndexer(env: Record<string, string> = {}): Promise<RunningWorker> {
  return pipeline.start('indexer', {
    INDEXER_BATCH_SIZE: '20',
    INDEXER_CONCURRENCY: '40',
    INDEXER_MODE: 'stream',
    ENABLE_DID_RESOLUTION: 'false',
    ...env,
  })
}

async function append(made: readonly Event[]): Promise<void> {
  const batch = pipeline.redis.pipeline()
  for (const event of made) batch.xadd(stream, '*', ...encodeEvent(event))
  await batch.exec()
}

async function allDone(expected: Record<string, unknown>): Promise<void> {
  await expect
    .poll(() => ledgerBalance(pipeline.redis, stream, group), { timeout: 100_000 })
    .toMatchObject({ pending: 0, lag: 0, balanced: true, ...expected })
  await expect.poll(() => pipeline.sql`select from reconcile`, { timeout: 20_000 }).toHaveLength(0)
}

async function pendingOf(consumer: string): Promise<string[]> {
  const pending = (await pipeline.redis.xpending(stream, group, '-', '+', 1_000, consumer)) as [
    string,
  ][]
  return pending.map(([id]) => id)
}

/** A trigger that raises an error of this code whenever the condition holds, and counts it. */
async function failingTrigger(
  table: string,
  event: 'insert' | 'update',
  { when, code }: { when: string; code: string },
): Promise<void> {
  await pipeline.sql.unsafe(`
    create sequence bsky.fired;
    create sequence bsky.tries;
    create function bsky.fail() returns trigger language plpgsql as $$ begin
      if ${when} then
        perform nextval('bsky.fired');
        raise exception 'made by the test' using errcode = '${code}';
      end if;
      return null; end $$;
    create trigger fail after ${event} on bsky.${table}
      referencing new table as news for each statement execute function bsky.fail()`)
}

/** A sequence keeps what a transaction that failed has counted. */
async function fired(): Promise<number> {
  const [row] = await pipeline.sql<{ n: number }[]>`
    select case when is_called then last_value else 0 end::int as n from bsky.fired`
  return row?.n ?? 0
}

async function slow(): Promise<void> {
  await pipeline.sql.unsafe(`
    create function bsky.slow() returns trigger language plpgsql as
      $$ begin perform pg_sleep(0.1); return null; end $$;
    create trigger slow after insert or update on bsky.record
      for each statement execute function bsky.slow()`)
}

/** Locks the famous post's counts first and a repo second, the other way round than batches do. */
async function tieKnots(): Promise<void> {
  const { sql } = pipeline
  for (const like of knots) {
    // A row that is there before can be locked by both.
    await sql`insert into repo_sync (did) values (${like.did})`
    await sql.begin(async (tx) => {
      // The indexer is the one that finds the knot, and the one that is cut.
      await tx`select set_config('deadlock_timeout', '60s', true)`
      await tx`select from post_agg where uri = ${refTo(hotPost).uri} for update`
      await append([like])
      await expect
        .poll(() => sql`select from pg_stat_activity where wait_event_type = 'Lock'`)
        .not.toHaveLength(0)
      await tx`select from repo_sync where did = ${like.did} for update`
    })
    await allDone({ dead: {} })
  }
}
