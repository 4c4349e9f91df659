/**
 * The guide, played: a living network, older workers, and every phase forward, back, and forward again.
 * The same for processes and containers; the stage runs the page's commands.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { expect } from 'vitest'
import { encodeRequest } from '../../shared/events.ts'
import { ledgerBalance } from '../../shared/streams/ledger.ts'
import { cursorDone, deadLetterStream, relistKey, streams } from '../../shared/streams/names.ts'
import { surveyCursors } from '../../shared/streams/survey.ts'
import { createWorld } from '../../simulator/living.ts'
import {
  compareWithModel,
  type Difference,
  describeDifferences,
} from '../../simulator/model/compare.ts'
import { createModel } from '../../simulator/model.ts'
import type { Network } from '../../simulator/network.ts'
import { wishesAsked } from '../pipeline.ts'
import type { Family } from './older/family.ts'
import type { Told } from './told.ts'

/** Where the guide is played. */
export interface Stage extends AsyncDisposable {
  readonly family: Family
  readonly network: Network
  readonly told: Told
  readonly redis: Redis
  readonly sql: Sql
  /** Runs the commands under this name of the page, and gives what they printed; throws when one fails. */
  run: (name: string) => Promise<string>
  /** Starts older workers by the names that the page gives them. */
  startOlder: (names: readonly string[], settings?: Record<string, string>) => Promise<void>
  /** What an older worker has printed in all its lives. */
  saidBy: (name: string) => Promise<string>
  /** Throws when a worker has ended that was not stopped. */
  check: () => Promise<void>
}

export const groups = {
  [streams.requests]: 'repo_backfill_group',
  [streams.requestsFirst]: 'repo_backfill_group',
  [streams.backfill]: 'firehose_group',
  [streams.live]: 'firehose_group',
} as const

/** As the guide has them, one after the other. */
export const phases = ['ingester', 'backfiller1', 'backfiller2', 'indexers'] as const
export type Phase = (typeof phases)[number]

/** Longer than the minute after which what the dead left is taken over. */
const patienceMs = 120_000
/** Repos whose keys or homes change meanwhile, or that end, may be dead letters by right. */
const leftOut = ['signingKey', 'migration', 'deletion'] as const
const rate = 8
const probeEveryMs = 5_000
/** So many entries fit for R's ingester; those of T do not look. */
const highWater = '60'
/** Longer than R waits before it takes over what somebody has in hand. */
const claimIdleMs = 5_500
/** So many events pass in each phase at least. */
const eventsEach = 25

/** Plays these phases, and then to the end. */
export async function play(stage: Stage, played: readonly Phase[] = phases): Promise<void> {
  const { network } = stage
  const world = createWorld(network, { without: leftOut, web: false })
  // One of T that has no position begins with what is told from then on.
  await world.populate({ accounts: 0, older: 7, history: 25 })
  await stage.startOlder(['old-ingester'], { INGESTER_HIGH_WATER_MARK: highWater })
  await Promise.all([network.relay.subscribed(), network.labeler.subscribed()])
  await world.populate({ accounts: 8, older: 0, history: 0 })
  const end = new AbortController()
  const life = world.live({ rate, signal: end.signal })
  life.catch(() => {})
  try {
    await begin(stage)
    await prepare(stage)
    for (const phase of played) await playPhase(stage, phase)
    end.abort()
    await life
  } finally {
    end.abort()
    await life.catch(() => {})
  }
  if (played.length === phases.length) await finish(stage)
}

/** The older workers at work, with what each family loses, every kind of it. */
async function begin(stage: Stage): Promise<void> {
  const { family, redis } = stage
  const someoneSays =
    (what: string, ...names: string[]) =>
    async () =>
      (await Promise.all(names.map(stage.saidBy))).some((said) => said.includes(what))
  const dies = async (count: number) => {
    const from = ['COUNT', count, 'STREAMS', streams.live, '>'] as const
    await redis.xreadgroup('GROUP', groups[streams.live], 'rust-indexer9', ...from)
  }
  if (family === 'R') {
    await until(stage, 'R discards', someoneSays('discarded', 'old-ingester'), true)
    await redis.xgroup('CREATE', streams.live, groups[streams.live], '0')
    await dies(2)
    await delay(claimIdleMs)
  }
  await stage.startOlder(['old-backfiller1', 'old-backfiller2', 'old-indexer1', 'old-indexer2'])
  if (family === 'T') {
    await redis.xadd(streams.labels, '*', 'labels', '{"seq":1,"labels":[]}')
    const drops = someoneSays('dropped a label entry', 'old-indexer1', 'old-indexer2')
    await until(stage, 'T drops what is not in its form', drops, true)
  }
  if (family === 'R') {
    const says = someoneSays('acknowledged unprocessed', 'old-indexer1', 'old-indexer2')
    await until(stage, 'R acknowledges unprocessed', says, true)
    await dies(3)
  }
  await works(stage, 'before')
}

/** A group that somebody tried something with, long ago, is found and forgotten. */
async function prepare({ redis, run }: Stage): Promise<void> {
  await redis.xgroup('CREATE', streams.live, 'prod_stream', '$')
  expect(await run('look-first')).toMatch(/^danger.*prod_stream/m)
  await run('forget')
  await run('prepare')
}

async function playPhase(stage: Stage, phase: Phase): Promise<void> {
  if (phase === 'indexers') return playIndexers(stage)
  const forward = async () => {
    await stage.run(`${phase}-forward`)
    await works(stage, `${phase} forward`)
    expectNoResync(await stage.run(`${phase}-look`))
  }
  await forward()
  await stage.run(`${phase}-back`)
  await works(stage, `${phase} back`)
  await forward()
}

async function playIndexers(stage: Stage): Promise<void> {
  const { family } = stage
  const change = async (commands: string, look: boolean) => {
    await rest(stage)
    await stage.run(commands)
    await works(stage, commands, false)
    if (look) await stage.run('indexers-look')
    await stage.run('work-on')
    await works(stage, `${commands}, with backfillers`)
  }
  await change(`${family}-indexers-forward`, true)
  await change(`${family}-indexers-back`, false)
  await change('indexers-again', true)
}

/** The backfillers rest, and what they brought is done. */
async function rest(stage: Stage): Promise<void> {
  await stage.run('rest')
  const left = async () => {
    const state = await ledgerBalance(stage.redis, streams.backfill, groups[streams.backfill])
    return { pending: state?.pending, lag: state?.lag }
  }
  await until(stage, 'what the backfillers brought', left, { pending: 0, lag: 0 })
}

/** Where the page looks at the ingester. */
function expectNoResync(looked: string): void {
  const [, count = '0'] = /^ingester_resyncs_requested_total (\d+)$/m.exec(looked) ?? []
  expect(count, 'resyncs that nobody announced').toBe('0')
}

let probes = 0

/** What is told now comes into the rows, from the relay and from a repo that is asked for. */
async function works(stage: Stage, when: string, fetches = true): Promise<void> {
  const { network, redis, sql } = stage
  const started = Date.now()
  const seq = network.relay.lastSeq
  const tell = async (quiet: boolean) => {
    probes += 1
    const account = await network.account({ handle: `probe${probes}.test`, quiet })
    const createdAt = new Date().toISOString()
    const { uri } = await account.create('app.bsky.feed.post', { text: 'probe', createdAt })
    if (quiet) await redis.xadd(streams.requests, '*', ...encodeRequest({ did: account.did }))
    return uri
  }
  const uris = { live: [await tell(false)], backfill: fetches ? [await tell(true)] : [] }
  let told = Date.now()
  const arrived = async (kind: keyof typeof uris) =>
    (await sql`select from record where uri = any(${uris[kind]})`).length > 0
  await until(
    stage,
    when,
    async () => {
      const [live, backfill] = [await arrived('live'), !fetches || (await arrived('backfill'))]
      // R may lose one of them: that is no reason to think that nothing arrives.
      if (Date.now() - told > probeEveryMs) {
        told = Date.now()
        uris.live.push(await tell(false))
        if (fetches) uris.backfill.push(await tell(true))
      }
      return { live, backfill, lived: network.relay.lastSeq >= seq + eventsEach }
    },
    { live: true, backfill: true, lived: true },
  )
  console.log(`${when}: works after ${Date.now() - started} ms`)
}

/** Waits until it is so; ends at once when a worker has ended that was not stopped. */
async function until<T>(stage: Stage, what: string, get: () => Promise<T>, wanted: T) {
  const deadline = Date.now() + patienceMs
  for (;;) {
    await stage.check()
    const got = await get()
    if (isDeepStrictEqual(got, wanted)) return
    if (Date.now() > deadline) expect(got, what).toEqual(wanted)
    await delay(100)
  }
}

/** Waits until ours have done all that there is to do. */
async function drained(stage: Stage): Promise<void> {
  const { network, redis, sql } = stage
  const cursor = (stream: string) => redis.get(`${stream}:cursor:${network.relay.host}`)
  await until(stage, 'read', () => cursor(streams.live), String(network.relay.lastSeq))
  await until(stage, 'asked', () => redis.exists(relistKey(network.relay.host)), 0)
  const listed = async () => (await surveyCursors(redis, streams.requests))[0]?.value
  await until(stage, 'listed', listed, cursorDone)
  // In this order: accounts that are back are asked for, and what was asked for is backfilled.
  const { live, requests, requestsFirst, backfill } = streams
  for (const stream of [live, requests, requestsFirst, backfill] as const) {
    if (stream === requests) await wishesAsked(sql)
    const left = async () => {
      const { pending, lag } = (await ledgerBalance(redis, stream, groups[stream])) ?? {
        pending: 0,
        lag: 0,
      }
      return { pending, lag }
    }
    await until(stage, stream, left, { pending: 0, lag: 0 })
  }
  // What batches that were cut off have left to the rules, and the handles.
  await until(
    stage,
    'reconciled',
    async () => [...(await sql`select kind, key from reconcile`)],
    [],
  )
}

async function compare(
  { network, told: { heard }, sql }: Stage,
  fetched: ReadonlyMap<string, string>,
): Promise<Difference[]> {
  return compareWithModel(sql, createModel(network, { heard, fetched }))
}

/**
 * The records that an account has and that are not in the rows. Of those that were written again and
 * again two older indexers may have applied the changes in another order.
 */
async function lacking(stage: Stage): Promise<string[]> {
  const differences = await compare(stage, new Map())
  return differences
    .filter(({ table, got }) => table === 'record' && got === 'no row')
    .map(({ key }) => key)
    .filter((uri) => stage.told.times(uri) <= 1)
}

/** What the guide says is not to be had back, in its words. */
const announced: Readonly<Record<string, (difference: Difference, told: Told) => boolean>> = {
  'what others heard of an account': ({ table, column }) =>
    table === 'account_event' || (table === 'repo_sync' && column === 'status'),
  'an account of which R lost that it is back': ({ table, column, expected }) =>
    table === 'actor' && column === 'upstreamStatus' && expected === null,
  'a label that had expired when R read it': ({ table, column }) =>
    table === 'label' && (column === 'neg' || column === 'exp'),
  'when a record was indexed that two wrote at once': ({ key, column }, { times }) =>
    (column === 'indexedAt' || column === 'sortAt') && times(key) > 1,
}

/** The differences that nobody announced; T loses no event. */
function unannounced({ family, told }: Stage, differences: readonly Difference[]): Difference[] {
  const reasons = Object.entries(announced).filter(([name]) => family === 'R' || !/ R /.test(name))
  for (const [name, is] of reasons) {
    console.log(`${name}: ${differences.filter((each) => is(each, told)).length} differences`)
  }
  return differences.filter((each) => !reasons.some(([, is]) => is(each, told)))
}

/** A few of each kind. */
function summary(differences: readonly Difference[]): string {
  const kinds = Map.groupBy(differences, ({ table, column }) => `${table}.${column}`)
  return [...kinds]
    .map(([kind, some]) => `${kind}: ${some.length}\n${describeDifferences(some.slice(0, 3))}`)
    .join('\n\n')
}

/** The network rests; what the guide announces is done; the rows are the model's. */
async function finish(stage: Stage): Promise<void> {
  const { family, network } = stage
  for (const [did, { active }] of network.states()) if (!active) await network.reactivate(did)
  const createdAt = new Date().toISOString()
  for (const account of network.accounts.values()) {
    if (!account.quiet) await account.create('app.bsky.feed.post', { text: 'the end', createdAt })
  }
  await drained(stage)
  expectNoResync(await stage.run('ingester-look'))
  // T loses nothing: what is told and read through all of this is there before anything is repaired.
  const lost = await lacking(stage)
  console.log(`lacking before the last steps: ${lost.length}`)
  if (family === 'T') expect(lost).toEqual([])
  if (family === 'R') await stage.run('R-labels-again')
  console.log(await stage.run('after'))
  const asked = new Map([...network.states()].map(([did, { rev }]) => [did, rev ?? '']))
  await drained(stage)
  const differences = unannounced(stage, await compare(stage, asked))
  expect(summary(differences)).toBe('')
  await expectAccounted(stage)
}

/** Every entry ended as one thing, and nothing of ours was set aside. */
async function expectAccounted({ family, redis }: Stage): Promise<void> {
  const labelGroup = family === 'T' ? 'label_group' : 'firehose_group'
  const all = { ...groups, [streams.labels]: labelGroup }
  for (const [stream, group] of Object.entries(all)) {
    const ledger = await ledgerBalance(redis, stream, group)
    console.log(stream, JSON.stringify(ledger))
    expect(ledger, stream).toMatchObject({ pending: 0, lag: 0, balanced: true })
    const letters = await redis.xrange(deadLetterStream(stream), '-', '+')
    // Those of older workers do not tell which entry they are of.
    expect(letters.filter(([, fields]) => fields.includes('entry'))).toEqual([])
  }
  const live = await ledgerBalance(redis, streams.live, groups[streams.live])
  if (family === 'R') expect(live?.gone, 'what R erased').toBeGreaterThan(0)
  expect(live?.others, 'what others acknowledged').toBeGreaterThan(0)
}
