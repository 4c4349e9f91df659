/** Entries that go back to the end of their stream. */
import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { ensureGroup } from './group.ts'
import { ledgerBalance } from './ledger.ts'
import { createRequeue } from './requeue.ts'

const [stream, group] = ['requests', 'group']

async function withEntries(count: number) {
  const server = await testRedis()
  const { redis } = server
  await ensureGroup(redis, stream, group)
  const ids: string[] = []
  for (let number = 0; number < count; number += 1) {
    ids.push(String(await redis.xadd(stream, '*', 'repo', `${number}`)))
  }
  await redis.xreadgroup('GROUP', group, 'me', 'STREAMS', stream, '>')
  const requeue = createRequeue({ redis, stream, group, alone: true })
  const fields = async () => (await redis.xrange(stream, '-', '+')).map(([, of]) => of)
  return { server, redis, ids, requeue, fields }
}

test('entries stand at the end, changed, and are pending no more; the ledger balances', async () => {
  const { server, redis, ids, requeue, fields } = await withEntries(3)
  await using _server = server
  const before = await redis.info('commandstats')
  const [a, b] = await Promise.all(
    ids.slice(0, 2).map((id, number) => requeue(id, ['repo', `${number} again`, 'more', 'x'])),
  )
  expect(await fields()).toEqual([
    ['repo', '2'],
    ['repo', '0 again', 'more', 'x'],
    ['repo', '1 again', 'more', 'x'],
  ])
  expect(String(a) < String(b)).toBe(true)
  // What is put back at one time takes one step.
  const calls = (info: string) => Number(/cmdstat_eval(?:sha)?:calls=(\d+)/.exec(info)?.[1] ?? 0)
  expect(calls(await redis.info('commandstats')) - calls(before)).toBeLessThanOrEqual(2)
  expect(await ledgerBalance(redis, stream, group)).toMatchObject({
    ...{ added: 5, pending: 1, lag: 2, balanced: true },
    refused: { requeued: 2 },
  })
})

test('what is no longer pending is not put back', async () => {
  const { server, redis, ids, requeue, fields } = await withEntries(1)
  await using _server = server
  const [id = ''] = ids
  await redis.xack(stream, group, id)
  expect(await requeue(id, ['repo', 'again'])).toBeNull()
  expect(await fields()).toEqual([['repo', '0']])
})
