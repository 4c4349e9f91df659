/** Postgres for tests: a database cloned from the run's migrated template, or a private server to break. */
import { randomBytes } from 'node:crypto'
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import postgres, { type Sql } from 'postgres'
import { inject } from 'vitest'
import { migrate } from '../../migrations/migrate.ts'
import { findPlaces } from '../../start/places.ts'
import { type EmbeddedPostgres, startPostgres } from '../../start/postgres.ts'
import { freePort, isAlive } from '../../start/process.ts'
import { env } from '../env.ts'

export interface TestDatabase {
  url: string
  schema: 'bsky'
  /** A small pool; the schema is on its search path. */
  sql: Sql
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * A database that no other test has: migrated, empty with `migrated: false`, or the copy of one that
 * nobody is connected to. Dropped at the end.
 */
export async function testDatabase(
  options: { migrated?: boolean; copyOf?: TestDatabase } = {},
): Promise<TestDatabase> {
  const { migrated = true, copyOf } = options
  const { databaseUrl, template } = inject('servers')
  const name = `${template}_${randomBytes(5).toString('hex')}`
  const source = copyOf === undefined ? template : new URL(copyOf.url).pathname.slice(1)
  await asOwner(databaseUrl, `create database ${name} template ${migrated ? source : 'template0'}`)
  const url = new URL(databaseUrl)
  url.pathname = `/${name}`
  const sql = postgres(url.href, {
    max: 4,
    onnotice: () => {},
    connection: { search_path: 'bsky,public' },
  })
  return {
    url: url.href,
    schema: 'bsky',
    sql,
    async [Symbol.asyncDispose]() {
      await sql.end({ timeout: 1 })
      await asOwner(databaseUrl, `drop database if exists ${name} with (force)`)
    },
  }
}

async function asOwner(databaseUrl: string, statement: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} })
  try {
    await sql.unsafe(statement)
  } finally {
    await sql.end({ timeout: 5 })
  }
}

/** A PostgreSQL server of the test's own, always embedded, with one port for all its lives. */
export interface OwnPostgres extends AsyncDisposable {
  /** Its database, migrated. */
  readonly url: string
  readonly port: number
  readonly dir: string
  /** Ends it in order: sessions are ended, a checkpoint is written. */
  stop(): Promise<void>
  /** Kills all its processes (SIGKILL): the next start recovers from the log. */
  kill(): Promise<void>
  /** Starts it again on the same data and port. */
  start(): Promise<void>
  /** Freezes all its processes: connections stay open, and nothing answers. */
  pause(): Promise<void>
  resume(): Promise<void>
}

export interface OwnPostgresOptions {
  /** Further settings, `name` → `value`. As installed it syncs at every commit. */
  settings?: Readonly<Record<string, string>>
  /** Kept when given. */
  dir?: string
}

/** Starts a private PostgreSQL with a migrated database. */
export async function ownPostgres(options: OwnPostgresOptions = {}): Promise<OwnPostgres> {
  const places = await findPlaces(env)
  const port = await freePort()
  const dir = options.dir ?? (await mkdtemp(join(inject('servers').folder, 'postgres-')))
  if (options.dir === undefined) await chmod(dir, 0o755)
  const settings = { shared_buffers: '64MB', ...options.settings }
  // A folder that was given may be on a disk that loses its power.
  const unsafe = options.dir === undefined
  const launch = () => startPostgres({ places, dir, port, settings, unsafe })
  let server: EmbeddedPostgres | null = await launch()
  const { url } = server
  await migrate({ databaseUrl: url, schema: 'bsky' })

  const signalAll = async (pid: number, name: 'SIGSTOP' | 'SIGCONT' | 'SIGKILL') => {
    // First the one that would start others.
    send(pid, name)
    const children = await childrenOf(pid)
    for (const child of children) send(child, name)
    return children
  }
  const kill = async () => {
    const killed = server
    server = null
    if (killed === null) return
    send(killed.pid, 'SIGSTOP')
    const pids = [killed.pid, ...(await childrenOf(killed.pid))]
    for (const pid of pids) send(pid, 'SIGKILL')
    await killed.exited
    for (const pid of pids) while (await isAlive(pid)) await new Promise(setImmediate)
  }
  const running = () => {
    if (server === null) throw new Error('this PostgreSQL is not running')
    return server.pid
  }
  return {
    url,
    port,
    dir,
    async stop() {
      const stopped = server
      server = null
      await stopped?.stop()
    },
    kill,
    async start() {
      if (server !== null) throw new Error('this PostgreSQL is running')
      server = await launch()
    },
    pause: async () => void (await signalAll(running(), 'SIGSTOP')),
    resume: async () => void (await signalAll(running(), 'SIGCONT')),
    async [Symbol.asyncDispose]() {
      await kill()
      if (options.dir === undefined) await rm(dir, { recursive: true, force: true })
    },
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It has ended by itself.
  }
}

/** The pids whose parent is this one. */
async function childrenOf(pid: number): Promise<number[]> {
  const children: number[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '')
    const parent = /^\d+ \(.*\) \S (\d+) /s.exec(stat)?.[1]
    if (Number(parent) === pid) children.push(Number(name))
  }
  return children
}
