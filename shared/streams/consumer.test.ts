/** The consumer, on a real Redis. */
import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { InvalidEventError } from '../errors.ts'
import { sleep } from '../retry.ts'
import type { Entry, Outcome } from './consumer.ts'
import { DuplicateConsumerError } from './group.ts'
import { ledgerBalance } from './ledger.ts'
import {
  events,
  eventually,
  group,
  onStream,
  pending,
  range,
  readAndDie,
  readAndStay,
  stream,
  testbed,
} from './testbed.ts'

const minIdleMs = 400

function names(from: number, to: number): string[] {
  return range(from, to).map(String)
}

/** What a Postgres statement throws that ran out of time, is refused, or lost its server. */
function sqlError(code: string): Error {
  return Object.assign(new Error(`sql ${code}`), { code })
}

test('entries are applied in order, acknowledged, deleted and counted', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 25)) })
  const consumer = bed.consumer()
  await eventually(consumer.seen).toEqual(names(1, 25))
  await consumer.stop()
  expect(consumer.batches.map((batch) => batch.length)).toEqual([10, 10, 5])
  expect(await bed.redis.xlen(stream)).toBe(0)
  expect(await ledgerBalance(bed.redis, stream, group)).toEqual({
    ...{ added: 25, applied: 25, stale: 0, refused: {}, dead: {}, gone: 0, others: 0 },
    ...{ pending: 0, lag: 0, off: 0, balanced: true },
  })
})

test('a restart finds what was pending before it reads anything new', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 12)) })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  await readAndDie(bed.redis, 'one', 4)
  const consumer = bed.consumer({ batchSize: 4 })
  await eventually(consumer.seen).toEqual(names(1, 12))
  expect(consumer.tries[0]?.map(({ deliveries }) => deliveries)).toEqual([2, 2, 2, 2])
})

test('a long list of own pending entries does not keep new ones waiting', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 41)) })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  await readAndDie(bed.redis, 'one', 40)
  const consumer = bed.consumer({ batchSize: 2 })
  await eventually(() => consumer.seen().length).toBe(41)
  expect(consumer.seen().slice(0, 2)).toEqual(['1', '2'])
  expect(consumer.seen().indexOf('41')).toBeLessThan(10)
})

test('what another consumer left behind is taken over and applied', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 30)) })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  await readAndDie(bed.redis, 'dead', 20)
  const consumer = bed.consumer({ minIdleMs })
  await eventually(() => consumer.seen().length).toBe(30)
  await consumer.stop()
  expect(new Set(consumer.seen()).size).toBe(30)
  expect(await bed.metric('stream_claimed_entries_total')).toBe(20)
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    applied: 30,
    balanced: true,
  })
})

test('an entry that takes longer than the idle limit is not taken from its consumer', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('long') })
  const { promise: ended, resolve: end } = Promise.withResolvers<void>()
  const slow = bed.consumer({
    name: 'slow',
    batchSize: 1, // no room left: its own scans for stale entries would keep its entry fresh
    minIdleMs,
    apply: async (entries) => {
      await ended
      return entries.map(() => 'applied')
    },
  })
  await eventually(() => slow.tries.length).toBe(1)
  const other = bed.consumer({ name: 'other', minIdleMs })
  const claims = async () =>
    (await bed.redis.info('commandstats')).match(/xautoclaim:calls=(\d+)/)?.[1]
  const before = Number(await claims())
  await eventually(async () => Number(await claims()) - before).toBeGreaterThan(8)
  expect(other.tries).toEqual([])
  end()
  await slow.stop()
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({ applied: 1, pending: 0 })
})

test('pending entries whose payload was trimmed are acknowledged and counted', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 6)) })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  const own = await readAndDie(bed.redis, 'one', 2)
  const others = await readAndDie(bed.redis, 'dead', 2)
  await bed.redis.xdel(stream, own[0] ?? '', others[0] ?? '')
  const consumer = bed.consumer({ minIdleMs })
  await eventually(() => consumer.seen().sort()).toEqual(['2', '4', '5', '6'])
  await consumer.stop()
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    ...{ applied: 4, gone: 2, pending: 0, balanced: true },
  })
})

test('only the entry at fault becomes a dead letter, and the order is kept', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 10)) })
  const consumer = bed.consumer({
    apply: async (entries) => {
      if (entries.some(({ event }) => event === '7')) throw sqlError('22001')
      return entries.map(() => 'applied')
    },
  })
  await eventually(consumer.seen).toEqual(names(1, 10).filter((name) => name !== '7'))
  await eventually(() => bed.redis.xlen('s_dlq')).toBe(1)
  await consumer.stop()
  expect(consumer.tries.length).toBeLessThan(10)
  const [letter] = await bed.redis.xrange('s_dlq', '-', '+')
  const fields = letter?.[1] ?? []
  expect(fields.slice(0, 8)).toEqual([
    ...['event', '7', 'reason', 'rejected', 'attempts', '1', 'error', 'sql 22001'],
  ])
  expect(fields.filter((_, index) => index % 2 === 0)).toEqual([
    ...[
      'event',
      'reason',
      'attempts',
      'error',
      'entry',
      'stream',
      'group',
      'consumer',
      'failed_at',
    ],
  ])
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    ...{ applied: 9, dead: { rejected: 1 }, balanced: true },
  })
})

test('a batch of large entries is cut by its size', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const megabyte = 'x'.repeat(1_000_000)
  await (await bed.producer()).append({ entries: events(...range(1, 20).map(() => megabyte)) })
  const consumer = bed.consumer({ batchSize: 100 })
  await eventually(() => consumer.seen().length).toBe(20)
  expect(consumer.batches.map((batch) => batch.length)).toEqual([16, 4])
})

test('each outcome is counted under its name', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('a', 'b', 'c', 'd', 'e') })
  const outcomes: Outcome[] = [
    'applied',
    'stale',
    'refused:out of scope',
    { deadLetter: { reason: 'poison', error: 'x', extra: { attempts: '7', host: 'pds.test' } } },
    'pending',
  ]
  const consumer = bed.consumer({ apply: async () => outcomes })
  await eventually(() => bed.redis.xlen('s_dlq')).toBe(1)
  await consumer.stop()
  const fields = (await bed.redis.xrange('s_dlq', '-', '+'))[0]?.[1] ?? []
  expect(fields[fields.indexOf('attempts') + 1]).toBe('7')
  expect(fields[fields.indexOf('host') + 1]).toBe('pds.test')
  expect(await ledgerBalance(bed.redis, stream, group)).toEqual({
    ...{ added: 5, applied: 1, stale: 1, refused: { 'out of scope': 1 }, dead: { poison: 1 } },
    ...{ gone: 0, others: 0, pending: 1, lag: 0, off: 0, balanced: true },
  })
})

test('what is given back comes again, and the delivery does not count', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('later') })
  let tries = 0
  const consumer = bed.consumer({
    minIdleMs,
    apply: async (entries) => {
      tries += 1
      return entries.map(() => (tries < 6 ? 'pending' : 'applied'))
    },
  })
  await eventually(() => tries).toBe(6)
  await consumer.stop()
  expect(consumer.tries.map(([entry]) => entry?.deliveries)).toEqual([1, 1, 1, 1, 1, 1])
})

test('what is given back after a flush is no failure', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('late') })
  const consumer = bed.consumer({
    batchSize: 1, // no room left: nothing is read meanwhile, which would make the group again
    apply: async (entries) => {
      if (entries[0]?.event === 'late') await bed.redis.flushdb()
      return entries.map(({ event }) => (event === 'late' ? 'pending' : 'applied'))
    },
  })
  await eventually(() => consumer.tries.length).toBe(1)
  await bed.redis.xadd(stream, '*', 'event', 'next')
  await eventually(consumer.seen).toContain('next')
})

test('a database that is away is waited for, with the same batch', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(1, 2, 3) })
  let failures = 3
  const consumer = bed.consumer({
    apply: async (entries) => {
      if (failures-- > 0) throw Object.assign(new Error('no'), { code: 'ECONNREFUSED' })
      return entries.map(() => 'applied')
    },
  })
  await eventually(consumer.seen).toEqual(names(1, 3))
  expect(consumer.tries.map((batch) => batch.length)).toEqual([3, 3, 3, 3])
  expect(await bed.metric('stream_apply_retries_total')).toBe(3)
})

test('a statement that runs out of time is tried with half, and alone three times at most', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 8)) })
  const consumer = bed.consumer({
    apply: async (entries) => {
      if (entries.some(({ event }) => event === '8') || entries.length > 2) throw sqlError('57014')
      return entries.map(() => 'applied')
    },
  })
  await eventually(() => bed.redis.xlen('s_dlq')).toBe(1)
  await consumer.stop()
  expect(consumer.seen()).toEqual(names(1, 7))
  expect(consumer.tries.map((batch) => batch.length)).toEqual([8, 4, 2, 2, 4, 2, 2, 1, 1, 1, 1])
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({ dead: { timeout: 1 } })
})

test('what cannot be decoded is set aside without its neighbours; an exception there is a bug', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('a', 'broken', 'bug', 'b') })
  const consumer = bed.consumer({
    decode: ([, event = '']) => {
      if (event === 'broken') throw new InvalidEventError('no type')
      if (event === 'bug') throw new TypeError('undefined is not a function')
      return event
    },
  })
  await eventually(consumer.seen).toEqual(['a', 'b'])
  await consumer.stop()
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    ...{ applied: 2, dead: { invalid: 1, bug: 1 }, balanced: true },
  })
})

test('an entry with more fields than a script can pass on is set aside without the rest', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(1) })
  await bed.redis.xadd(stream, '*', ...range(1, 9_000).map(String))
  const consumer = bed.consumer({
    decode: (fields) => {
      if (fields.length > 2) throw new InvalidEventError('too many fields')
      return fields[1] ?? ''
    },
  })
  await eventually(() => bed.redis.xlen(`${stream}_dlq`)).toBe(1)
  await consumer.stop()
  expect(await pending(bed.redis)).toBe(0)
})

test('a bug in applying ends the consumer and leaves the entries pending', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(1, 2) })
  const consumer = bed.consumer({
    apply: async () => {
      throw new TypeError('a bug of ours')
    },
  })
  await expect(consumer.ended).rejects.toThrow('a bug of ours')
  expect(await pending(bed.redis)).toBe(2)
})

test('one lane is applied in order while others go on', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const all = range(1, 200).map((n) => `${n % 5}:${n}`)
  await (await bed.producer()).append({ entries: events(...all) })
  let inFlight = 0
  let most = 0
  const consumer = bed.consumer({
    concurrency: 3,
    lane: (event) => event.split(':', 1)[0] ?? '',
    apply: async (entries) => {
      inFlight += 1
      most = Math.max(most, inFlight)
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 5))
      inFlight -= 1
      return entries.map(() => 'applied')
    },
  })
  await eventually(() => consumer.seen().length).toBe(200)
  expect(most).toBeGreaterThan(1)
  for (const lane of range(0, 4)) {
    const numbers = consumer.seen().filter((event) => event.startsWith(`${lane}:`))
    expect(numbers).toEqual(all.filter((event) => event.startsWith(`${lane}:`)))
  }
})

test('without lanes any free slot takes the next batch', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 9)) })
  const { promise: ended, resolve: end } = Promise.withResolvers<void>()
  const consumer = bed.consumer({
    batchSize: 1,
    concurrency: 3,
    apply: async (entries) => {
      if (entries[0]?.event === '1') await ended
      return entries.map(() => 'applied')
    },
  })
  await eventually(() => consumer.seen().length).toBe(8)
  expect(consumer.seen()).not.toContain('1')
  end()
  await eventually(() => consumer.seen().length).toBe(9)
})

test('a barrier waits aside until every earlier entry is acknowledged by the whole group', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('a', 'b', 'barrier', 'c') })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  const [other = ''] = await readAndDie(bed.redis, 'other', 1)
  const consumer = bed.consumer({ barrier: (event) => event === 'barrier' })
  await eventually(consumer.seen).toEqual(['b', 'c'])
  await eventually(() => bed.metric('stream_entries_aside', { kind: 'barrier' })).toBe(1)
  expect(await pending(bed.redis)).toBe(2)
  await bed.redis.xack(stream, group, other)
  await eventually(consumer.seen).toEqual(['b', 'c', 'barrier'])
  await consumer.stop()
  expect(consumer.batches.at(-1)).toEqual(['barrier'])
  expect(await pending(bed.redis)).toBe(0)
})

test('many barriers pass one after the other, each alone and after what precedes it', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const all = range(1, 120).map((n) => (n % 4 === 0 ? `barrier ${n}` : `${n}`))
  await (await bed.producer()).append({ entries: events(...all) })
  const barrier = (event: string) => event.startsWith('barrier')
  const first = bed.consumer({ name: 'first', batchSize: 5, barrier, minIdleMs })
  const second = bed.consumer({ name: 'second', batchSize: 5, barrier, minIdleMs })
  const order: string[] = []
  await eventually(() => first.seen().length + second.seen().length).toBe(120)
  await Promise.all([first.stop(), second.stop()])
  for (const consumer of [first, second]) {
    for (const batch of consumer.batches) if (batch.some(barrier)) expect(batch).toHaveLength(1)
    order.push(...consumer.seen().filter(barrier))
  }
  expect(order).toHaveLength(30)
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    applied: 120,
    balanced: true,
  })
})

test('however many barriers wait aside, what they wait for is still taken over', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({
    entries: events(0, ...range(1, 30).map((n) => `b${n}`), 31),
  })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  await readAndDie(bed.redis, 'dead', 1)
  const consumer = bed.consumer({
    ...{ minIdleMs, asideMost: 5, batchSize: 2 },
    barrier: (event) => event.startsWith('b'),
  })
  await eventually(() => consumer.seen().length).toBe(32)
  expect(consumer.seen().slice(0, 6)).toEqual(['0', 'b1', 'b2', 'b3', 'b4', 'b5'])
})

test('entries delivered over and over are opened alone, the third death of one proves it guilty', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('innocent', 'killer', 'bystander') })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  const ids = await readAndDie(bed.redis, 'one', 3)
  for (const _ of range(1, 3))
    await bed.redis.xreadgroup('GROUP', group, 'one', 'STREAMS', stream, '0')
  await bed.redis.hset('s:suspects', `${group}/${ids[1]}`, 3)
  const consumer = bed.consumer()
  await eventually(() => consumer.seen()).toEqual(['innocent', 'bystander'])
  await eventually(() => bed.redis.xlen('s_dlq')).toBe(1)
  await consumer.stop()
  expect(consumer.batches.map((batch) => batch.length)).toEqual([1, 1])
  expect(await bed.redis.hlen('s:suspects')).toBe(0)
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    ...{ applied: 2, dead: { crash: 1 }, balanced: true },
  })
})

test('a death while an entry is open alone is remembered', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('killer') })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  const [id] = await readAndDie(bed.redis, 'one', 1)
  for (const _ of range(1, 3))
    await bed.redis.xreadgroup('GROUP', group, 'one', 'STREAMS', stream, '0')
  const apply = async (): Promise<Outcome[]> => {
    throw new TypeError('a bug of ours')
  }
  for (const death of range(1, 3)) {
    await expect(bed.consumer({ apply }).ended).rejects.toThrow('a bug')
    expect(await bed.redis.hget('s:suspects', `${group}/${id}`)).toBe(String(death))
  }
  const last = bed.consumer({ apply })
  await eventually(() => bed.redis.xlen('s_dlq')).toBe(1)
  await last.stop()
  expect(last.tries).toEqual([])
})

test('an entry given back when it was opened alone is no suspect', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events('patient') })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  await readAndDie(bed.redis, 'one', 1)
  for (const _ of range(1, 3))
    await bed.redis.xreadgroup('GROUP', group, 'one', 'STREAMS', stream, '0')
  let tries = 0
  const consumer = bed.consumer({
    minIdleMs,
    apply: async (entries) => {
      tries += 1
      return entries.map(() => (tries < 6 ? 'pending' : 'applied'))
    },
  })
  await eventually(() => pending(bed.redis)).toBe(0)
  await consumer.stop()
  expect(tries).toBe(6)
  expect(await bed.redis.exists('s_dlq')).toBe(0)
})

test('a full dead-letter stream stops the intake with an alarm, until there is room', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer()
  await producer.append({ entries: events('bad', 'good') })
  await bed.redis.xadd('s_dlq', '*', 'event', 'earlier')
  const told: string[] = []
  const consumer = bed.consumer({
    deadLetterMaxLength: 1,
    health: { ready: () => told.push('ready'), notReady: (reason) => told.push(reason) },
    apply: async (entries) =>
      entries.map(({ event }) =>
        event === 'bad' ? { deadLetter: { reason: 'bad', error: 'bad' } } : 'applied',
      ),
  })
  await eventually(() => bed.metric('stream_intake_stopped')).toBe(1)
  await producer.append({ entries: events('already asked for') })
  await eventually(consumer.seen).toContain('already asked for')
  await producer.append({ entries: events('later') })
  // Longer than any read that may be under way: that nothing comes can't be waited for.
  await sleep(1_500)
  expect(consumer.seen()).not.toContain('later')
  expect(told).toEqual(['ready', 's_dlq is full'])
  expect(bed.lines.filter(({ level }) => level === 50)).toHaveLength(1)
  await bed.redis.xtrim('s_dlq', 'MAXLEN', 0)
  await eventually(consumer.seen).toContain('later')
  expect(await onStream(bed.redis, 's_dlq')).toEqual(['bad'])
  expect(await bed.metric('stream_intake_stopped')).toBe(0)
})

test('a second process under the same name refuses to start', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(1) })
  const first = bed.consumer()
  await eventually(first.seen).toEqual(['1'])
  await expect(bed.consumer().ended).rejects.toThrow(DuplicateConsumerError)
})

test('nor may it start beside one that has had nothing to read', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await server.redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM')
  const first = bed.consumer()
  await eventually(async () => server.redis.client('LIST')).toMatch(/name=sluice.* cmd=xreadgroup/)
  await expect(bed.consumer().ended).rejects.toThrow(DuplicateConsumerError)
  await first.stop()
})

test('an older worker of the same name is noticed by its commands', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await server.redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM')
  const alive = async () => {
    await server.redis.xadd(stream, '*', 'event', 'x')
    await readAndStay(server.redis, 'one', 1)
  }
  await alive()
  const consumer = bed.consumer()
  let refused = false
  consumer.ended.catch((error: unknown) => {
    refused = error instanceof DuplicateConsumerError
  })
  await eventually(async () => {
    await alive()
    return refused
  }).toBe(true)
  expect(consumer.tries).toEqual([])
})

test('an older worker of the same name that has ended is waited out', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(1, 2) })
  await server.redis.xgroup('CREATE', stream, group, '0')
  await readAndStay(server.redis, 'one', 1)
  const ended = Date.now()
  const consumer = bed.consumer()
  await eventually(consumer.seen).toEqual(['1', '2'])
  expect(Date.now() - ended).toBeGreaterThan(9_000)
})

test('after an orderly stop the same name starts at once', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer()
  for (const n of range(1, 3)) {
    await producer.append({ entries: events(n) })
    const consumer = bed.consumer()
    await eventually(consumer.seen).toEqual([String(n)])
    await consumer.stop()
  }
  expect(await bed.redis.xinfo('CONSUMERS', stream, group)).toEqual([])
})

test('a stop finishes what is in hand', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 30)) })
  const { promise: ended, resolve: end } = Promise.withResolvers<void>()
  const consumer = bed.consumer({
    lane: () => 'one',
    apply: async (entries) => {
      await ended
      return entries.map(() => 'applied')
    },
  })
  await eventually(() => consumer.tries.length).toBe(1)
  const inHand = await pending(bed.redis)
  const stopping = consumer.stop()
  end()
  await stopping
  expect(consumer.seen()).toEqual(names(1, inHand))
  expect(await pending(bed.redis)).toBe(0)
})

test('a stop does not wait for ever; what is unfinished stays pending', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(1) })
  const consumer = bed.consumer({ stopWithinMs: 100, apply: () => new Promise(() => {}) })
  await eventually(() => consumer.tries.length).toBe(1)
  await consumer.stop()
  expect(await pending(bed.redis)).toBe(1)
})

test('after a flush the group is there again and reading goes on', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const consumer = bed.consumer()
  await server.redis.xadd(stream, '*', 'event', 'before')
  await eventually(consumer.seen).toEqual(['before'])
  await server.redis.flushdb()
  await server.redis.xadd(stream, '*', 'event', 'after')
  await eventually(consumer.seen).toEqual(['before', 'after'])
  await consumer.stop()
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    applied: 1,
    balanced: true,
  })
})

test('a group created late begins with what is there, and its ledger balances', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({ groups: [group, 'late'] })
  const streamGroups = new Map([[stream, [group, 'late']]])
  await producer.append({ entries: events(...range(1, 5)) })
  const early = bed.consumer({ streamGroups })
  await eventually(() => early.seen().length).toBe(5)
  const late = bed.consumer({ group: 'late', name: 'l', streamGroups })
  await producer.append({ entries: events(...range(6, 9)) })
  await eventually(() => [early.seen(), late.seen()]).toEqual([names(1, 9), names(1, 9)])
  await Promise.all([early.stop(), late.stop()])
  for (const name of [group, 'late'])
    expect(await ledgerBalance(bed.redis, stream, name)).toMatchObject({
      applied: 9,
      balanced: true,
    })
})

test('a group that older workers have used begins its ledger where it stands', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await (await bed.producer()).append({ entries: events(...range(1, 10)) })
  await bed.redis.xgroup('CREATE', stream, group, '0')
  const ids = await readAndDie(bed.redis, 'rust-indexer1', 6)
  await bed.redis.xack(stream, group, ...ids.slice(0, 4))
  const consumer = bed.consumer({ minIdleMs })
  await eventually(() => consumer.seen().length).toBe(6)
  await consumer.stop()
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    applied: 6,
    balanced: true,
  })
})

test('what is handed to apply carries its id and deliveries', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const id = await server.redis.xadd(stream, '*', 'event', 'x')
  const got: Entry<string>[] = []
  const consumer = bed.consumer({
    apply: async (entries) => {
      got.push(...entries)
      return entries.map(() => 'applied')
    },
  })
  await eventually(consumer.seen).toEqual(['x'])
  expect(got[0]).toMatchObject({ id, event: 'x', deliveries: 1 })
})
