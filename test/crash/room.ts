/** A pipeline under a living network, for crashes: what it is given, and what must be accounted for. */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { inject } from 'vitest'
import { encodeRequest } from '../../shared/events.ts'
import { cursorDone, streams } from '../../shared/streams/names.ts'
import { wallClock } from '../../simulator/clock.ts'
import { createWorld } from '../../simulator/living.ts'
import { createHeard, type Heard } from '../../simulator/model/heard.ts'
import { createRandom, type Random } from '../../simulator/random.ts'
import { type Pipeline, startPipeline } from '../pipeline.ts'

/** The group that reads each stream. */
export const groups = {
  [streams.live]: 'firehose_group',
  [streams.backfill]: 'firehose_group',
  [streams.labels]: 'label_group',
  [streams.requests]: 'repo_backfill_group',
} as const

export type StreamName = keyof typeof groups
export const streamNames = Object.keys(groups) as StreamName[]

/** Small batches, so that there is always something in hand and repos have several chunks. */
const settings = {
  INGESTER_BATCH_SIZE: '5',
  INDEXER_BATCH_SIZE: '10',
  INDEXER_CONCURRENCY: '20',
  BACKFILLER_BATCH_SIZE: '10',
  BACKFILLER_CONCURRENCY: '2',
  BACKFILLER_RETRY_INITIAL_BACKOFF_MS: '50',
  BACKFILLER_RETRY_MAX_BACKOFF_MS: '200',
  // Failures are made on purpose here: a request that had its share of them is none the worse.
  BACKFILLER_MAX_RETRIES: '1000',
  LOG_LEVEL: 'info',
}

/**
 * Between a new key and the first commit that it signs, the directory and the repo do not agree, and a
 * fetch then is a dead letter by right; of a deleted account the rows remain, for now.
 */
const leftOut = ['signingKey', 'migration', 'deletion'] as const

export interface RoomOptions {
  seed: string
  /** Commits a second. */
  rate: number
  accounts: number
  older: number
  history: number
}

export interface Room extends AsyncDisposable {
  readonly pipeline: Pipeline
  /** What the relay was told. */
  readonly heard: Heard
  readonly random: Random
  /** Ids of entries that nobody can read, by stream; each must end as a dead letter. */
  readonly poison: Record<StreamName, Set<string>>
  /** Frames that nobody can read, as base64. */
  readonly broken: Set<string>
  /** Dead letters that were put back on their stream. */
  readonly requeued: Record<StreamName, number>
  /** The settings of every worker. */
  readonly environment: Readonly<Record<string, string>>
  /** Ends the network's life; throws what it failed with. */
  endLife: () => Promise<void>
  /** Asks for the repos of so many accounts. */
  request: (count: number) => Promise<void>
  label: (count: number) => Promise<void>
  changeHandle: () => Promise<void>
  /** Puts something on the stream that nobody can read. */
  addPoison: (stream: StreamName) => Promise<void>
  /** Has the relay send a frame that nobody can read. */
  sendBrokenFrame: () => Promise<void>
  /** Has the end of the list of repos read again. */
  setListBack: () => Promise<void>
  /** Leaves entries pending with a consumer that died long ago, unless there are some. */
  leaveWithOther: (stream: StreamName) => Promise<void>
  /** Lets a consumer, which is not running, have an entry that it has read too often. */
  leaveSuspect: (stream: StreamName, name: string) => Promise<void>
}

const requestsWaiting = 20
/** Repos at the end of the list. */
const lastRepos = 4

/** Starts the network and its life; no worker runs yet. */
export async function openRoom(options: RoomOptions): Promise<Room> {
  const { seed, rate, ...population } = options
  const heard = createHeard()
  const pipeline = await startPipeline({ seed, clock: wallClock(7), pds: 3, onEvent: heard.note })
  const { network, redis } = pipeline
  const random = createRandom(seed).fork('crash')
  const world = createWorld(network, { without: leftOut })
  await world.populate(population)
  const poison: Room['poison'] = {
    firehose_live: new Set(),
    firehose_backfill: new Set(),
    label_live: new Set(),
    repo_backfill: new Set(),
  }
  const broken = new Set<string>()
  const requeued = { firehose_live: 0, firehose_backfill: 0, label_live: 0, repo_backfill: 0 }

  const someone = () => random.pick([...network.accounts.values()])
  const request = async (count: number) => {
    // Workers that die all the time do little: what waits must not grow without bound.
    if ((await pipeline.left(streams.requests, groups[streams.requests])) > requestsWaiting) return
    for (let made = 0; made < count; made += 1) {
      await redis.xadd(streams.requests, '*', ...encodeRequest({ did: someone().did }))
    }
  }
  const label = async (count: number) => {
    for (let made = 0; made < count; made += 1) {
      const uris = [...someone().records().keys()]
      const uri = uris.length > 0 ? random.pick(uris) : `at://${someone().did}`
      const val = random.pick(['spam', 'porn', 'rude'])
      await network.labeler.label({ uri, val, ...(random.chance(0.3) && { neg: true }) })
    }
  }
  const changeHandle = async () => {
    const { did } = someone()
    await network.changeIdentity(did, { handle: `h${random.below(1_000_000)}.test` })
  }

  /** More labels and handles than the world makes, and requests by hand. */
  const bustle = async (signal: AbortSignal) => {
    for (let turn = 0; !signal.aborted; turn += 1) {
      await label(1)
      if (turn % 4 === 1) await changeHandle()
      if (turn % 4 === 3) await request(1)
      await delay(250)
    }
  }

  const end = new AbortController()
  const life = Promise.all([world.live({ rate, signal: end.signal }), bustle(end.signal)])
  life.catch(() => {})

  /** Reads entries for a consumer that is not running; waits until there are some. */
  const readAs = async (stream: StreamName, name: string, count: number): Promise<string[]> => {
    const group = groups[stream]
    await redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM').catch(() => {})
    for (;;) {
      end.signal.throwIfAborted()
      const from = ['COUNT', count, 'STREAMS', stream, '>'] as const
      const reply = await redis.xreadgroup('GROUP', group, name, ...from)
      const entries = reply?.[0]?.[1] ?? []
      if (entries.length > 0) return entries.map(([id]) => id)
      if (stream === streams.requests) await request(1)
      await delay(50)
    }
  }

  return {
    pipeline,
    heard,
    random,
    poison,
    broken,
    requeued,
    environment: {
      ...pipeline.environment,
      ...settings,
      // Hundreds of short lives: what one that ended in order has compiled is not compiled again.
      NODE_COMPILE_CACHE: join(inject('servers').folder, 'compiled'),
      INGESTER_LABELER_HOSTS: network.labeler.url,
    },
    async endLife() {
      end.abort()
      await life
    },
    request,
    label,
    changeHandle,
    async addPoison(stream) {
      const field = stream === streams.requests ? 'repo' : 'event'
      const id = await redis.xadd(stream, '*', field, '{"nobody":"can read this"}')
      poison[stream].add(String(id))
    },
    async sendBrokenFrame() {
      const frame = Buffer.from(`broken ${random.next()}`)
      broken.add(frame.toString('base64'))
      await network.relay.play([frame])
    },
    async setListBack() {
      const key = `${streams.requests}:cursor:${network.relay.host}`
      const end = String(network.accounts.size - lastRepos)
      if ((await redis.get(key)) === cursorDone) await redis.set(key, end)
    },
    async leaveWithOther(stream) {
      const group = groups[stream]
      const left = await redis.xpending(stream, group, '-', '+', 1, 'other').catch(() => [])
      if (left.length > 0) return
      const ids = await readAs(stream, 'other', 2)
      await redis.xclaim(stream, group, 'other', 0, ...ids, 'IDLE', 120_000, 'JUSTID')
    },
    async leaveSuspect(stream, name) {
      const group = groups[stream]
      const own = (await redis.xpending(stream, group, '-', '+', 1, name).catch(() => [])) as [
        string,
      ][]
      const ids = own[0] === undefined ? await readAs(stream, name, 1) : [own[0][0]]
      await redis.xclaim(stream, group, name, 0, ...ids, 'RETRYCOUNT', 4, 'JUSTID')
    },
    async [Symbol.asyncDispose]() {
      end.abort()
      await life.catch(() => {})
      await pipeline[Symbol.asyncDispose]()
    },
  }
}
