/** The indexer's engine, driven without streams: for benchmarks. */
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { createApply } from '../indexer/apply.ts'
import { collections } from '../indexer/collections/index.ts'
import { createDeriver } from '../indexer/derive.ts'
import { flightOf } from '../indexer/indexer.ts'
import { compileLexicons } from '../indexer/lexicons.ts'
import { options } from '../indexer/options.ts'
import { environment } from '../shared/config.ts'
import type { Event } from '../shared/events.ts'
import { connectPostgres, type Sql } from '../shared/postgres.ts'
import { scopeOf } from '../shared/scope.ts'
import { findPlaces } from '../start/places.ts'
import { type EmbeddedPostgres, type PostgresOptions, startPostgres } from '../start/postgres.ts'

const ticksPerSecond = 100
const walFileBytes = 16_000_000
const walFiles = 100

export interface Run {
  batchSize: number
  transactions: number
}

/** What an indexer has in flight as it is shipped. */
export const shipped: Run = flightOf({
  batchSize: Number(options.batchSize.default),
  concurrency: Number(options.concurrency.default),
})

/** An engine on the schema, as the indexer makes it; handles are what nothing else has to do with. */
export async function engine(sql: Sql, schema: string, handles = false) {
  const names = collections.map(({ nsid }) => nsid)
  return createApply({
    sql,
    schema,
    collections,
    deriver: createDeriver(collections, await compileLexicons(names)),
    scope: scopeOf(names),
    statementTimeoutMs: 60_000,
    handles,
  })
}

/** Applies the events and tells how fast, and what of it was this process. */
export async function measure(
  sql: Sql,
  schema: string,
  events: readonly Event[],
  { batchSize, transactions }: Run,
) {
  const apply = await engine(sql, schema)
  // Dealt by account, as the consumer deals them.
  const lanes = Array.from({ length: transactions }, (): Event[] => [])
  for (const event of events) lanes[laneOf(event.did, transactions)]?.push(event)
  const cpu = process.cpuUsage()
  const start = performance.now()
  await Promise.all(
    lanes.map(async (lane) => {
      for (let at = 0; at < lane.length; at += batchSize) {
        await apply(lane.slice(at, at + batchSize))
      }
    }),
  )
  const seconds = (performance.now() - start) / 1_000
  const { user, system } = process.cpuUsage(cpu)
  return {
    batchSize,
    transactions,
    'events/s': Math.round(events.length / seconds),
    'own CPU µs/event': Math.round((user + system) / events.length),
  }
}

/** Which of so many has this account. */
export function laneOf(text: string, lanes: number): number {
  let hash = 0
  for (const letter of text) hash = (Math.imul(hash, 31) + letter.charCodeAt(0)) | 0
  return Math.abs(hash) % lanes
}

/** Gives a Postgres of its own, gone afterwards, or the one at `given`. */
export async function withPostgres(
  given: string | undefined,
  work: (url: string) => Promise<void>,
): Promise<void> {
  if (given !== undefined) return work(given)
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  await chmod(folder, 0o755)
  try {
    await withServer({ dir: join(folder, 'postgres') }, ({ url }) => work(url))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** A Postgres in a folder that stays. */
export async function withServer(
  options: Omit<PostgresOptions, 'places'>,
  work: (server: EmbeddedPostgres) => Promise<void>,
): Promise<void> {
  await using server = await startServer(options)
  await work(server)
}

/** The embedded Postgres, or that of `BENCH_POSTGRES`, a folder like `/usr/lib/postgresql/17`. */
export async function startServer(
  options: Omit<PostgresOptions, 'places' | 'binaries'>,
): Promise<EmbeddedPostgres> {
  const binaries = environment['BENCH_POSTGRES']
  return startPostgres({ places: await findPlaces(environment), binaries, ...options })
}

/** What a server has that is meant for work: a quarter of a small machine's memory, log that is kept and used again. */
export const ordinary = { shared_buffers: '1GB', min_wal_size: '2GB', max_wal_size: '8GB' }

/** Fills files of the log, so that they are used again: a new server fills each with zeros first, and commits wait. */
export async function reuseWal(databaseUrl: string): Promise<void> {
  const log = pino({ level: 'silent' })
  await using sql = connectPostgres({ databaseUrl, poolSize: 1, log })
  for (let written = 0; written < walFiles; written += 1) {
    await sql`select pg_logical_emit_message(false, '', repeat('x', ${walFileBytes}))`
  }
  await sql`checkpoint`
}

/** Seconds of CPU that a server has taken: its processes that live, and those it has waited for. */
export async function serverCpu({ pid }: Pick<EmbeddedPostgres, 'pid'>): Promise<number> {
  let ticks = 0
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '')
    const fields = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number)
    const [user = 0, system = 0, waitedUser = 0, waitedSystem = 0] = fields.slice(11, 15)
    if (Number(name) === pid) ticks += user + system + waitedUser + waitedSystem
    else if (fields[1] === pid) ticks += user + system
  }
  return ticks / ticksPerSecond
}
