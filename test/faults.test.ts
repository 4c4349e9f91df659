/**
 * A living network whose hosts misbehave, through the real workers: the rows come out as if they had not.
 *
 * What one relay tells wrongly, drops or tells too late is lost until a resync is made of such gaps.
 * So with one relay the faults are those that reading again heals; of a #sync, which becomes no
 * entry, the order may be wrong. With two relays one may lie: what it keeps back the other tells.
 */
import { afterEach, expect, test, vi } from 'vitest'
import { createWorld, type WorldOptions } from '../simulator/living.ts'
import type { NetworkOptions } from '../simulator/network.ts'
import { expectFired, type Fault } from '../simulator/switches.ts'
import { eventually, type Pipeline, startPipeline } from './pipeline.ts'

vi.setConfig({ testTimeout: 90_000 })
const everything = {
  INDEXER_COLLECTIONS: '*',
  INGESTER_COLLECTIONS: '*',
  BACKFILLER_COLLECTIONS: '*',
  // A key that can't be had is waited for: nothing passes unverified.
  INGESTER_VERIFY_UNAVAILABLE: 'wait',
  BACKFILLER_RETRY_INITIAL_BACKOFF_MS: '50',
  BACKFILLER_RETRY_MAX_BACKOFF_MS: '200',
  BACKFILLER_MAX_RETRIES: '8',
}
const getRepo = 'com.atproto.sync.getRepo'
const subscribeRepos = 'com.atproto.sync.subscribeRepos'

let pipeline: Pipeline
afterEach(async () => {
  await pipeline[Symbol.asyncDispose]()
})

test('faults of a relay, the directory and the hosts change no row when reading again heals them', async () => {
  const world = await living({ seed: 'faults', pds: 2 })
  const { network } = pipeline
  await world.populate({ accounts: 24, older: 12, history: 25 })
  const doomed = await network.account({ quiet: true, handle: 'doomed.test' })
  await doomed.create('app.bsky.feed.post', { text: 'lost', createdAt: network.clock.iso() })
  const faults = [...relayFaults(), ...directoryFaults(), ...hostFaults(doomed.did)]
  const ingester = await startAll('all')

  await world.live({ rate: 40, commits: 230, signal: AbortSignal.timeout(60_000) })
  await caughtUp()

  expectFired(...faults)
  await expectRows(doomed.did)
  await nothingIsPending()
  expect(await ingester.metric('ingester_dead_frames_total')).toBe(0)
  expect(await deadLetters()).toEqual({ repo_backfill_dlq: [[doomed.did, 'signature']] })
})

test('a relay that drops, forges, turns around and repeats changes no row while another tells the truth', async () => {
  const relays = [{}, { lagMs: 150 }] as const
  const world = await living({ seed: 'lies', pds: 2, relays })
  await world.populate({ accounts: 30, older: 0, history: 0 })
  const faults = lyingRelay()
  const ingester = await startAll('firehose')

  await world.live({ rate: 50, commits: 150, signal: AbortSignal.timeout(60_000) })
  await caughtUp()

  expectFired(...faults)
  await expectRows()
  await nothingIsPending()
  expect(await ingester.metric('ingester_refused_total')).toBeGreaterThan(5)
  expect(await deadLetters()).toEqual({})
})

/** A pipeline on a new network, and what lives in it. */
async function living(options: NetworkOptions) {
  pipeline = await startPipeline(options)
  // A commit is verified with its account's present key: before that changes, what it signed is read.
  const beforeChange: WorldOptions['beforeChange'] = async () => caughtUp()
  return createWorld(pipeline.network, { beforeChange })
}

async function startAll(mode: string) {
  const relays = pipeline.network.relays.map(({ url }) => url).join(',')
  const env = { ...everything, INGESTER_MODE: mode, INGESTER_RELAY_HOSTS: relays }
  const ingester = await pipeline.start('ingester', env)
  await pipeline.start('indexer', everything)
  await pipeline.start('backfiller', everything)
  return ingester
}

/** Each ends the connection, or sends what is refused without being needed. */
function relayFaults(): Fault[] {
  const { relay } = pipeline.network
  const { frameFault } = relay
  return [
    relay.fault({ method: subscribeRepos }, { kind: 'status', status: 503 }, 1),
    frameFault({ type: '#commit' }, { kind: 'disconnect' }, { times: 2, chance: 0.02 }),
    frameFault({ type: '#commit' }, { kind: 'corrupt', atByte: 0 }, { times: 1, after: 60 }),
    frameFault({ type: '#commit' }, { kind: 'truncate', atByte: 40 }, { times: 1, after: 120 }),
    frameFault({ type: '#commit' }, { kind: 'oversize' }, { times: 1, after: 160 }),
    frameFault({ type: '#sync' }, { kind: 'reorder' }, { times: 3 }),
    frameFault({}, { kind: 'duplicate' }, { chance: 0.1 }),
    frameFault({}, { kind: 'silence', ms: 600 }, { times: 2, chance: 0.05 }),
    frameFault({}, { kind: 'delay', ms: 100 }, { times: 5, chance: 0.05 }),
    frameFault({}, { kind: 'slow', bytesPerSecond: 20_000 }, { times: 3, chance: 0.05 }),
  ]
}

function directoryFaults(): Fault[] {
  const { plc, handleResolver } = pipeline.network
  return [
    plc.fault({}, { kind: 'status', status: 429 }, { chance: 0.1 }),
    plc.fault({}, { kind: 'status', status: 502 }, { chance: 0.1 }),
    plc.fault({}, { kind: 'drop' }, { chance: 0.05 }),
    handleResolver.fault({}, { kind: 'status', status: 503 }, { chance: 0.1 }),
  ]
}

function hostFaults(doomed: string): Fault[] {
  const [first, second] = pipeline.network.pds
  return [
    first.fault({ did: doomed, method: getRepo }, { kind: 'lie', about: 'signature' }),
    first.fault({ method: getRepo }, { kind: 'status', status: 503 }, { chance: 0.3 }),
    first.fault({ method: getRepo }, { kind: 'truncate' }, { chance: 0.3 }),
    first.fault({ method: getRepo }, { kind: 'duplicate' }, { chance: 0.5 }),
    ...(second === undefined
      ? []
      : [
          second.fault({ method: getRepo }, { kind: 'truncate', clean: true }, { chance: 0.3 }),
          second.fault({ method: getRepo }, { kind: 'drop' }, { chance: 0.3 }),
          second.fault({ method: getRepo }, { kind: 'reorder' }, { chance: 0.5 }),
        ]),
  ]
}

function lyingRelay(): Fault[] {
  const { frameFault } = pipeline.network.relay
  const commits = { type: '#commit' }
  const often = { chance: 0.08, always: true }
  return [
    frameFault(commits, { kind: 'drop' }, often),
    frameFault(commits, { kind: 'lie', about: 'signature' }, often),
    frameFault(commits, { kind: 'lie', about: 'cid' }, often),
    frameFault(commits, { kind: 'lie', about: 'rev' }, often),
    frameFault(commits, { kind: 'reorder' }, { chance: 0.05 }),
    frameFault({}, { kind: 'duplicate' }, often),
    frameFault({}, { kind: 'corrupt' }, { times: 3, chance: 0.05 }),
  ]
}

/** Resolves when all that was told and asked for has been applied. */
async function caughtUp(): Promise<void> {
  const { network, redis } = pipeline
  // Of several relays the last one tells everything in order, and last.
  const relay = network.relays.at(-1) ?? network.relay
  await relay.caughtUp()
  const cursor = () => redis.get(`firehose_live:cursor:${relay.host}`)
  await eventually(cursor, String(relay.lastSeq))
  // Who heard a later commit before the one that a relay kept back has the repo read whole.
  await eventually(() => redis.hlen('ingester:resyncs'), 0)
  await pipeline.drained('repo_backfill', 'repo_backfill_group')
  if (await redis.exists('firehose_backfill')) {
    await pipeline.drained('firehose_backfill', 'firehose_group')
  }
  await pipeline.drained('firehose_live', 'firehose_group')
}

/** Of deleted accounts the rows are not looked at: that they go is another matter. */
async function expectRows(doomed?: string): Promise<void> {
  const { network, sql } = pipeline
  const deleted = new Set(
    [...network.states().values()].flatMap(({ did, status }) => (status === 'deleted' ? did : [])),
  )
  const rows = await sql<{ uri: string; cid: string }[]>`select uri, cid from record`
  const found = rows
    .filter(({ uri }) => !deleted.has(uri.split('/')[2] ?? ''))
    .map(({ uri, cid }) => `${uri} ${cid}`)
  const expected = [...network.records()]
    .filter(([, { did }]) => did !== doomed)
    .map(([uri, { cid }]) => `${uri} ${cid}`)
  expect(found.sort()).toEqual(expected.sort())
  expect(found.length).toBeGreaterThan(150)
}

async function nothingIsPending(): Promise<void> {
  const groups = { firehose_live: 'firehose_group', repo_backfill: 'repo_backfill_group' }
  for (const [stream, group] of Object.entries(groups)) {
    expect(await pipeline.left(stream, group)).toBe(0)
  }
}

/** DID and reason of each dead letter, by stream. */
async function deadLetters(): Promise<Record<string, string[][]>> {
  const found: Record<string, string[][]> = {}
  for (const stream of await pipeline.redis.keys('*_dlq')) {
    found[stream] = (await pipeline.redis.xrange(stream, '-', '+')).map(([, fields]) => {
      const field = (name: string) => fields[fields.indexOf(name) + 1] ?? ''
      return [(JSON.parse(field('repo')) as { did: string }).did, field('reason')]
    })
  }
  return found
}
