import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { suspectsKey } from './names.ts'
import { acknowledgeAll, type Place, raiseSuspicion } from './settle.ts'

test('an acknowledged entry is suspected no more, even if its reader dies at once', async () => {
  await using server = await testRedis()
  const { redis } = server
  const [stream, group, name] = ['s', 'g', 'c']
  const id = String(await redis.xadd(stream, '*', 'event', '{}'))
  const other = String(await redis.xadd(stream, '*', 'event', '{}'))
  await redis.xgroup('CREATE', stream, group, '0')
  await redis.xreadgroup('GROUP', group, name, 'COUNT', 2, 'STREAMS', stream, '>')
  const place: Place = {
    ...{ redis, stream, group, name, alone: true },
    ...{ deadLetterStream: 'd', deadLetterMaxLength: 1 },
  }
  await raiseSuspicion(place, id)
  await raiseSuspicion(place, other)
  await acknowledgeAll(place, [[id, 'applied']])
  expect(await redis.hgetall(suspectsKey(stream))).toEqual({ [`${group}/${other}`]: '1' })
})
