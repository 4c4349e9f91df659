/** An embedded Redis: finds or fetches the program, and runs it on a folder of data. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { totalmem } from 'node:os'
import { join } from 'node:path'
import { type FetchOptions, NoPackageError, type Program, runs, unpackedProgram } from './debian.ts'
import { findProgram, type Places } from './places.ts'
import {
  commandLine,
  endProcess,
  freePort,
  type ServerProcess,
  type Step,
  startServer,
} from './process.ts'

/** Thrown when this machine has no Redis and none can be fetched; the message says what to install. */
export class NoRedisError extends Error {}

const packageSets = [
  { packages: ['redis-server', 'redis-tools'], program: 'usr/bin/redis-server' },
  { packages: ['valkey-server', 'valkey-tools'], program: 'usr/bin/valkey-server' },
] as const

const stopSteps: readonly Step[] = [
  ['SIGTERM', 2_500],
  ['SIGKILL', 500],
]
// A big append-only file takes a while to read; the process itself says when it fails.
const readyWithinMs = 120_000

/**
 * The Redis program of this machine: `redis-server` or `valkey-server` on PATH, else the
 * distribution's package, unpacked (not installed) into the cache folder. Safe to call from several
 * processes at once. Throws `NoRedisError`.
 */
export async function findRedis(places: Places, options: FetchOptions = {}): Promise<Program> {
  const installed = await findProgram(places, 'redis-server', 'valkey-server')
  if (installed !== null && (await runs({ command: installed, env: {} }))) {
    return { command: installed, env: {}, origin: installed }
  }
  return unpackedRedis(places, options)
}

async function unpackedRedis(places: Places, options: FetchOptions): Promise<Program> {
  try {
    return await unpackedProgram(places, { ...options, name: 'redis', sets: packageSets })
  } catch (error) {
    if (!(error instanceof NoPackageError)) throw error
    throw new NoRedisError(
      `no Redis on this machine: neither redis-server nor valkey-server is on PATH, and ${error.message}. ` +
        'Install one (Debian, Ubuntu: apt-get install redis-server; Fedora: dnf install valkey; ' +
        'macOS: brew install redis)',
      { cause: error },
    )
  }
}

export interface EmbeddedRedis extends ServerProcess {
  readonly url: string
  readonly port: number
  readonly dir: string
  [Symbol.asyncDispose](): Promise<void>
}

export interface RedisOptions extends FetchOptions {
  places: Places
  /** Holds the data, the log and the pid file; made when it is missing. */
  dir: string
  /** The port it must have; without it, the one of last time if it is free, else any. */
  port?: number
  /** Further settings, as on redis-server's command line. */
  args?: readonly string[]
  program?: Program
}

/**
 * Starts Redis on 127.0.0.1 with an append-only file and no eviction, and resolves when it has read
 * its data. A server that an earlier, killed parent left on the same folder is ended first.
 */
export async function startRedis(options: RedisOptions): Promise<EmbeddedRedis> {
  const { places, dir, args = [] } = options
  const program = options.program ?? (await findRedis(places, options))
  await mkdir(dir, { recursive: true, mode: 0o755 })
  await endLeftRedis(dir)
  const attempts = options.port === undefined ? 3 : 1
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await freePort(attempt === 1 ? await lastPort(dir) : null))
    try {
      return await launch({ program, dir, port, args })
    } catch (error) {
      // Another process may have taken the port in between.
      if (attempt >= attempts) throw error
    }
  }
}

async function launch(options: {
  program: Program
  dir: string
  port: number
  args: readonly string[]
}): Promise<EmbeddedRedis> {
  const { program, dir, port, args } = options
  await writeFile(join(dir, 'port'), `${port}\n`)
  const server = await startServer({
    name: 'Redis',
    command: program.command,
    // The folder is given as '.', so that no character in its name needs quoting.
    args: [...settings(port), ...args],
    cwd: dir,
    env: { LC_ALL: 'C', ...program.env },
    logFile: join(dir, 'redis.log'),
    isReady: (pid) => answers(port, pid),
    readyWithinMs,
    stopSteps,
  })
  return {
    ...server,
    port,
    dir,
    url: `redis://127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => server.stop(),
  }
}

function settings(port: number): string[] {
  // Producers stop at 0.8 of it (REDIS_MEMORY_HIGH_WATER), so the machine keeps room for the rest.
  const maxMemory = Math.min(4 * 2 ** 30, Math.floor(totalmem() / 4))
  return [
    ...['--bind', '127.0.0.1'],
    ...['--port', String(port)],
    ...['--dir', '.'],
    ...['--pidfile', 'redis.pid'],
    ...['--daemonize', 'no'],
    ...['--appendonly', 'yes'],
    ...['--appendfsync', 'everysec'],
    ...['--save', ''],
    ...['--maxmemory', String(maxMemory)],
    ...['--maxmemory-policy', 'noeviction'],
  ]
}

async function lastPort(dir: string): Promise<number | null> {
  const text = await readFile(join(dir, 'port'), 'utf8').catch(() => '')
  return /^\d+$/.test(text.trim()) ? Number(text) : null
}

/** Whether the process with this pid answers on the port, and has read its data. */
function answers(port: number, pid: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port })
    let reply = ''
    const finish = (ready: boolean) => {
      socket.destroy()
      resolve(ready)
    }
    socket.setTimeout(2_000, () => finish(false))
    socket.on('error', () => finish(false))
    socket.on('end', () => finish(false))
    socket.on('connect', () => socket.write('PING\r\nINFO server\r\n'))
    socket.on('data', (chunk) => {
      reply += chunk.toString('latin1')
      if (reply.startsWith('-')) return finish(false)
      const process = /^process_id:(\d+)\r$/m.exec(reply)?.[1]
      if (process !== undefined) finish(reply.startsWith('+PONG') && Number(process) === pid)
    })
  })
}

/** Ends the Redis that an earlier process left running on this folder, if there is one. */
export async function endLeftRedis(dir: string): Promise<void> {
  const pid = Number(await readFile(join(dir, 'redis.pid'), 'utf8').catch(() => ''))
  if (!Number.isInteger(pid) || pid <= 0) return
  const port = await lastPort(dir)
  const command = await commandLine(pid)
  // A server of ours shows its port in its title, and no two can have the same one.
  const ours = new RegExp(`(redis|valkey)-server .*(127\\.0\\.0\\.1:|--port )${port}\\b`)
  if (command !== null && ours.test(command)) await endProcess(pid, stopSteps)
  await rm(join(dir, 'redis.pid'), { force: true })
}
