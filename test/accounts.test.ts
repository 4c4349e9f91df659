/** How accounts end and return, with an indexer as a process, a PDS that is asked, and kills in between. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { aLike, aPost, did, miscounts, refTo, tid } from '../indexer/testing.ts'
import { type AccountEvent, decodeRequest, type Event, encodeEvent } from '../shared/events.ts'
import { eventually, type Pipeline, startPipeline } from './pipeline.ts'

vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000 })

let pipeline: Pipeline
beforeAll(async () => {
  pipeline = await startPipeline()
})
afterAll(() => pipeline[Symbol.asyncDispose]())

const bob = did('bob')
const post = aPost({ by: bob, rev: 1 })

async function append(...events: Event[]): Promise<void> {
  const pipe = pipeline.redis.pipeline()
  for (const event of events) pipe.xadd('firehose_live', '*', ...encodeEvent(event))
  await pipe.exec()
}

/** What the relay tells, and what the PDS then answers. */
function told(of: string, day: number, status: string | null): AccountEvent {
  pipeline.network.emitAccount(of, status === null ? { active: true } : { active: false, status })
  const time = `2026-03-${String(day).padStart(2, '0')}T00:00:00.000Z`
  return { type: 'account', seq: day, time, did: of, active: status === null, status }
}

const rowsOf = async (of: string) => {
  const [row] = await pipeline.sql<{ records: number; actors: number; hidden: boolean }[]>`
    select (select count(*)::int from record where did = ${of}) as records,
      (select count(*)::int from actor where did = ${of}) as actors,
      exists (select from actor where did = ${of} and "upstreamStatus" is not null) as hidden`
  return row
}

test('an account that rests is hidden, and read anew when it is back', async () => {
  const { did: resting } = await pipeline.network.account()
  const worker = await pipeline.start('indexer')
  await append(aPost({ by: resting, rev: 1 }), told(resting, 1, 'deactivated'))
  await eventually(() => rowsOf(resting), { records: 1, actors: 1, hidden: true })
  await append(told(resting, 2, null))
  await eventually(() => rowsOf(resting), { records: 1, actors: 1, hidden: false })
  const requests = async () =>
    (await pipeline.redis.xrange('repo_backfill', '-', '+')).map(([, fields]) => {
      const { did, reason } = decodeRequest(fields)
      return { did, reason }
    })
  await eventually(requests, [{ did: resting, reason: 'resync' }])
  await worker.stop()
})

test('an account that is deleted is gone whole, though its indexer is killed in the middle', async () => {
  const { did: leaving } = await pipeline.network.account()
  const likes = Array.from({ length: 1_200 }, (_, n) => {
    const subject =
      n === 0 ? refTo(post) : { ...refTo(post), uri: `at://${bob}/app.bsky.feed.post/${tid(n)}` }
    return aLike({ by: leaving, rev: n + 1, of: subject })
  })
  const first = await pipeline.start('indexer', { INDEXER_CONSUMER: 'killed' })
  await append(post, ...likes)
  await eventually(async () => (await rowsOf(leaving))?.records, 1_200)

  const locked = Promise.withResolvers<void>()
  const killed = Promise.withResolvers<void>()
  const { sql } = pipeline
  const holding = sql.begin(async (held) => {
    // The portion that takes this like back waits for its counter, and dies there.
    await held`select from post_agg where uri = ${refTo(post).uri} for update`
    locked.resolve()
    await killed.promise
  })
  await locked.promise
  await append(told(leaving, 1, 'deleted'))
  const waiting = async () =>
    (
      await sql`select from pg_stat_activity where datname = current_database()
      and wait_event_type = 'Lock' and application_name like 'sluice-indexer/%'`
    ).length
  await eventually(waiting, 1)
  await first.kill()
  killed.resolve()
  await holding
  expect((await rowsOf(leaving))?.records).toBeGreaterThan(0)

  // Whoever dies with an account in hand loses it after a while.
  await sql`update account_purge set "notBefore" = '2026-01-01T00:00:00.000Z'`
  await pipeline.start('indexer', { INDEXER_CONSUMER: 'next' })
  await eventually(() => rowsOf(leaving), { records: 0, actors: 0, hidden: false })
  await eventually(async () => (await sql`select from account_purge`).length, 0)
  expect(await miscounts(sql as never)).toEqual([])
  // What comes again later stays away.
  await append(...likes.slice(0, 10))
  await pipeline.drained('firehose_live', 'firehose_group')
  expect(await rowsOf(leaving)).toEqual({ records: 0, actors: 0, hidden: false })
})
