/** The whole ingester on a simulated network and a real Redis. */
import { describe, expect, test } from 'vitest'
import { encodeCbor } from '../shared/repo/cbor.ts'
import { messageFrame } from '../simulator/frames.ts'
import { type Network, type NetworkOptions, startNetwork } from '../simulator/network.ts'
import { freePort } from '../start/process.ts'
import { corpusDocuments } from '../test/corpus.ts'
import { sharedFrames, sharedJson, sharedJsonLines } from '../test/data.ts'
import { decodeFrame, type Message } from './frame.ts'
import { patience, startIngester, testRoom } from './testing.ts'

const corpus = 'firehose/jetstream-corpus'
const recorded = sharedFrames(`${corpus}/frames.bin`)

async function aRoom(options: NetworkOptions = {}) {
  return testRoom(await startNetwork(options))
}

function serveCorpus(network: Network): void {
  for (const document of corpusDocuments()) network.plc.serve(document)
}

describe('the recorded frames', () => {
  test('become the events that production Jetstream emitted, every signature verified', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await using ingester = startIngester(room.env)
    await room.network.relay.play(recorded)
    await room.caughtUp()
    const made = (await room.events()).flatMap((event) => {
      if (!('collection' in event)) return []
      const { type: operation, did, rev, collection, rkey } = event
      const put = event.type === 'delete' ? {} : { record: event.record, cid: event.cid }
      return [{ did, commit: { rev, operation, collection, rkey, ...put } }]
    })
    const expected = sharedJsonLines<(typeof made)[number]>(
      `${corpus}/expected_jetstream_v1.jsonl`,
    ).map(({ did, commit }) => ({ did, commit }))
    expect(sorted(made)).toEqual(sorted(expected))
    expect(await ingester.metric('ingester_commits_verified_total', { proof: 'proven' })).toBe(100)
    expect(await ingester.metric('ingester_refused_total')).toBe(0)
  })

  test('come in the order of their positions within each repo, whichever identity is found first', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await using _ = startIngester(room.env)
    await room.network.relay.play(recorded)
    await room.caughtUp()
    const byRepo = Object.groupBy(await room.events(), ({ did }) => did)
    for (const events of Object.values(byRepo)) {
      const positions = (events ?? []).map(({ seq }) => seq)
      expect(positions).toEqual(positions.toSorted((a, b) => a - b))
    }
  })

  test('a restart resumes after what is durable, and repeats nothing', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    {
      await using _ = startIngester(room.env)
      await room.network.relay.play(recorded.slice(0, 40))
      await room.caughtUp()
    }
    const before = await room.events()
    await using ingester = startIngester(room.env)
    await room.network.relay.play(recorded.slice(40))
    await room.caughtUp()
    const after = await room.events()
    expect(after.slice(0, before.length)).toEqual(before)
    expect(after).toHaveLength(102)
    expect(await ingester.metric('ingester_duplicate_frames_total')).toBe(1)
  })

  test('only collections in scope are appended, the others are counted', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await using ingester = startIngester({
      ...room.env,
      INGESTER_COLLECTIONS: 'app.bsky.graph.*,app.bsky.feed.repost',
    })
    await room.network.relay.play(recorded)
    await room.caughtUp()
    const collections = (await room.events()).map((event) =>
      'collection' in event ? event.collection : '',
    )
    expect(collections.every((name) => /^app\.bsky\.(graph\.|feed\.repost$)/.test(name))).toBe(true)
    const filtered = await ingester.metric('ingester_firehose_filtered_operations_total')
    expect(filtered + collections.length).toBe(102)
  })
})

describe('what is refused', () => {
  test('a commit that another key signed, after its identity was asked for once more', async () => {
    await using room = await aRoom()
    const [first, second] = corpusDocuments()
    if (first === undefined || second === undefined) throw new Error('no documents')
    serveCorpus(room.network)
    const key = second.verificationMethod?.map((method) => ({
      ...method,
      id: `${first.id}#atproto`,
      controller: first.id,
    }))
    room.network.plc.serve({ ...first, ...(key && { verificationMethod: key }) })
    await using ingester = startIngester(room.env)
    await room.network.relay.play(recorded)
    await room.caughtUp()
    const refused = { kind: 'commit', reason: 'signature' }
    expect(await ingester.metric('ingester_refused_total', refused)).toBe(1)
    expect(await ingester.metric('ingester_identity_refreshes_total')).toBe(1)
    expect((await room.events()).some(({ did }) => did === first.id)).toBe(false)
  })

  test('a commit of an account that nobody knows', async () => {
    await using room = await aRoom()
    const [unknown, ...others] = corpusDocuments()
    for (const document of others) room.network.plc.serve(document)
    await using ingester = startIngester(room.env)
    await room.network.relay.play(recorded)
    await room.caughtUp()
    const refused = { kind: 'commit', reason: 'identity' }
    expect(await ingester.metric('ingester_refused_total', refused)).toBe(1)
    expect((await room.events()).some(({ did }) => did === unknown?.id)).toBe(false)
  })

  test('a key that was changed is found by the commits after the change', async () => {
    await using room = await aRoom()
    const account = await room.network.account()
    await using ingester = startIngester(room.env)
    await account.create('app.bsky.feed.post', aPost('before'))
    await room.caughtUp()
    await room.network.changeIdentity(account.did, { curve: 'p256' })
    for (let index = 0; index < 20; index++) {
      await account.create('app.bsky.feed.post', aPost(`after ${index}`))
    }
    await room.caughtUp()
    expect(await ingester.metric('ingester_refused_total')).toBe(0)
    const posts = (await room.events()).filter(({ type }) => type === 'create')
    expect(posts).toHaveLength(21)
  })

  test.each([
    ['account_lifecycle', 0],
    ['deactivation', 0],
    ['post_lifecycle', 0],
    ['seq_ordering', 2],
  ])('of the relay scenario %s the %i frames that must be dropped', async (name, drops) => {
    await using room = await aRoom()
    const { accounts, messages } = sharedJson<Scenario>(
      `firehose/indigo-relay-scenarios/${name}.json`,
    )
    for (const { identity } of accounts) room.network.plc.serve(documentOf(identity))
    await using ingester = startIngester({ ...room.env, INGESTER_START: 'live' })
    await room.network.relay.subscribed()
    await room.network.relay.play(
      sharedFrames(`firehose/indigo-relay-scenarios/${name}.frames.bin`),
    )
    // A relay hands on no commit of an account that rests. To us it is a claim of the relay, unsigned:
    // it hides the account, and refuses nothing that the account has signed.
    const taken = messages.filter(({ drop }) => !drop || name === 'deactivation')
    const positions = taken.map(({ frame }) => frame.body.seq)
    await expect.poll(room.cursor, patience).toBe(String(Math.max(...positions)))
    expect(await ingester.metric('ingester_refused_total')).toBe(drops)
    const expected = taken
      .filter(({ frame }) => frame.header.t !== '#sync')
      .flatMap(({ frame }) => (frame.body.ops ?? [null]).map(() => frame.body.seq))
    expect((await room.events()).map(({ seq }) => seq)).toEqual(expected)
  })
})

describe('an identity that is not known yet', () => {
  test('holds neither the entries of other repos nor, once it is given up, the position', async () => {
    await using room = await aRoom()
    const { network } = room
    const slow = await network.account()
    const fast = await network.account()
    const hang = network.plc.fault({ did: slow.did }, { kind: 'hang' })
    await using ingester = startIngester(room.env)
    await slow.create('app.bsky.feed.post', aPost('late'))
    const before = Number(network.relay.lastSeq)
    for (let number = 0; number < 10; number += 1) {
      await fast.create('app.bsky.feed.post', aPost(`number ${number}`))
    }
    const made = async (did: string) =>
      (await room.events()).filter((event) => event.type === 'create' && event.did === did).length
    await expect.poll(() => made(fast.did), patience).toBe(10)
    expect(hang.fired).toBeGreaterThan(0)
    expect(await made(slow.did)).toBe(0)
    expect(Number(await room.cursor())).toBeLessThan(before)
    await room.caughtUp()
    expect(await made(slow.did)).toBe(1)
    expect(await ingester.metric('ingester_commits_unverified_total')).toBeGreaterThan(0)
    expect(await room.redis.hkeys('ingester:unproved')).toEqual([slow.did])
  })
})

test('behind a directory that allows little all goes through, and is proved later', async () => {
  await using room = await aRoom()
  serveCorpus(room.network)
  room.network.plc.allow(10)
  await using ingester = startIngester(room.env)
  await room.network.relay.play(recorded)
  await room.caughtUp()
  expect(new Set((await room.events()).map(({ seq }) => seq)).size).toBe(100)
  const passed = await ingester.metric('ingester_commits_unverified_total')
  const verified = await ingester.metric('ingester_commits_verified_total')
  expect([passed > 0, passed + verified]).toEqual([true, 100])
  const marked = (await room.redis.xrange('firehose_live', '-', '+')).filter(([, [, json = '']]) =>
    json.endsWith(',"verified":false}'),
  )
  expect(marked.length).toBeGreaterThanOrEqual(passed)
  const list = () => room.redis.hlen('ingester:unproved')
  await expect.poll(list, { timeout: 40_000, interval: 100 }).toBe(0)
  expect(await ingester.metric('ingester_late_proofs_total', { result: 'proved' })).toBe(passed)
})

describe('several relays', () => {
  test('say of an account once what they say alike, and a lying one costs it no commit', async () => {
    await using room = await testRoom(await startNetwork({ relays: [{}, {}] }))
    const { network } = room
    const account = await network.account()
    await using ingester = startIngester({
      ...room.env,
      INGESTER_RELAY_HOSTS: network.relays.map(({ url }) => url).join(),
    })
    const events = async (type: string) =>
      (await room.events()).filter((event) => event.type === type)
    await room.caughtUp()
    await expect
      .poll(() => ingester.metric('ingester_duplicate_frames_total'), patience)
      .toBeGreaterThan(0)
    const [, lying] = network.relays
    if (lying === undefined) throw new Error('no second relay')
    const time = new Date().toISOString()
    const body = {
      seq: lying.lastSeq + 1,
      did: account.did,
      time,
      active: false,
      status: 'takendown',
    }
    await lying.play([messageFrame('#account', body)])
    await expect.poll(async () => (await events('account')).length, patience).toBeGreaterThan(1)
    await account.create('app.bsky.feed.post', aPost('alive'))
    await expect.poll(async () => (await events('create')).length, patience).toBe(1)
    expect(await ingester.metric('ingester_refused_total')).toBe(0)
  })
})

describe('identities, accounts, syncs', () => {
  test('identities and accounts become events, with the status in lower case or null', async () => {
    await using room = await aRoom()
    const { did, handle } = await room.network.account()
    room.network.emitAccount(did, { active: false, status: 'Takendown' })
    room.network.emitAccount(did, { active: true })
    await using _ = startIngester(room.env)
    await room.caughtUp()
    const events = await room.events()
    expect(events.filter(({ type }) => type === 'identity')).toMatchObject([{ did, handle }])
    expect(events.filter(({ type }) => type === 'account')).toMatchObject([
      { active: true, status: null },
      { active: false, status: 'takendown' },
      { active: true, status: null },
    ])
  })

  test('a sync is proved and counted', async () => {
    await using room = await aRoom()
    const { did } = await room.network.account()
    await room.network.emitSync(did)
    await using ingester = startIngester(room.env)
    await room.caughtUp()
    expect(await ingester.metric('ingester_sync_frames_total', { result: 'signed' })).toBe(2)
  })
})

describe('connections', () => {
  test('a relay that can not be reached is told in words within 10 s, and followed when it is there', async () => {
    const port = await freePort()
    await using before = await aRoom()
    const env = { ...before.env, INGESTER_RELAY_HOSTS: `ws://127.0.0.1:${port}` }
    await using ingester = startIngester(env)
    const warning = () => ingester.log.find(({ msg }) => msg.includes('can not be reached'))
    await expect.poll(warning, { timeout: 10_000 }).toMatchObject({ level: 'warn' })
    expect(Object.keys(ingester.problems())).toContain(`firehose_live 127.0.0.1:${port}`)
    await using room = await aRoom({ relay: { port } })
    await room.network.account()
    const there = () => before.redis.get(`firehose_live:cursor:127.0.0.1:${port}`)
    await expect.poll(there, patience).toBe(String(room.network.relay.lastSeq))
    await expect.poll(ingester.problems, patience).toEqual({})
    const warnings = ingester.log.filter(({ msg }) => msg.includes('can not be reached'))
    expect(warnings).toHaveLength(1)
  })

  test('a cut connection loses nothing and repeats nothing', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await using _ = startIngester(room.env)
    for (const [index, frame] of recorded.entries()) {
      await room.network.relay.play([frame])
      if (index % 40 === 20) room.network.relay.disconnect()
    }
    await room.caughtUp()
    expect(await room.events()).toHaveLength(102)
  })

  test('a position ahead of the relay is an alarm: it waits, and the position stays', async () => {
    await using room = await aRoom()
    await room.network.account()
    const key = `firehose_live:cursor:${room.network.relay.host}`
    await room.redis.set(key, '900000')
    await using ingester = startIngester(room.env)
    const future = () => ingester.metric('ingester_future_cursors_total')
    await expect.poll(future, patience).toBe(1)
    expect(ingester.log.some(({ level }) => level === 'error')).toBe(true)
    expect(ingester.problems()).not.toEqual({})
    expect(await room.cursor()).toBe('900000')
    expect(await room.redis.exists('firehose_live')).toBe(0)
  })

  test('a position far below ours is refused, not stored', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await using ingester = startIngester(room.env)
    await room.network.relay.play(recorded.slice(0, 10))
    await room.caughtUp()
    const before = await room.cursor()
    const did = corpusDocuments()[0]?.id ?? ''
    await room.network.relay.play([
      messageFrame('#account', { seq: 1, time: '2026-07-04T14:38:07.517Z', did, active: false }),
    ])
    const refused = () => ingester.metric('ingester_refused_total')
    await expect.poll(refused, patience).toBe(1)

    expect(await room.cursor()).toBe(before)
  })

  test('a position that the relay no longer has is counted and told', async () => {
    await using room = await aRoom({ relay: { firstSeq: 1_000 } })
    await room.network.account()
    await room.redis.set(`firehose_live:cursor:${room.network.relay.host}`, '10')
    await using ingester = startIngester(room.env)
    await room.caughtUp()
    expect(await ingester.metric('ingester_outdated_cursors_total')).toBe(1)
  })

  test('the positions that older workers stored are resumed from, and kept for a rollback', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await room.network.relay.play(recorded)
    const raw = `firehose_live:cursor:${room.network.relay.url}`
    const half = room.network.relay.lastSeq - 50
    await room.redis.set(raw, String(half))
    await using _ = startIngester(room.env)
    await room.caughtUp()
    expect(Math.min(...(await room.events()).map(({ seq }) => seq))).toBeGreaterThan(half)
    expect(await room.redis.get(raw)).toBe(String(room.network.relay.lastSeq))
  })
})

describe('frames that break decoding', () => {
  const garbage = Buffer.from('not a frame')

  test('three times at one position are set aside with their bytes, and reading goes on after them', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await using ingester = startIngester(room.env)
    await room.network.relay.play([
      ...recorded.slice(0, 50),
      garbage,
      encodeCbor({ op: 1, t: '#commit' }),
      ...recorded.slice(50),
    ])
    await room.caughtUp()
    expect(await room.events()).toHaveLength(102)
    const dead = await room.redis.xrange('firehose_live_dlq', '-', '+')
    const fields = dead.map(([, list]) => fieldsOf(list))
    expect(fields).toMatchObject([
      { reason: 'frame', attempts: '3', frame: garbage.toString('base64'), bytes: '11' },
      { reason: 'frame', attempts: '3', stream: 'firehose_live' },
    ])
    expect(fields[0]?.['after']).toBe(String((await room.events())[49]?.seq))
    expect(await ingester.metric('ingester_dead_frames_total')).toBe(2)
    expect(ingester.log.filter(({ level }) => level === 'error')).toHaveLength(2)
  })

  test('unknown kinds, and known ones with wrong fields, are counted and lose no other', async () => {
    await using room = await aRoom()
    const { did } = await room.network.account()
    await using ingester = startIngester(room.env)
    const { lastSeq } = room.network.relay
    const time = '2026-07-04T14:38:07.517Z'
    await room.network.relay.play([
      messageFrame('#tombstone', { seq: lastSeq + 1, did, time }),
      messageFrame('#account', { seq: lastSeq + 2, did, time, active: 'yes' }),
      messageFrame('#account', { seq: lastSeq + 3, did, time, active: true }),
    ])
    await room.caughtUp()
    expect(await ingester.metric('ingester_frames_total', { kind: 'unknown' })).toBe(1)
    const malformed = { kind: 'account', reason: 'active' }
    expect(await ingester.metric('ingester_refused_total', malformed)).toBe(1)
    expect((await room.events()).at(-1)).toMatchObject({ type: 'account', seq: lastSeq + 3 })
  })
})

describe('a Redis that has gone back', () => {
  test('is noticed, and what it lost is read and appended again', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await using ingester = startIngester(room.env)
    await room.network.relay.play(recorded.slice(0, 99))
    await room.caughtUp()
    await room.redis.flushdb()
    await room.network.relay.play(recorded.slice(99))
    await room.caughtUp()
    expect(await room.events()).toHaveLength(102)
    expect(await ingester.metric('ingester_stream_rewound_total')).toBe(1)
  })

  test('has a commit read again from before its account rested, though the rest is known', async () => {
    await using room = await aRoom()
    const { network, redis } = room
    const { relay } = network
    const account = await network.account()
    const before = relay.lastSeq
    const post = { text: 'hello', createdAt: '2026-01-01T00:00:00.000Z' }
    await account.create('app.bsky.feed.post', post)
    network.emitAccount(account.did, { active: false, status: 'deactivated' })
    await using ingester = startIngester(room.env)
    await room.caughtUp()
    await redis.del('firehose_live')
    await redis.set(`firehose_live:cursor:${relay.host}`, String(before))
    network.emitIdentity(account.did)
    await room.caughtUp()
    const types = (await room.events()).map(({ type }) => type)
    expect(types).toEqual(['create', 'account', 'identity'])
    expect(await ingester.metric('ingester_refused_total')).toBe(0)
  })
})

describe('a stop', () => {
  test('while Redis is away is no failure', async () => {
    await using room = await aRoom()
    const env = { ...room.env, REDIS_URL: `redis://127.0.0.1:${await freePort()}` }
    const ingester = startIngester({ ...env, INGESTER_MODE: 'all' })
    await expect.poll(() => ingester.log.some(({ msg }) => msg === 'redis is away')).toBe(true)
    await ingester.stop()
  })

  test('at the high-water mark leaves the position where the entries are', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await room.redis.xgroup('CREATE', 'firehose_live', 'firehose_group', '0', 'MKSTREAM')
    const ingester = startIngester({
      ...room.env,
      INGESTER_HIGH_WATER_MARK: '20',
      INGESTER_BATCH_SIZE: '10',
    })
    await room.network.relay.play(recorded)
    const waiting = () => ingester.metric('ingester_stream_producer_waiting')
    await expect.poll(waiting, patience).toBe(1)
    await ingester.stop()
    expect(await missingBefore(room)).toEqual([])
  })
})

test('positions are marked beside the entries, for the indexers to store', async () => {
  await using room = await aRoom()
  await room.network.account()
  await using _ = startIngester(room.env)
  await room.caughtUp()
  const marks = () => room.redis.xrange('firehose_live:marks', '-', '+')
  const { host, lastSeq } = room.network.relay
  await expect.poll(async () => (await marks()).at(-1)?.[1], patience).toEqual([host, `${lastSeq}`])
})

describe('back-pressure', () => {
  test('at the high-water mark nothing is dropped: the position stays behind until there is room', async () => {
    await using room = await aRoom()
    serveCorpus(room.network)
    await room.redis.xgroup('CREATE', 'firehose_live', 'firehose_group', '0', 'MKSTREAM')
    const env = { ...room.env, INGESTER_HIGH_WATER_MARK: '20', INGESTER_BATCH_SIZE: '10' }
    await using ingester = startIngester(env)
    await room.network.relay.play(recorded)
    const waiting = () => ingester.metric('ingester_stream_producer_waiting')
    await expect.poll(waiting, patience).toBe(1)
    const held = await room.events()
    expect(held.length).toBeLessThan(40)
    expect(await missingBefore(room)).toEqual([])
    await acknowledgeEverything(room.redis, 102)
    await room.caughtUp()
    expect(await room.redis.xinfo('STREAM', 'firehose_live')).toContain('entries-added')
    expect(await ingester.metric('ingester_stream_events_total')).toBe(102)
  })
})

/** Positions of recorded frames that the stored position covers, and that no event has. */
async function missingBefore(room: Awaited<ReturnType<typeof aRoom>>): Promise<number[]> {
  const cursor = Number(await room.cursor())
  const held = new Set((await room.events()).map(({ seq }) => seq))
  const sent = recorded.map((frame) => seqOf(decodeFrame(frame)))
  expect(sent.some((seq) => seq > cursor)).toBe(true)
  return sent.filter((seq) => seq <= cursor && !held.has(seq))
}

function seqOf(message: Message): number {
  return 'seq' in message ? (message.seq ?? 0) : 0
}

/** Reads as a consumer does until so many entries have been acknowledged. */
async function acknowledgeEverything(
  redis: Awaited<ReturnType<typeof aRoom>>['redis'],
  count: number,
): Promise<void> {
  const source = ['STREAMS', 'firehose_live', '>'] as const
  for (let done = 0; done < count; ) {
    const reply = await redis.xreadgroup('GROUP', 'firehose_group', 'c', 'COUNT', 50, ...source)
    const entries = (reply as [string, [string, string[]][]][] | null)?.[0]?.[1] ?? []
    const ids = entries.map(([id]) => id)
    if (ids.length > 0) await redis.xack('firehose_live', 'firehose_group', ...ids)
    done += ids.length
  }
}

interface Scenario {
  accounts: { identity: ScenarioIdentity }[]
  messages: {
    frame: { header: { t: string }; body: { seq: number; ops?: unknown[] } }
    drop: boolean
  }[]
}

interface ScenarioIdentity {
  did: string
  keys: { atproto: { type: string; publicKeyMultibase: string } }
}

function documentOf({ did, keys }: ScenarioIdentity) {
  const method = { id: `${did}#atproto`, controller: did, ...keys.atproto }
  return { id: did, alsoKnownAs: [], verificationMethod: [method], service: [] }
}

function sorted<T extends { did: string; commit: IpldLike }>(list: readonly T[]): T[] {
  const key = ({ did, commit: { rev, collection, rkey } }: T) =>
    [did, rev, collection, rkey].join(' ')
  return list.toSorted((a, b) => (key(a) < key(b) ? -1 : 1))
}

type IpldLike = { rev: string; collection: string; rkey: string }

function aPost(text: string) {
  return { $type: 'app.bsky.feed.post', text, createdAt: '2026-01-01T00:00:00.000Z' }
}

function fieldsOf(list: readonly string[]): Record<string, string> {
  const pairs: [string, string][] = []
  for (let index = 0; index < list.length; index += 2) {
    pairs.push([list[index] ?? '', list[index + 1] ?? ''])
  }
  return Object.fromEntries(pairs)
}
