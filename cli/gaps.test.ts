/** `sluice gaps` and `sluice resume`. */
import { expect, test } from 'vitest'
import { openGap } from '../shared/streams/gaps.ts'
import { testDatabase } from '../test/servers/postgres.ts'
import { testRedis } from '../test/servers/redis.ts'
import { sluice } from './testing.ts'

const gap = { host: 'relay', stream: 'firehose_live', from: '7', to: '9', since: null } as const

test('gaps are shown until they are closed: exit code 1 while one is open', async () => {
  await using server = await testRedis()
  const env = { REDIS_URL: server.url }
  expect(await sluice(['gaps'], env)).toMatchObject({ code: 0, out: 'no gap was ever opened\n' })
  await openGap(server.redis, { ...gap, reason: 'outdated-cursor' })
  await openGap(server.redis, { ...gap, host: 'labeler', reason: 'frame' })
  const { code, out } = await sluice(['gaps', '--json'], env)
  expect(code).toBe(1)
  expect(JSON.parse(out)).toMatchObject([
    {
      state: 'open',
      reason: 'outdated-cursor',
      host: 'relay',
      from: '7',
      to: '9',
      closed_at: null,
    },
    { state: 'open', reason: 'frame', host: 'labeler' },
  ])
  await sluice(['gaps', '--close', 'labeler'], env)
  const rest = await sluice(['gaps', '--open', '--json'], env)
  expect(JSON.parse(rest.out)).toMatchObject([{ host: 'relay' }])
})

test('a lost Redis gets the positions of the slowest group that counts, and keeps a newer one', async () => {
  await using server = await testRedis()
  await using database = await testDatabase()
  const row = (host: string, group: string, seq: string) =>
    database.sql`insert into position (host, stream, "group", seq, "entryId", "updatedAt")
      values (${host}, 'firehose_live', ${group}, ${seq}, '1-1', '2026-01-01T00:00:00.000Z')`
  await row('lost.example', 'firehose_group', '9007199254740993')
  await row('lost.example', 'search', '9007199254740992')
  await row('lost.example', 'abandoned', '3')
  await row('older.example', 'firehose_group', '500')
  await row('newer.example', 'firehose_group', '500')
  await server.redis.mset('firehose_live:cursor:older.example', '90')
  await server.redis.mset('firehose_live:cursor:newer.example', '501')
  const env = {
    REDIS_URL: server.url,
    DATABASE_URL: database.url,
    DB_SCHEMA: database.schema,
    STREAM_GROUPS: 'firehose_live=firehose_group+search',
  }
  const cursors = () =>
    server.redis.mget(
      ['lost', 'older', 'newer'].map((name) => `firehose_live:cursor:${name}.example`),
    )
  expect((await sluice(['resume', '--from-postgres', '--dry-run'], env)).out).toContain('would be')
  expect(await cursors()).toEqual([null, '90', '501'])
  const { code, out, err } = await sluice(['resume', '--from-postgres', '--json'], env)
  expect([code, err]).toEqual([0, ''])
  expect(await cursors()).toEqual(['9007199254740992', '500', '501'])
  const done = (JSON.parse(out) as { host: string; done: string }[]).map(({ host, done }) => [
    host,
    done,
  ])
  expect(done).toEqual([
    ['lost.example', 'set'],
    ['newer.example', 'kept, not older'],
    ['older.example', 'set'],
  ])
})

test('without a position, and without a source to take it from, nothing is set', async () => {
  await using server = await testRedis()
  await using database = await testDatabase()
  const env = { REDIS_URL: server.url, DATABASE_URL: database.url, DB_SCHEMA: database.schema }
  expect(await sluice(['resume'], env)).toMatchObject({ code: 2 })
  expect(await sluice(['resume', '--from-postgres'], env)).toMatchObject({ code: 1 })
  const away = await sluice(['gaps'], { REDIS_URL: 'redis://127.0.0.1:1' })
  expect(away.code).toBe(1)
  expect(away.err).not.toContain('    at ')
})
