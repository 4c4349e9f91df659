/** A pipeline under a living network, on servers that a test breaks: what must be true when all is quiet. */
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { expect, vi } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { ledgerBalance } from '../shared/streams/ledger.ts'
import { streams } from '../shared/streams/names.ts'
import { wallClock } from '../simulator/clock.ts'
import { createWorld, type World } from '../simulator/living.ts'
import { compareWithModel, describeDifferences } from '../simulator/model/compare.ts'
import { createHeard, type Heard } from '../simulator/model/heard.ts'
import { createModel } from '../simulator/model.ts'
import type { Network } from '../simulator/network.ts'
import {
  type Pipeline,
  type RunningWorker,
  type Servers,
  startPipeline,
  wishesAsked,
} from './pipeline.ts'

/** In this order: accounts that are back are asked for, and what was asked for is backfilled. */
const groups = {
  [streams.live]: 'firehose_group',
  [streams.labels]: 'label_group',
  [streams.requests]: 'repo_backfill_group',
  [streams.backfill]: 'firehose_group',
}
/** Longer than the minute after which what a consumer has forgotten is delivered again. */
const patience = { timeout: 150_000, interval: 50 }
/** Repos whose keys or homes change meanwhile, or that end, may be dead letters by right. */
export const leftOut = ['signingKey', 'migration', 'deletion'] as const

/** A network that lives beside workers, and what must be true of their tables. */
export interface Life extends AsyncDisposable {
  /** The relay's position up to which everything is in Redis. */
  cursor(): Promise<number>
  /** Resolves when events that the relay sent after this moment are in Redis, and others are in Postgres. */
  progress(): Promise<void>
  /** Ends the network's life, waits until all is quiet, and compares everything with the model. */
  settle(): Promise<void>
}

export interface LivingRoom extends Life {
  readonly pipeline: Pipeline
  readonly workers: readonly RunningWorker[]
}

/** Starts everything, and the network's life at so many commits a second. */
export async function openLivingRoom(options: {
  seed: string
  rate: number
  servers: Servers
}): Promise<LivingRoom> {
  const { seed, rate, servers } = options
  const heard = createHeard()
  const pipeline = await startPipeline({
    seed,
    clock: wallClock(7),
    pds: 2,
    onEvent: heard.note,
    servers,
  })
  const { network, redis, sql } = pipeline
  const world = createWorld(network, { without: leftOut })
  await world.populate({ accounts: 12, older: 4, history: 30 })
  const workers = [
    await pipeline.start('indexer', { INDEXER_BATCH_SIZE: '20', INDEXER_CONCURRENCY: '40' }),
    await pipeline.start('backfiller', {
      BACKFILLER_BATCH_SIZE: '20',
      BACKFILLER_RETRY_INITIAL_BACKOFF_MS: '50',
      BACKFILLER_RETRY_MAX_BACKOFF_MS: '200',
    }),
    await pipeline.start('ingester', { INGESTER_LABELER_HOSTS: network.labeler.url }),
  ]
  const life = startLife({ network, world, heard, redis, sql, rate })
  return {
    ...life,
    pipeline,
    workers,
    async [Symbol.asyncDispose]() {
      await life[Symbol.asyncDispose]()
      await pipeline[Symbol.asyncDispose]()
    },
  }
}

/** Lets a populated world live at so many commits a second until it is settled or disposed. */
export function startLife(options: {
  network: Network
  world: World
  /** Told of every event from the network's start. */
  heard: Heard
  redis: Redis
  sql: Sql
  rate: number
}): Life {
  const { network, world, heard, redis, sql, rate } = options
  const end = new AbortController()
  const life = world.live({ rate, signal: end.signal })
  life.catch(() => {})

  const cursorOf = async (stream: string, host: string) =>
    Number((await redis.get(`${stream}:cursor:${host}`)) ?? 0)
  const cursor = () => cursorOf(streams.live, network.relay.host)
  const applied = async () => {
    const [row] = await sql<{ count: number }[]>`select count(*)::int as count from record`
    return row?.count ?? 0
  }
  const until = <T>(get: () => Promise<T>, check: (value: T) => void) =>
    vi.waitFor(async () => check(await get()), patience)

  /** Those asked for at the end, and those that rest by then and were fetched before, for whatever reason. */
  const fetchedRepos = async () => {
    const fetched = await sql<{ did: string; rev: string }[]>`
      select did, "snapshotRev" as rev from repo_sync where "snapshotRev" is not null`
    const before = fetched.map(({ did, rev }) => [did, rev] as const)
    return new Map([...before, ...activeRepos(network)])
  }

  return {
    cursor,
    async progress() {
      const seq = network.relay.lastSeq
      const rows = await applied()
      await until(cursor, (now) => expect(now).toBeGreaterThan(seq))
      await until(applied, (now) => expect(now).toBeGreaterThan(rows))
    },
    async settle() {
      end.abort()
      await life
      for (const did of activeRepos(network).keys()) {
        await redis.xadd(streams.requests, '*', ...encodeRequest({ did }))
      }
      await until(cursor, (seq) => expect(seq).toBe(network.relay.lastSeq))
      const labels = () => cursorOf(streams.labels, network.labeler.host)
      await until(labels, (seq) => expect(seq).toBe(network.labeler.lastSeq))
      for (const [stream, group] of Object.entries(groups)) {
        if (stream === streams.requests) await wishesAsked(sql)
        const left = () => ledgerBalance(redis, stream, group)
        await until(left, (ledger) =>
          expect(ledger, stream).toMatchObject({ pending: 0, lag: 0, balanced: true }),
        )
        expect(await redis.xrange(`${stream}_dlq`, '-', '+')).toEqual([])
      }
      // Handles, and what a batch that was cut off after its first transaction has left to the rules.
      const unresolved = () => sql`select key from reconcile`
      await until(unresolved, (rows) => expect(rows.length).toBe(0))
      const model = createModel(network, { heard, fetched: await fetchedRepos() })
      expect(describeDifferences(await compareWithModel(sql, model))).toBe('')
    },
    async [Symbol.asyncDispose]() {
      end.abort()
      await life.catch(() => {})
    },
  }
}

/** By DID, with the rev that each has. */
function activeRepos(network: Network): Map<string, string> {
  const active = [...network.states()].filter(([, { active }]) => active)
  return new Map(active.map(([did, { rev }]) => [did, rev ?? '']))
}
