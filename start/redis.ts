/** An embedded Redis: finds or fetches the program, and runs it on a folder of data. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { findProgram, type Places } from './places.ts'
import {
  commandLine,
  endProcess,
  freePort,
  run,
  type ServerProcess,
  type Step,
  startServer,
} from './process.ts'

/** A Redis server program that runs on this machine. */
export interface RedisProgram {
  command: string
  /** What it needs in its environment to find its libraries. */
  env: Record<string, string>
  /** Where it comes from, in words. */
  origin: string
}

export interface FetchOptions {
  /** Ends a download. */
  signal?: AbortSignal
  /** Called once when the program has to be fetched. */
  onFetch?: () => void
}

/** Thrown when this machine has no Redis and none can be fetched; the message says what to install. */
export class NoRedisError extends Error {}

const packageSets = [
  { packages: ['redis-server', 'redis-tools'], program: 'usr/bin/redis-server' },
  { packages: ['valkey-server', 'valkey-tools'], program: 'usr/bin/valkey-server' },
] as const
type PackageSet = (typeof packageSets)[number]

const downloadTimeoutMs = 120_000
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
export async function findRedis(places: Places, options: FetchOptions = {}): Promise<RedisProgram> {
  const installed = await findProgram(places, 'redis-server', 'valkey-server')
  if (installed !== null && (await runs({ command: installed, env: {} }))) {
    return { command: installed, env: {}, origin: installed }
  }
  return unpackedRedis(places, options)
}

async function unpackedRedis(places: Places, options: FetchOptions): Promise<RedisProgram> {
  const aptGet = await findProgram(places, 'apt-get')
  const dpkg = await findProgram(places, 'dpkg')
  if (aptGet === null || dpkg === null) throw noRedis('this is not a Debian or Ubuntu')

  const release = await readFile('/etc/os-release', 'utf8').catch(() => '')
  const version = /^VERSION_CODENAME="?([\w.-]+)/m.exec(release)?.[1] ?? 'unknown'
  const folder = join(places.cache, `redis-${version}-${process.arch}`)
  const ready = await programIn(folder)
  if (ready !== null) return ready

  options.onFetch?.()
  await rm(folder, { recursive: true, force: true })
  const building = `${folder}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    await build({ folder: building, signal: options.signal })
    // Two processes may come here at once; whoever is second takes what the first has made.
    await rename(building, folder).catch(() => undefined)
  } finally {
    await rm(building, { recursive: true, force: true })
  }
  const built = await programIn(folder)
  if (built === null) throw noRedis(`what was unpacked into ${folder} does not run`)
  return built
}

function noRedis(why: string): NoRedisError {
  return new NoRedisError(
    `no Redis on this machine: neither redis-server nor valkey-server is on PATH, and ${why}. ` +
      'Install one (Debian, Ubuntu: apt-get install redis-server; Fedora: dnf install valkey; ' +
      'macOS: brew install redis)',
  )
}

async function runs({ command, env }: Pick<RedisProgram, 'command' | 'env'>): Promise<boolean> {
  const { code } = await run(command, ['--version'], { timeoutMs: 10_000, env })
  return code === 0
}

/** The program unpacked in this folder, if there is one and it runs. */
async function programIn(folder: string): Promise<RedisProgram | null> {
  const env = { LD_LIBRARY_PATH: (await libraryFolders(folder)).join(':') }
  for (const { program } of packageSets) {
    const command = join(folder, program)
    if (await runs({ command, env })) return { command, env, origin: command }
  }
  return null
}

async function libraryFolders(folder: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true }).catch(() => [])
  const libraries = names.filter((name) => /\.so(\.[\d.]+)?$/.test(name))
  return [...new Set(libraries.map((name) => join(folder, dirname(name))))]
}

interface Building {
  folder: string
  signal?: AbortSignal | undefined
}

/** Fetches the packages and the libraries that the machine lacks, and unpacks them into the folder. */
async function build({ folder, signal }: Building): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o755 })
  const apt = join(folder, '.apt')
  const own = await privateLists(apt)
  let problem = ''
  // First the machine's own package lists; where they are missing or too old, fresh private ones.
  for (const options of [[], own]) {
    if (options === own) {
      const update = await run('apt-get', [...own, '-q', 'update'], {
        timeoutMs: downloadTimeoutMs,
        signal,
      })
      // A mirror that can't be reached is only a warning of apt's.
      problem = lastLine(update.stderr) || problem
    }
    for (const set of packageSets) {
      const failed = await unpack(set, { folder, signal }, options)
      if (failed === null) return rm(apt, { recursive: true, force: true })
      problem ||= failed
    }
  }
  throw noRedis(`the distribution's package could not be fetched (${problem})`)
}

async function privateLists(folder: string): Promise<string[]> {
  await mkdir(join(folder, 'lists', 'partial'), { recursive: true })
  await mkdir(join(folder, 'cache', 'archives', 'partial'), { recursive: true })
  return [
    `-oDir::State::lists=${join(folder, 'lists')}`,
    `-oDir::Cache=${join(folder, 'cache')}`,
    // Under root, apt would fetch as a user who can't write here.
    '-oAPT::Sandbox::User=root',
  ]
}

/** Unpacks the set and, round by round, the libraries it lacks; null on success, else the problem. */
async function unpack(
  set: PackageSet,
  building: Building,
  options: readonly string[],
): Promise<string | null> {
  const { folder } = building
  const known = new Set<string>(set.packages)
  let wanted: string[] = [...set.packages]
  for (let round = 0; round < 4; round++) {
    const failed = await fetchAndUnpack(wanted, building, options)
    if (failed !== null) return failed
    const missing = await missingLibraries(join(folder, set.program), folder)
    if (missing.length === 0) return null
    wanted = (await libraryPackages(wanted, options)).filter((name) => !known.has(name))
    if (wanted.length === 0) return `no package has ${missing.join(', ')}`
    for (const name of wanted) known.add(name)
  }
  return 'its libraries need too many others'
}

async function fetchAndUnpack(
  packages: readonly string[],
  { folder, signal }: Building,
  options: readonly string[],
): Promise<string | null> {
  const archives = join(folder, '.apt', 'archives')
  await mkdir(archives, { recursive: true })
  const fetched = await run('apt-get', [...options, '-q', 'download', ...packages], {
    timeoutMs: downloadTimeoutMs,
    cwd: archives,
    signal,
  })
  if (fetched.code !== 0) return lastLine(fetched.stderr)
  for (const name of await readdir(archives)) {
    const archive = join(archives, name)
    const unpacked = await run('dpkg', ['-x', archive, folder], { timeoutMs: 30_000 })
    if (unpacked.code !== 0) return lastLine(unpacked.stderr)
    await rm(archive)
  }
  return null
}

async function missingLibraries(program: string, folder: string): Promise<string[]> {
  const env = { LD_LIBRARY_PATH: (await libraryFolders(folder)).join(':') }
  const ldd = await run('ldd', [program], { timeoutMs: 10_000, env })
  return [...ldd.stdout.matchAll(/^\s*(\S+) => not found/gm)].map(([, name]) => name ?? '')
}

/** The library packages that these depend on and that are not installed. Never the C library. */
async function libraryPackages(
  packages: readonly string[],
  options: readonly string[],
): Promise<string[]> {
  const listed = await run('apt-cache', [...options, 'depends', ...packages], {
    timeoutMs: 30_000,
  })
  const names = [...listed.stdout.matchAll(/^\s*\|?(?:Pre)?Depends: (lib[\w.+-]+)/gm)].map(
    ([, name]) => name ?? '',
  )
  const lacking: string[] = []
  for (const name of new Set(names)) {
    if (name === 'libc6') continue
    const status = await run('dpkg', ['-s', name], { timeoutMs: 10_000 })
    if (!/^Status: install ok installed$/m.test(status.stdout)) lacking.push(name)
  }
  return lacking
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? ''
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
  program?: RedisProgram
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
  program: RedisProgram
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
