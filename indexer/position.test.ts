import { afterAll, beforeAll, expect, test } from 'vitest'
import { writeMark } from '../shared/streams/marks.ts'
import { testRedis } from '../test/servers/redis.ts'
import { storePosition } from './position.ts'
import { type TestIndexer, testIndexer } from './testing.ts'

let indexer: TestIndexer
let server: Awaited<ReturnType<typeof testRedis>>
beforeAll(async () => {
  indexer = await testIndexer()
  server = await testRedis()
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
  await indexer[Symbol.asyncDispose]()
})

test('the position stored is the newest mark below what is still pending', async () => {
  const { redis } = server
  const stream = 'firehose_live'
  const key = `${stream}:cursor:relay.test`
  const hosts = [{ host: 'relay.test', key }]
  const options = { redis, sql: indexer.sql, schema: 'bsky', stream, group: 'g' }
  expect(await storePosition(options)).toBeNull()

  const append = async (seq: number) => {
    await redis.set(key, seq)
    const id = await redis.xadd(stream, '*', 'event', '{}')
    await writeMark(redis, stream, hosts)
    return String(id)
  }
  const first = await append(10)
  const second = await append(20)
  await redis.xgroup('CREATE', stream, 'g', '0')
  await redis.xreadgroup('GROUP', 'g', 'c', 'COUNT', 2, 'STREAMS', stream, '>')
  await redis.xack(stream, 'g', first)
  await storePosition(options)
  const stored = () => indexer.sql.unsafe('select host, stream, "group", seq from position')
  expect(await stored()).toEqual([{ host: 'relay.test', stream, group: 'g', seq: '10' }])

  await redis.xack(stream, 'g', second)
  await storePosition(options)
  expect(await stored()).toMatchObject([{ seq: '20' }])
})
