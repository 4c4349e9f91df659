/** What the pipeline has done and has before it, measured where it is kept: in Redis and Postgres. */
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { deadLetterStream, ledgerKey, namedGroups, streams } from '../shared/streams/names.ts'
import { readState } from '../shared/streams/state.ts'
import { grouped } from './plain.ts'

/** What Redis knows. */
export interface StreamStatus {
  /** Entries that the indexer is done with, ever. */
  indexed: number
  /** Entries not yet acknowledged by the slowest group of their stream. */
  waiting: Readonly<Record<'live' | 'labels' | 'backfill' | 'requests', number>>
  /** Requests that the backfiller is done with, ever. */
  requestsDone: number
  deadLetters: number
}

export interface Status {
  indexed: number
  /** Events that wait for the indexer. */
  lag: number
  /** Repos that wait for the backfiller. */
  requests: number
  deadLetters: number
  /** Rows by table, large ones as Postgres estimates them. */
  rows: Readonly<Record<string, number>>
}

const eventStreams = [streams.live, streams.backfill, streams.labels] as const
/** A table this large is read in some milliseconds. */
const countedBytes = 32 * 2 ** 20
const shownTables = ['record', 'post', 'like', 'repost', 'follow', 'profile'] as const

/** Measures now. Costs about the same however much there is: no large table is counted. */
export async function measure(redis: Redis, sql: Sql, schema: string): Promise<Status> {
  const [measured, rows] = await Promise.all([
    measureStreams(redis),
    measureRows(sql, schema, shownTables),
  ])
  const { indexed, waiting, deadLetters } = measured
  const lag = waiting.live + waiting.labels + waiting.backfill
  return { indexed, lag, requests: waiting.requests, deadLetters, rows }
}

export async function measureStreams(redis: Redis): Promise<StreamStatus> {
  const [indexed, requestsDone, deadLetters, live, labels, backfill, requests] = await Promise.all([
    countDone(redis, eventStreams),
    countDone(redis, [streams.requests]),
    countDeadLetters(redis),
    waiting(redis, streams.live),
    waiting(redis, streams.labels),
    waiting(redis, streams.backfill),
    waiting(redis, streams.requests),
  ])
  return {
    indexed,
    waiting: { live, labels, backfill, requests },
    requestsDone,
    deadLetters,
  }
}

/** The ledgers: each entry counts once there, whatever crashed. */
async function countDone(redis: Redis, streams: readonly string[]): Promise<number> {
  const keys = streams.flatMap((stream) =>
    namedGroups(new Map(), stream).map((group) => ledgerKey(stream, group)),
  )
  const ledgers = await Promise.all(keys.map((key) => redis.hgetall(key)))
  return sum(
    ledgers.flatMap((ledger) =>
      Object.entries(ledger)
        .filter(([outcome]) => outcome !== 'base')
        .map(([, count]) => Number(count) || 0),
    ),
  )
}

/** Entries of the stream that its slowest group has not acknowledged. */
async function waiting(redis: Redis, stream: string): Promise<number> {
  const { length, groups } = await readState(redis, stream)
  if (groups.length === 0) return length
  return Math.max(...groups.map(({ lag, pending }) => (lag ?? 0) + pending))
}

async function countDeadLetters(redis: Redis): Promise<number> {
  const names = Object.values(streams).map(deadLetterStream)
  return sum(await Promise.all(names.map((name) => redis.xlen(name))))
}

/**
 * Rows by table, in the tables' order: counted where that costs next to nothing, else as Postgres
 * estimates them.
 */
export async function measureRows(
  sql: Sql,
  schema: string,
  tables: readonly string[],
): Promise<Record<string, number>> {
  // The statistics are empty after a crash, the planner's estimate before the first analyze.
  const found = await sql<{ name: string; rows: number; bytes: number }[]>`
    select t.relname as name, greatest(t.n_live_tup, c.reltuples)::float8 as rows,
      pg_relation_size(c.oid)::float8 as bytes
    from pg_stat_user_tables t join pg_class c on c.oid = t.relid
    where t.schemaname = ${schema} and t.relname in ${sql([...tables])}`
  const counts = await Promise.all(
    found.map(async ({ name, rows, bytes }): Promise<[string, number]> => {
      if (bytes > countedBytes) return [name, Math.max(0, rows)]
      const [counted] = await sql<{ rows: number }[]>`
        select count(*)::float8 as rows from ${sql(schema)}.${sql(name)}`
      return [name, counted?.rows ?? 0]
    }),
  )
  const rows = new Map(counts)
  return Object.fromEntries(tables.map((name) => [name, rows.get(name) ?? 0]))
}

/** One line; `events/s` since the earlier measurement, `seconds` ago. */
export function statusLine(now: Status, before: Status, seconds: number): string {
  const rate = Math.max(0, now.indexed - before.indexed) / seconds
  const [records, ...others] = Object.entries(now.rows)
  const kinds = others.map(([name, count]) => `${plural(name)} ${grouped(count)}`)
  return [
    `${grouped(rate)} events/s`,
    `lag ${grouped(now.lag)}`,
    `rows ${grouped(records?.[1] ?? 0)} (${kinds.join(', ')})`,
    ...(now.requests > 0 ? [`repos to fetch ${grouped(now.requests)}`] : []),
    `dead letters ${grouped(now.deadLetters)}`,
  ].join(' · ')
}

function plural(table: string): string {
  return `${table}s`
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
