import { Registry } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { decodeEvent } from '../shared/events.ts'
import { createIdentity, type Identity } from '../shared/identity.ts'
import { createLog } from '../shared/log.ts'
import type { WholeRepo } from '../shared/streams/resyncs.ts'
import { startNetwork } from '../simulator/network.ts'
import { freePort } from '../start/process.ts'
import { corpusDocuments } from '../test/corpus.ts'
import { sharedFrames } from '../test/data.ts'
import { testRedis } from '../test/servers/redis.ts'
import { createDeadLetters } from './dead-letter.ts'
import { decodeFrame, type Message } from './frame.ts'
import { createKeys } from './keys.ts'
import { createMetrics, type IngesterMetrics } from './metrics.ts'
import { prove } from './prove.ts'
import { ProverError } from './prover.ts'
import { createUnproved } from './unproved.ts'
import { createVerifier, type VerifierOptions } from './verify.ts'

const messages = sharedFrames('firehose/jetstream-corpus/frames.bin').map(decodeFrame)

function anIdentity(plcUrl: string) {
  const identity = createIdentity({
    plcUrl,
    allowPrivateHosts: true,
    timeoutMs: 1_000,
    maxEntries: 1_000,
    ttlMs: 60_000,
  })
  return { ...identity, [Symbol.dispose]: () => identity.close() }
}

/** A verifier that asks a directory at this place, or this one. */
async function aVerifier(
  plcUrl: string,
  {
    resolve,
    most = 1_000,
    ...more
  }: Partial<VerifierOptions> & { resolve?: Identity['resolve']; most?: number } = {},
  stopping = new AbortController(),
) {
  const resources = new AsyncDisposableStack()
  const identity = resources.use(anIdentity(plcUrl))
  const { redis } = resources.use(await testRedis())
  const metrics = createMetrics(new Registry())
  const common = { redis, signal: stopping.signal, log: createLog('ingester', 'silent'), metrics }
  const aKeys = () =>
    createKeys({ ...common, identity: { resolve: resolve ?? identity.resolve }, cached: 1_000 })
  const keys = aKeys()
  const deadLetters = createDeadLetters({ ...common, stream: 'firehose_live', maxLength: 100 })
  const wanted: WholeRepo[] = []
  const unproved = createUnproved({
    ...common,
    keys,
    deadLetters,
    resync: async (repo) => wanted.push(repo) > 0,
    roundMs: 10,
    most,
  })
  const base = { ...common, keys, unproved, mode: 'full', unavailable: 'pass' } as const
  const settings = Object.assign({ ...base, scope: () => true, keyWithinMs: 100 }, more)
  const translate = createVerifier(settings)
  let proving = Promise.resolve()
  resources.defer(async () => {
    stopping.abort()
    await proving.catch(() => {})
  })
  return {
    translate: async (message: Message) => (await translate(message)).entries,
    /** A verifier that remembers nothing, on the same Redis. */
    restart: () => createVerifier({ ...settings, keys: aKeys() }),
    keys,
    unproved,
    metrics,
    redis,
    wanted,
    /** Begins to prove what was let through. */
    prove: () => {
      proving = unproved.run()
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

async function deadUrl(): Promise<string> {
  return `http://127.0.0.1:${await freePort()}`
}

async function totalOf(counter: { get(): Promise<{ values: { value: number }[] }> }) {
  return (await counter.get()).values.reduce((sum, { value }) => sum + value, 0)
}

test('commits whose key can not be had in time pass, and are counted', async () => {
  await using verifier = await aVerifier(await deadUrl())
  const entries = await Promise.all(messages.map(verifier.translate))
  expect(entries.flat()).toHaveLength(102)
  expect(await totalOf(verifier.metrics.unverified)).toBe(100)
  expect(await totalOf(verifier.metrics.unavailable)).toBe(100)
})

test.each(['pass', 'wait'] as const)(
  'at the stop a commit whose key is not there yet is neither passed nor refused (%s)',
  async (unavailable) => {
    const stopping = new AbortController()
    const options = { unavailable, keyWithinMs: 60_000 }
    await using verifier = await aVerifier(await deadUrl(), options, stopping)
    const results = Promise.allSettled(messages.slice(0, 3).map(verifier.translate))
    stopping.abort()
    expect((await results).map(({ status }) => status)).toEqual(Array(3).fill('rejected'))
    expect(await totalOf(verifier.metrics.refused)).toBe(0)
    expect(await totalOf(verifier.metrics.unverified)).toBe(0)
  },
)

test('or they wait, if so configured, until the directory is back', async () => {
  await using network = await startNetwork()
  for (const document of corpusDocuments()) network.plc.serve(document)
  using away = anIdentity(await deadUrl())
  using back = anIdentity(network.plc.url)
  let identity = away
  await using verifier = await aVerifier(network.plc.url, {
    unavailable: 'wait',
    resolve: (did, options) => identity.resolve(did, options),
  })
  let ended = 0
  const results = messages.map(async (message) => {
    const entries = await verifier.translate(message)
    ended += 1
    return entries
  })
  await expect.poll(() => totalOf(verifier.metrics.unavailable)).toBe(100)
  expect(ended).toBe(0)
  identity = back
  expect((await Promise.all(results)).flat()).toHaveLength(102)
  expect(await totalOf(verifier.metrics.verified)).toBe(100)
})

test('a burst of commits after a change of keys is judged by the new one', async () => {
  await using network = await startNetwork()
  for (const document of corpusDocuments()) network.plc.serve(document)
  using truth = anIdentity(network.plc.url)
  const commit = messages.find((message) => message.type === 'commit')
  if (commit === undefined) throw new Error('no commit was recorded')
  const other = messages.find((message) => message.type === 'commit' && message.did !== commit.did)
  const old = other?.type === 'commit' ? other.did : ''
  let changed = false
  await using verifier = await aVerifier(network.plc.url, {
    keyWithinMs: 5_000,
    resolve: async (did, options) => truth.resolve(changed ? did : old, options),
  })
  await verifier.keys.find(commit.did, Date.now() + 5_000)
  changed = true
  const burst = Array.from({ length: 20 }, () => verifier.translate(commit))
  expect((await Promise.all(burst)).flat()).toHaveLength(20)
  expect(await totalOf(verifier.metrics.refreshes)).toBe(1)
})

test('without verification no identity is asked for', async () => {
  await using verifier = await aVerifier(await deadUrl(), { mode: 'none' })
  const entries = await Promise.all(messages.map(verifier.translate))
  expect(entries.flat()).toHaveLength(102)
  expect(await totalOf(verifier.metrics.unavailable)).toBe(0)
})

test('what nobody foresaw in one message refuses that message, counted as a bug', async () => {
  await using verifier = await aVerifier(await deadUrl(), {
    mode: 'none',
    scope: (collection) => {
      if (collection === 'app.bsky.feed.repost') throw new TypeError('unforeseen')
      return true
    },
  })
  const entries = await Promise.all(messages.map(verifier.translate))
  expect(entries.flat().length).toBeGreaterThan(80)
  const { values } = await verifier.metrics.refused.get()
  expect(values.find(({ labels }) => labels.reason === 'bug')?.value).toBe(12)
})

test('a thread that died refuses no message: it ends the translation', async () => {
  const died = new ProverError('died')
  await using verifier = await aVerifier(await deadUrl(), {
    mode: 'none',
    prover: { prove: () => Promise.reject(died) },
  })
  const [commit] = messages.filter((message) => message.type === 'commit')
  if (commit === undefined) throw new Error('no commit was recorded')
  await expect(verifier.translate(commit)).rejects.toBe(died)
  expect(await totalOf(verifier.metrics.refused)).toBe(0)
})

describe('what passed without its key', () => {
  /** A verifier whose directory is away until it is said to be back. */
  async function aVerifierInTheDark(options: { forged?: boolean } = {}) {
    const resources = new AsyncDisposableStack()
    const network = resources.use(await startNetwork())
    for (const document of corpusDocuments()) network.plc.serve(document)
    const away = resources.use(anIdentity(await deadUrl()))
    const back = resources.use(anIdentity(network.plc.url))
    let identity = away
    const commits = messages.filter((message) => message.type === 'commit')
    const stranger = commits.find(({ did }) => did !== commits[0]?.did)?.did ?? ''
    const verifier = resources.use(
      await aVerifier(network.plc.url, {
        resolve: (did, more) =>
          identity === back && options.forged
            ? back.resolve(stranger, more).then((account) => ({ ...account, did }))
            : identity.resolve(did, more),
      }),
    )
    return {
      verifier,
      commits,
      comeBack: () => {
        identity = back
      },
      list: () => verifier.redis.hgetall('ingester:unproved'),
      [Symbol.asyncDispose]: () => resources.disposeAsync(),
    }
  }

  async function lateProofs({ metrics }: { metrics: IngesterMetrics }) {
    const { values } = await metrics.proofs.get()
    return Object.fromEntries(values.map(({ labels, value }) => [labels['result'], value]))
  }

  test('beyond the room of the list passes all the same, and is counted', async () => {
    await using verifier = await aVerifier(await deadUrl(), { most: 10 })
    const entries = (await Promise.all(messages.map(verifier.translate))).flat()
    expect(entries).toHaveLength(102)
    const listed = await verifier.redis.hkeys('ingester:unproved')
    expect(listed).toHaveLength(10)
    const beyond = messages.filter((message) => 'did' in message && !listed.includes(message.did))
    expect(await lateProofs(verifier)).toEqual({ 'no-room': beyond.length })
  })

  test('says so in its events, and stands on a list until it is proved', async () => {
    await using dark = await aVerifierInTheDark()
    const { verifier, commits } = dark
    const entries = (await Promise.all(commits.slice(0, 20).map(verifier.translate))).flat()
    const events = entries.map(([, json]) => JSON.parse(String(json)))
    expect(events.length).toBeGreaterThan(19)
    expect(events.every(({ verified }) => verified === false)).toBe(true)
    expect(decodeEvent(entries[0]?.map(String) ?? [])).toMatchObject({ did: commits[0]?.did })
    expect(Object.keys(await dark.list()).sort()).toEqual(
      [...new Set(commits.slice(0, 20).map(({ did }) => did))].sort(),
    )
    verifier.prove()
    dark.comeBack()
    await expect.poll(dark.list, { timeout: 20_000 }).toEqual({})
    expect(await lateProofs(verifier)).toEqual({ proved: 20 })
    expect(verifier.wanted).toEqual([])
  })

  test('waits for its key without holding up the end', async () => {
    await using dark = await aVerifierInTheDark()
    const [commit] = dark.commits
    if (commit === undefined) throw new Error('no commit was recorded')
    await dark.verifier.translate(commit)
    const stop = new AbortController()
    const running = dark.verifier.unproved.run(stop.signal)
    const listed = async () => (await dark.verifier.metrics.unproved.get()).values[0]?.value
    await expect.poll(listed).toBe(1)
    stop.abort()
    await running
    expect(await dark.list()).toHaveProperty(commit.did)
  })

  test('and was not what its account signed is reported, and its repo read anew', async () => {
    await using dark = await aVerifierInTheDark({ forged: true })
    const { verifier, commits } = dark
    const [commit] = commits
    if (commit === undefined) throw new Error('no commit was recorded')
    await verifier.translate(commit)
    verifier.prove()
    dark.comeBack()
    await expect.poll(dark.list, { timeout: 20_000 }).toEqual({})
    expect(await lateProofs(verifier)).toEqual({ disproved: 1 })
    const [[, fields = []] = []] = await verifier.redis.xrange('firehose_live_dlq', '-', '+')
    expect(fields).toEqual(expect.arrayContaining(['reason', 'disproved', 'did', commit.did]))
    expect(verifier.wanted).toEqual([{ did: commit.did, rev: '2222222222222' }])
  })

  test('and does not hang together is read anew though its end is proved', async () => {
    await using dark = await aVerifierInTheDark()
    const { verifier, commits } = dark
    const [commit, other] = commits
    if (commit === undefined || other === undefined) throw new Error('no commit was recorded')
    const proved = await prove(commit, null, { mode: 'full', scope: () => true, now: Date.now() })
    await verifier.unproved.add(
      { ...commit, rev: '3aaaaaaaaaaaa' },
      { ...proved, data: other.commit },
      'passed',
    )
    await verifier.translate(commit)
    verifier.prove()
    dark.comeBack()
    await expect.poll(dark.list, { timeout: 20_000 }).toEqual({})
    expect(await lateProofs(verifier)).toEqual({ resync: 1 })
    expect(verifier.wanted).toEqual([{ did: commit.did, rev: commit.rev }])
  })
})

test('a key that is known from Redis is not asked for again, until its account may have another', async () => {
  await using network = await startNetwork()
  for (const document of corpusDocuments()) network.plc.serve(document)
  using truth = anIdentity(network.plc.url)
  const [commit] = messages.filter((message) => message.type === 'commit')
  if (commit === undefined) throw new Error('no commit was recorded')
  let asked = 0
  const resolve: Identity['resolve'] = (did, options) => {
    asked += 1
    return truth.resolve(did, options)
  }
  await using first = await aVerifier(network.plc.url, { resolve, keyWithinMs: 5_000 })
  await first.translate(commit)
  const stored = () => first.redis.keys('ingester:keys:*')
  await expect.poll(stored).toHaveLength(1)
  const restarted = first.restart()
  await restarted(commit)
  expect(asked).toBe(1)
  const { seq, time, did } = commit
  await restarted({ type: 'identity', seq, time, did, handle: null })
  await restarted(commit)
  expect(asked).toBe(2)
})
