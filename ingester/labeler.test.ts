import { Registry } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { decodeLabels } from '../shared/events.ts'
import { createIdentity } from '../shared/identity.ts'
import { createLog } from '../shared/log.ts'
import type { Ipld, IpldMap } from '../shared/repo/cbor.ts'
import { startNetwork } from '../simulator/network.ts'
import { freePort } from '../start/process.ts'
import { testRedis } from '../test/servers/redis.ts'
import { createDeadLetters } from './dead-letter.ts'
import { createLabelTranslation } from './labeler.ts'
import { createMetrics } from './metrics.ts'
import { patience, startIngester, testRoom } from './testing.ts'

async function aRoom() {
  const room = await testRoom(await startNetwork())
  const { labeler } = room.network
  const cursor = () => room.redis.get(`label_live:cursor:${labeler.host}`)
  return {
    room,
    labeler,
    env: { ...room.env, INGESTER_MODE: 'labeler', INGESTER_LABELER_HOSTS: labeler.url },
    caughtUp: () => expect.poll(cursor, patience).toBe(String(labeler.lastSeq)),
    entries: async () => (await room.redis.xrange('label_live', '-', '+')).map(([, list]) => list),
    [Symbol.asyncDispose]: () => room[Symbol.asyncDispose](),
  }
}

const uri = 'at://did:plc:44ybard66vv44zksje25o7dz/app.bsky.feed.post/3llxv7pnd3s2q'

test('each label becomes one entry, in the form that both older families read', async () => {
  await using room = await aRoom()
  const { labeler } = room
  await using ingester = startIngester(room.env)
  const cts = '2025-10-30T06:56:52.123Z'
  const made = await labeler.label(
    { uri, val: 'spam', cts },
    { uri, val: 'porn', cts, neg: true, exp: '2027-01-01T00:00:00.000Z' },
  )
  await room.caughtUp()
  const entries = await room.entries()
  expect(entries.map(([name, , other]) => [name, other])).toEqual([
    ['event', 'labels'],
    ['event', 'labels'],
  ])
  const [first] = entries.map((fields) => ({
    event: JSON.parse(fields[1] ?? ''),
    labels: JSON.parse(fields[3] ?? ''),
  }))
  const sig = {
    $bytes: Buffer.from(made[0]?.sig ?? [])
      .toString('base64')
      .replace(/=+$/, ''),
  }
  expect(first?.event).toEqual({
    type: 'label',
    label: { ver: 1, src: labeler.did, uri, val: 'spam', cts, sig },
  })
  expect(first?.labels).toEqual({
    seq: labeler.lastSeq,
    labels: [
      {
        src: labeler.did,
        uri,
        cid: null,
        val: 'spam',
        neg: null,
        cts: '2025-10-30 06:56:52.123 UTC',
      },
    ],
  })
  expect(await ingester.metric('ingester_labels_written_total')).toBe(2)
})

test('one bad label costs its frame no other', async () => {
  await using room = await aRoom()
  await using ingester = startIngester(room.env)
  await room.labeler.label({ uri, val: 'spam' }, { uri: '', val: 'spam' }, { uri, val: 'porn' })
  await room.labeler.label({ uri, val: 'gore', cts: 'yesterday' }, { uri, val: 'nudity' })
  await room.caughtUp()
  const vals = (await room.entries()).map((fields) => decodeLabels(fields).labels[0]?.val)
  expect(vals).toEqual(['spam', 'porn', 'nudity'])
  expect(await ingester.metric('ingester_dropped_labels_total', { reason: 'invalid' })).toBe(2)
  const aside = await room.room.redis.xrange('label_live_dlq', '-', '+')
  expect(aside.map(([, fields]) => JSON.parse(fields[1] ?? '').val).sort()).toEqual([
    'gore',
    'spam',
  ])
  expect(aside[0]?.[1]).toEqual(expect.arrayContaining(['reason', 'label']))
})

/** As the older TypeScript indexer reads: without `event` there is nothing in an entry. */
function readAsT(fields: readonly string[]) {
  const at = fields.indexOf('event')
  if (at < 0) return null
  const { type, label } = JSON.parse(fields[at + 1] ?? '')
  if (type !== 'label') throw new Error(`unknown type ${type}`)
  const { src, uri, val, neg = false, cts, exp = null } = label
  if ([src, uri, val, cts].some((text) => typeof text !== 'string')) throw new Error('bad label')
  return { src, uri, val, neg, cts, exp }
}

/** As the older Rust indexer reads: every field must be there, and times have one form. */
function readAsR(fields: readonly string[]) {
  const at = fields.indexOf('labels')
  if (at < 0) throw new Error('missing field labels')
  const { seq, labels } = JSON.parse(fields[at + 1] ?? '')
  if (!Number.isSafeInteger(seq)) throw new Error('seq')
  return labels.map((label: Record<string, unknown>) => {
    for (const name of ['src', 'uri', 'cid', 'val', 'neg', 'cts']) {
      if (label[name] === undefined) throw new Error(`missing field ${name}`)
    }
    if (!/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? UTC$/.test(String(label['cts'])))
      throw new Error('cts')
    const { src, uri, val, neg } = label
    return { src, uri, val, neg: neg ?? false }
  })
}

test('a reader of either older family reads several labels of a frame, negations and expiry', async () => {
  await using room = await aRoom()
  const { labeler } = room
  await using _ = startIngester(room.env)
  const cts = '2025-10-30T06:56:52.123456789Z'
  const exp = '2025-11-01T00:00:00.000Z'
  await labeler.label(
    { uri, val: 'spam', cts },
    { uri, val: 'spam', cts, neg: true },
    { uri, val: 'porn', cts, exp },
    { uri: labeler.did, val: 'gore', cts, exp: '2999-01-01T00:00:00.000Z' },
  )
  await room.caughtUp()
  const entries = await room.entries()
  const src = labeler.did
  expect(entries.map(readAsT)).toEqual([
    { src, uri, val: 'spam', neg: false, cts, exp: null },
    { src, uri, val: 'spam', neg: true, cts, exp: null },
    { src, uri, val: 'porn', neg: false, cts, exp },
    { src, uri: src, val: 'gore', neg: false, cts, exp: '2999-01-01T00:00:00.000Z' },
  ])
  // The Rust workers know no expiry: what has expired is taken back.
  expect(entries.flatMap(readAsR)).toEqual([
    { src, uri, val: 'spam', neg: false },
    { src, uri, val: 'spam', neg: true },
    { src, uri, val: 'porn', neg: true },
    { src, uri: src, val: 'gore', neg: false },
  ])
})

describe('signatures', () => {
  async function aTranslation(options: { away?: boolean } = {}) {
    const resources = new AsyncDisposableStack()
    const network = resources.use(await startNetwork())
    const { redis } = resources.use(await testRedis())
    const plcUrl = options.away ? `http://127.0.0.1:${await freePort()}` : network.plc.url
    const limits = { allowPrivateHosts: true, timeoutMs: 1_000, maxEntries: 10, ttlMs: 60_000 }
    const identity = createIdentity({ plcUrl, ...limits })
    resources.defer(() => identity.close())
    const metrics = createMetrics(new Registry())
    const common = { redis, signal: new AbortController().signal, metrics }
    const log = createLog('ingester', 'silent')
    const deadLetters = createDeadLetters({ ...common, log, stream: 'label_live', maxLength: 10 })
    const translate = createLabelTranslation({ ...common, identity, deadLetters, log })
    return {
      network,
      metrics,
      entries: async (...labels: Ipld[]) =>
        (await translate({ type: 'labels', seq: 1, labels })).entries,
      signed: async (): Promise<IpldMap> => {
        const [label] = await network.labeler.label({ uri, val: 'spam' })
        return { ...label } as unknown as IpldMap
      },
      [Symbol.asyncDispose]: () => resources.disposeAsync(),
    }
  }

  test('a label that its labeler signed is taken, one that was changed is left out and counted', async () => {
    await using room = await aTranslation()
    const label = await room.signed()
    expect(await room.entries(label, { ...label, val: 'porn' }, label)).toHaveLength(2)
    const { values } = await room.metrics.droppedLabels.get()
    expect(values).toMatchObject([{ labels: { reason: 'signature' }, value: 1 }])
  })

  test('a label without a signature is taken, one with a signature that is none is not', async () => {
    await using room = await aTranslation()
    const { sig: _, ...label } = await room.signed()
    expect(await room.entries(label)).toHaveLength(1)
    expect(await room.entries({ ...label, sig: 'signed' })).toHaveLength(0)
  })

  test('a label of a labeler that nobody knows is left out', async () => {
    await using room = await aTranslation()
    const label = await room.signed()
    expect(await room.entries({ ...label, src: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa' })).toHaveLength(
      0,
    )
  })

  test('while the directory is away labels are taken without a look, and the labeler is not asked for again', async () => {
    await using room = await aTranslation({ away: true })
    const label = await room.signed()
    expect(await room.entries(label, label, label)).toHaveLength(3)
    expect((await room.metrics.unavailable.get()).values[0]?.value).toBe(1)
  })
})

test('a restart resumes after the last label, and repeats none', async () => {
  await using room = await aRoom()
  {
    await using _ = startIngester(room.env)
    await room.labeler.label({ uri, val: 'spam' })
    await room.caughtUp()
  }
  await room.labeler.label({ uri, val: 'porn' })
  await using _ = startIngester(room.env)
  await room.caughtUp()
  expect(await room.entries()).toHaveLength(2)
})
