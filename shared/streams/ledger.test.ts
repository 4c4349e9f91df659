/** The ledger law under random reads, deaths, claims and ends, on a real Redis. */
import {
  array,
  assert,
  asyncProperty,
  constant,
  constantFrom,
  integer,
  oneof,
  record,
} from 'fast-check'
import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { ensureGroup } from './group.ts'
import { createIntake } from './intake.ts'
import { ledgerBalance } from './ledger.ts'
import { acknowledgeAll, giveBack, keepFresh, type Place, setAside } from './settle.ts'
import { readState } from './state.ts'
import { events, group, range, stream, testbed } from './testbed.ts'

const who = constantFrom('a', 'b')
const count = integer({ min: 1, max: 4 })
const step = oneof(
  record({ does: constant('append' as const), count }),
  { weight: 4, arbitrary: record({ does: constant('read' as const), who, count }) },
  record({ does: constant('die' as const), who }),
  record({
    does: constant('acknowledge' as const),
    who,
    count,
    outcome: constantFrom('applied', 'stale', 'refused:x'),
  }),
  record({ does: constant('set aside' as const), who }),
  record({ does: constant('give back' as const), who }),
  record({ does: constant('touch' as const), who }),
  record({ does: constant('lose the payload' as const), who }),
)

test('entries added = outcomes + pending + lag, whatever the order of events', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const { redis } = server
  await assert(
    asyncProperty(array(step, { minLength: 30, maxLength: 80 }), async (steps) => {
      await redis.flushdb()
      const producer = await bed.producer()
      await ensureGroup(redis, stream, group)
      const seats = new Map(['a', 'b'].map((name) => [name, aSeat(name)] as const))
      for (const now of steps) {
        if (now.does === 'append') {
          await producer.append({ entries: events(...range(1, now.count)) })
          continue
        }
        const seat = seats.get(now.who) ?? aSeat(now.who)
        await seat.do(now)
        if (now.does === 'die') seats.set(now.who, aSeat(now.who))
        const balance = await ledgerBalance(redis, stream, group)
        expect(balance?.balanced).toBe(true)
      }
    }),
    { numRuns: 100 },
  )

  function aSeat(name: string) {
    const place: Place = {
      ...{ redis, stream, group, name, deadLetterStream: 's_dlq', deadLetterMaxLength: 1_000 },
      alone: true,
    }
    const intake = createIntake({
      ...{ redis, reader: redis, stream, group, name, minIdleMs: 0, claimEveryMs: 0 },
    })
    const held = new Map<string, { id: string; fields: string[]; deliveries: number }>()
    const take = () => [...held.values()][0]
    return {
      async do(now: { does: string; count?: number; outcome?: string }) {
        const first = take()
        if (now.does === 'read') {
          const read = await intake.next(now.count ?? 1)
          const gone = read.entries.filter(({ fields }) => fields === null)
          await acknowledgeAll(
            place,
            gone.map(({ id }) => [id, 'nil']),
          )
          for (const { id, fields, deliveries } of read.entries)
            if (fields !== null) held.set(id, { id, fields, deliveries })
        } else if (now.does === 'acknowledge') {
          const ids = [...held.keys()].slice(0, now.count)
          await acknowledgeAll(
            place,
            ids.map((id) => [id, now.outcome ?? 'applied']),
          )
          for (const id of ids) held.delete(id)
        } else if (now.does === 'touch') {
          for (const id of await keepFresh(place, [...held.keys()])) held.delete(id)
        } else if (first !== undefined && now.does === 'set aside') {
          await setAside(place, first, { reason: 'x', error: 'x' })
          held.delete(first.id)
        } else if (first !== undefined && now.does === 'give back') {
          await giveBack(place, first)
          held.delete(first.id)
        } else if (first !== undefined && now.does === 'lose the payload') {
          await redis.xdel(stream, first.id)
        }
      },
    }
  }
})

test('counters that a failover left behind are set as soon as the group has read all', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const { redis } = server
  const producer = await bed.producer()
  await producer.append({ entries: events(1, 2, 3) })
  await ensureGroup(redis, stream, group)
  const read = async () => {
    const from = ['GROUP', group, 'a', 'COUNT', '3', 'STREAMS', stream, '>'] as const
    const [[, entries]] = (await redis.call('XREADGROUP', ...from)) as [[string, [string][]]]
    for (const [id] of entries) await redis.xack(stream, group, id)
    await redis.hincrby(`${stream}:ledger:${group}`, 'applied', entries.length)
  }
  await read()
  // A replica that becomes the master has the count that its own master had when it first read from it.
  const { lastId } = await readState(redis, stream)
  await redis.call('XGROUP', 'SETID', stream, group, lastId, 'ENTRIESREAD', '1')
  const lagOfRedis = async () => {
    const [info = []] = (await redis.xinfo('GROUPS', stream)) as unknown[][]
    return info[info.indexOf('lag') + 1]
  }
  expect(await lagOfRedis()).toBe(2)
  expect(await ledgerBalance(redis, stream, group)).toMatchObject({ lag: 0, balanced: true })
  await ensureGroup(redis, stream, group)
  expect(await lagOfRedis()).toBe(0)
  await producer.append({ entries: events(4, 5) })
  expect(await ledgerBalance(redis, stream, group)).toMatchObject({ lag: 2, balanced: true })
  await read()
  expect(await ledgerBalance(redis, stream, group)).toMatchObject({ lag: 0, balanced: true })
})
