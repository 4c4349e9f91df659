/** `sluice dlq` on a real Redis; the letters are those that workers write. */
import { expect, test } from 'vitest'
import { testRedis } from '../test/servers/redis.ts'
import { sluice } from './testing.ts'

const request = (did: string) =>
  JSON.stringify({
    did,
    host: 'https://relay.test',
    attempts: 4,
    not_before: '2026-01-01T00:00:00Z',
  })
const like = JSON.stringify({ type: 'create', did: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa' })
const ago = (minutes: number) => new Date(Date.now() - minutes * 60_000).toISOString()

async function filled() {
  const server = await testRedis()
  const { redis } = server
  const repo = (name: string, reason: string, host: string, minutes: number) =>
    redis.xadd(
      'repo_backfill_dlq',
      '*',
      ...['repo', request(`did:plc:${name.padEnd(24, 'a')}`), 'reason', reason, 'attempts', '4'],
      ...['error', `it failed\u001b[31m`, 'host', host, 'entry', '1-1', 'failed_at', ago(minutes)],
      ...['stream', 'repo_backfill', 'group', 'g', 'consumer', 'c'],
    )
  const ids = [
    await repo('b', 'host-error', 'one.test', 1),
    await repo('c', 'host-error', 'two.test', 100),
    await repo('d', 'signature', 'two.test', 100),
  ]
  await redis.xadd(
    'firehose_live_dlq',
    // No other letter has this id, also within one millisecond.
    `${Date.now()}-7`,
    ...['event', like, 'reason', 'invalid', 'attempts', '1', 'stream', 'firehose_live'],
  )
  await redis.xadd(
    'firehose_live_dlq',
    `${Date.now()}-8`,
    ...['reason', 'frame', 'frame', 'AAAA', 'stream', 'firehose_live'],
  )
  return { server, redis, ids, env: { REDIS_URL: server.url } }
}

test('letters of all streams are counted by reason', async () => {
  const { server, env } = await filled()
  await using _server = server
  const { code, out } = await sluice(['dlq', 'list', '--counts', '--json'], env)
  expect(code).toBe(0)
  expect(JSON.parse(out)).toEqual([
    { stream: 'repo_backfill_dlq', reason: 'host-error', letters: 2 },
    { stream: 'firehose_live_dlq', reason: 'invalid', letters: 1 },
    { stream: 'firehose_live_dlq', reason: 'frame', letters: 1 },
    { stream: 'repo_backfill_dlq', reason: 'signature', letters: 1 },
  ])
})

test.each([
  [['--reason', 'host-error'], 2],
  [['--host', 'two.test'], 2],
  [['--older', '1h'], 2],
  [['--newer', '1h', '--stream', 'repo_backfill_dlq'], 1],
  [['--did', 'did:plc:daaaaaaaaaaaaaaaaaaaaaaa'], 1],
])('letters are found by %j', async (flags, count) => {
  const { server, env } = await filled()
  await using _server = server
  const { out } = await sluice(['dlq', 'list', '--json', ...flags], env)
  expect(JSON.parse(out)).toHaveLength(count)
})

test('what others wrote can not move the cursor of a terminal', async () => {
  const { server, env, ids } = await filled()
  await using _server = server
  for (const args of [['list'], ['show', String(ids[0])]]) {
    const { out } = await sluice(['dlq', ...args], env)
    expect(out).toContain('\\u001b[31m')
    expect(out).not.toContain('\u001b[31m')
  }
})

test('what is requeued stands on its stream as it was, without its tries, and is no letter any more', async () => {
  const { server, redis, env } = await filled()
  await using _server = server
  const { code } = await sluice(['dlq', 'requeue', '--reason', 'host-error'], env)
  expect(code).toBe(0)
  const requests = await redis.xrange('repo_backfill', '-', '+')
  expect(requests.map(([, fields]) => fields)).toEqual(
    ['b', 'c'].map((name) => [
      'repo',
      JSON.stringify({ did: `did:plc:${name.padEnd(24, 'a')}`, host: 'https://relay.test' }),
    ]),
  )
  expect(await redis.xlen('repo_backfill_dlq')).toBe(1)
  await sluice(['dlq', 'requeue', '--reason', 'invalid'], env)
  expect((await redis.xrange('firehose_live', '-', '+'))[0]?.[1]).toEqual(['event', like])
})

test('a frame that nobody can read is no entry: it stays, and the exit code says so', async () => {
  const { server, redis, env } = await filled()
  await using _server = server
  expect((await sluice(['dlq', 'requeue', '--reason', 'frame'], env)).code).toBe(1)
  expect(await redis.xlen('firehose_live_dlq')).toBe(2)
})

test('letters are thrown away only when it is said which', async () => {
  const { server, redis, env, ids } = await filled()
  await using _server = server
  expect((await sluice(['dlq', 'drop'], env)).code).toBe(2)
  expect((await sluice(['dlq', 'drop', '--older', 'long'], env)).code).toBe(2)
  expect(await redis.xlen('repo_backfill_dlq')).toBe(3)
  await sluice(['dlq', 'drop', String(ids[1])], env)
  expect(await redis.xlen('repo_backfill_dlq')).toBe(2)
  const { out } = await sluice(['dlq', 'drop', '--all', '--json'], env)
  expect(JSON.parse(out)).toEqual({ dropped: 4 })
})

test('a letter that is not there is a mistake of the user', async () => {
  const { server, env } = await filled()
  await using _server = server
  expect((await sluice(['dlq', 'show', '1-1'], env)).code).toBe(2)
})

test('of two letters with one id none is thrown away until it is said which', async () => {
  const { server, redis, env, ids } = await filled()
  await using _server = server
  await redis.xadd('label_live_dlq', String(ids[1]), 'reason', 'invalid')
  const { code, err } = await sluice(['dlq', 'drop', String(ids[1])], env)
  expect(code).toBe(2)
  expect(err).toContain('stands on label_live_dlq and repo_backfill_dlq')
  const dropped = ['dlq', 'drop', String(ids[1]), '--stream', 'label_live_dlq', '--json']
  expect(JSON.parse((await sluice(dropped, env)).out)).toEqual({ dropped: 1 })
  expect(await redis.xlen('label_live_dlq')).toBe(0)
  expect(await redis.xlen('repo_backfill_dlq')).toBe(3)
})

test('what is no id of a letter is a mistake of the user', async () => {
  const { server, env } = await filled()
  await using _server = server
  const { code, err } = await sluice(['dlq', 'show', 'newest'], env)
  expect(code).toBe(2)
  expect(err).toContain('1767225600000-0')
})
