import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { createIdentity } from '../shared/identity.ts'
import { createLog } from '../shared/log.ts'
import { sleep } from '../shared/retry.ts'
import { startNetwork } from '../simulator/network.ts'
import { freePort } from '../start/process.ts'
import { corpusDocuments } from '../test/corpus.ts'
import { sharedFrames } from '../test/data.ts'
import { decodeFrame, type Message } from './frame.ts'
import { createMetrics } from './metrics.ts'
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

/** A verifier that asks a directory at this place. */
function aVerifier(plcUrl: string, more: Partial<VerifierOptions> = {}) {
  const identity = anIdentity(plcUrl)
  const stopping = new AbortController()
  const metrics = createMetrics(new Registry())
  const translate = createVerifier({
    identity,
    mode: 'full',
    unavailable: 'pass',
    scope: () => true,
    signal: stopping.signal,
    log: createLog('ingester', 'silent'),
    metrics,
    keyWithinMs: 100,
    ...more,
  })
  return {
    translate: async (message: Message) => (await translate(message)).entries,
    metrics,
    [Symbol.dispose]() {
      stopping.abort()
      identity.close()
    },
  }
}

async function deadUrl(): Promise<string> {
  return `http://127.0.0.1:${await freePort()}`
}

async function totalOf(counter: { get(): Promise<{ values: { value: number }[] }> }) {
  return (await counter.get()).values.reduce((sum, { value }) => sum + value, 0)
}

test('commits whose key can not be had in time pass, and are counted', async () => {
  using verifier = aVerifier(await deadUrl())
  const entries = await Promise.all(messages.map(verifier.translate))
  expect(entries.flat()).toHaveLength(102)
  expect(await totalOf(verifier.metrics.unverified)).toBe(100)
  expect(await totalOf(verifier.metrics.unavailable)).toBe(100)
})

test.each(['pass', 'wait'] as const)(
  'at the stop a commit whose key is not there yet is neither passed nor refused (%s)',
  async (unavailable) => {
    const stopping = new AbortController()
    using verifier = aVerifier(await deadUrl(), {
      ...{ unavailable, signal: stopping.signal, keyWithinMs: 60_000 },
    })
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
  using verifier = aVerifier(network.plc.url, {
    unavailable: 'wait',
    identity: { resolve: (did, options) => identity.resolve(did, options) },
  })
  let ended = 0
  const results = messages.map(async (message) => {
    const entries = await verifier.translate(message)
    ended += 1
    return entries
  })
  await expect.poll(() => totalOf(verifier.metrics.unavailable)).toBeGreaterThan(100)
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
  using verifier = aVerifier(network.plc.url, {
    keyWithinMs: 5_000,
    identity: {
      async resolve(did, { refresh, signal }) {
        if (refresh) await sleep(50)
        changed ||= refresh
        return truth.resolve(changed ? did : old, { signal })
      },
    },
  })
  const burst = Array.from({ length: 20 }, () => verifier.translate(commit))
  expect((await Promise.all(burst)).flat()).toHaveLength(20)
  expect(await totalOf(verifier.metrics.refreshes)).toBe(1)
})

test('without verification no identity is asked for', async () => {
  using verifier = aVerifier(await deadUrl(), { mode: 'none' })
  const entries = await Promise.all(messages.map(verifier.translate))
  expect(entries.flat()).toHaveLength(102)
  expect(await totalOf(verifier.metrics.unavailable)).toBe(0)
})

test('what nobody foresaw in one message refuses that message, counted as a bug', async () => {
  using verifier = aVerifier(await deadUrl(), {
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

test.each([
  ['deactivated', 0],
  ['desynchronized', 1],
  ['throttled', 1],
])('a commit of an account that is %s gives %i entries', async (status, entries) => {
  using verifier = aVerifier(await deadUrl(), { mode: 'none' })
  const commit = messages.find((message) => message.type === 'commit')
  if (commit?.type !== 'commit') throw new Error('no commit was recorded')
  const { seq, time, did } = commit
  await verifier.translate({ type: 'account', seq: seq - 1, time, did, active: false, status })
  expect(await verifier.translate(commit)).toHaveLength(entries)
})
