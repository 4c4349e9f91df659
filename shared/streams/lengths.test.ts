/** Lengths and marks, on a real Redis. */
import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { registerLengths, streamLengths } from './lengths.ts'
import { passedMark, writeMark } from './marks.ts'
import { ledgerKey } from './names.ts'
import { compareIds, readState } from './state.ts'
import { events, group, range, readAndDie, stream, testbed } from './testbed.ts'

test('length, lag, pending and the age of the oldest pending entry are measured', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 5)) })
  await server.redis.xgroup('CREATE', stream, group, '0')
  const [id = ''] = await readAndDie(server.redis, 'x', 2)
  const now = () => Number(id.split('-')[0]) + 2_500
  expect(await streamLengths(server.redis, stream, now)).toEqual({
    length: 5,
    groups: [{ group, lag: 3, pending: 2, oldestPendingSeconds: 2.5 }],
  })
  expect(await streamLengths(server.redis, 'none')).toEqual({ length: 0, groups: [] })
})

test('one scrape shows one measurement', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 5)) })
  await server.redis.xgroup('CREATE', stream, group, '0')
  await readAndDie(server.redis, 'x', 2)
  registerLengths({ redis: bed.redis, streams: [stream], registry: bed.registry, service: 'test' })
  const page = await bed.registry.metrics()
  expect(page).toContain('test_stream_length_entries{stream="s"} 5')
  expect(page).toContain('test_stream_lag_entries{stream="s",group="g"} 3')
  expect(page).toContain('test_stream_pending_entries{stream="s",group="g"} 2')
})

test('a ledger that does not balance is told by how much', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 5)) })
  await server.redis.xgroup('CREATE', stream, group, '0')
  await server.redis.hset(ledgerKey(stream, group), 'base', 0)
  registerLengths({ redis: bed.redis, streams: [stream], registry: bed.registry, service: 'test' })
  const off = 'test_stream_ledger_off_entries{stream="s",group="g"}'
  expect(await bed.registry.metrics()).toContain(`${off} 0\n`)
  await server.redis.hset(ledgerKey(stream, group), 'applied', 2)
  expect(await bed.registry.metrics()).toContain(`${off} -2\n`)
})

test('a position is passed only when every entry up to its mark is acknowledged', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const relay = await bed.producer({ cursor: { key: 'c', kind: 'seq' } })
  const other = await bed.producer({ cursor: { key: 'd', kind: 'seq' } })
  const hosts = [
    { host: 'relay', key: 'c' },
    { host: 'other', key: 'd' },
  ]
  const passed = async () => {
    const state = (await readState(server.redis, stream)).groups[0]
    return state === undefined ? null : await passedMark(server.redis, stream, state)
  }
  await server.redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM')
  expect(await writeMark(bed.redis, stream, hosts)).toBe(null)
  await relay.append({ entries: events(1), cursor: '10' })
  const first = await writeMark(bed.redis, stream, hosts)
  expect(await writeMark(bed.redis, stream, hosts)).toBe(null)
  await other.append({ entries: events(2), cursor: '7' })
  const second = await writeMark(bed.redis, stream, hosts)
  expect(await passed()).toBe(null)
  const ids = await readAndDie(server.redis, 'x', 2)
  expect(await passed()).toBe(null)
  await server.redis.xack(stream, group, ids[0] ?? '')
  expect(await passed()).toEqual({ id: first, positions: { relay: '10' } })
  await server.redis.xack(stream, group, ids[1] ?? '')
  expect(await passed()).toEqual({ id: second, positions: { relay: '10', other: '7' } })
})

test('marks of a stream that was deleted since are false and go', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await server.redis.set('c', '10')
  await server.redis.xadd(stream, '99999999999999-0', 'event', 'x')
  await writeMark(server.redis, stream, [{ host: 'relay', key: 'c' }])
  await server.redis.del(stream)
  await (await bed.producer()).append({ entries: events(1) })
  const mark = await writeMark(server.redis, stream, [{ host: 'relay', key: 'c' }])
  expect((await server.redis.xrange('s:marks', '-', '+')).map(([id]) => id)).toEqual([mark])
})

test('entry ids are ordered as numbers of any length', () => {
  const ids = ['9-0', '10-0', '10-9', '10-10', '10-18446744073709551615', '11-0']
  expect([...ids].reverse().sort(compareIds)).toEqual(ids)
})

test('the lag is told though the entry that was delivered last has been deleted', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 9)) })
  await server.redis.xgroup('CREATE', stream, group, '0')
  const ids = await readAndDie(server.redis, 'x', 4)
  await server.redis.xack(stream, group, ...ids.slice(1))
  await server.redis.xdel(stream, ...ids.slice(1))
  const [raw] = (await server.redis.xinfo('GROUPS', stream)) as unknown[][]
  expect(raw?.at(-1)).toBe(null) // Redis itself gives up
  expect((await streamLengths(server.redis, stream)).groups[0]?.lag).toBe(5)
})
