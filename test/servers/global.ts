/** The servers of a test run: given by address, or in containers, or embedded; one line says which. */
import { randomBytes } from 'node:crypto'
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import type { TestProject } from 'vitest/node'
import { migrate } from '../../migrations/migrate.ts'
import { findPlaces } from '../../start/places.ts'
import { endLeftPostgres, startPostgres } from '../../start/postgres.ts'
import { isAlive } from '../../start/process.ts'
import { endLeftRedis, findRedis, startRedis } from '../../start/redis.ts'
import { env } from '../env.ts'

/** What a test file needs to reach the servers. */
export interface TestServers {
  redisUrl: string
  /** A database whose owner may create others. */
  databaseUrl: string
  /** The name of the migrated database that test databases are cloned from. */
  template: string
  /** The run's own folder, which its successor clears should it be killed. */
  folder: string
}

declare module 'vitest' {
  export interface ProvidedContext {
    servers: TestServers
  }
}

interface Served {
  url: string
  from: string
  stop(): Promise<void>
}

const redisImage = 'redis:7-alpine'
const postgresImage = 'postgres:18-alpine'
const folderPrefix = 'sluice-test-'
const templateWithinMs = 60_000

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await endLeftServers()
  const folder = await makeFolder()
  const places = await findPlaces(env)
  const images = await localImages()
  const served: Served[] = []
  const stop = async () => {
    await Promise.all(served.map((server) => server.stop()))
    await rm(folder, { recursive: true, force: true })
  }
  try {
    const [redis, database] = await together(
      served,
      serveRedis(folder, places, images),
      servePostgres(folder, places, images),
    )
    const template = await within(templateWithinMs, makeTemplate(database.url))
    console.log(`servers: Redis ${redis.from}, Postgres ${database.from}`)
    project.provide('servers', { redisUrl: redis.url, databaseUrl: database.url, template, folder })
    return async () => {
      await dropDatabases(database.url, template)
      await stop()
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Waits for both, so that the one which came up is stopped when the other does not. */
async function together(
  served: Served[],
  redis: Promise<Served>,
  database: Promise<Served>,
): Promise<[Served, Served]> {
  const settled = await Promise.allSettled([redis, database])
  for (const each of settled) if (each.status === 'fulfilled') served.push(each.value)
  return Promise.all([redis, database])
}

type Places = Awaited<ReturnType<typeof findPlaces>>

async function serveRedis(folder: string, places: Places, images: Set<string>): Promise<Served> {
  const given = env['TEST_REDIS_URL']
  if (given) return { url: given, from: 'from TEST_REDIS_URL', stop: async () => {} }
  if (images.has(redisImage)) return redisContainer()
  const program = await findRedis(places)
  const args = ['--databases', '2000', '--appendfsync', 'no']
  const server = await startRedis({ places, program, dir: join(folder, 'redis'), args })
  return { url: server.url, from: `embedded (${program.origin})`, stop: () => server.stop() }
}

async function servePostgres(folder: string, places: Places, images: Set<string>): Promise<Served> {
  const given = env['TEST_DATABASE_URL']
  if (given) return { url: given, from: 'from TEST_DATABASE_URL', stop: async () => {} }
  if (images.has(postgresImage)) return postgresContainer()
  const server = await startPostgres({
    places,
    dir: join(folder, 'postgres'),
    unsafe: true,
    settings: { fsync: 'off', full_page_writes: 'off', synchronous_commit: 'off' },
  })
  return { url: server.url, from: 'embedded', stop: () => server.stop() }
}

async function redisContainer(): Promise<Served> {
  const { GenericContainer } = await import('testcontainers')
  const container = await new GenericContainer(redisImage)
    .withCommand(['redis-server', '--databases', '2000', '--appendonly', 'yes'])
    .withExposedPorts(6379)
    .start()
  const url = `redis://${container.getHost()}:${container.getMappedPort(6379)}`
  return { url, from: `in a container (${redisImage})`, stop: async () => void container.stop() }
}

async function postgresContainer(): Promise<Served> {
  const { GenericContainer, Wait } = await import('testcontainers')
  const password = randomBytes(12).toString('hex')
  const container = await new GenericContainer(postgresImage)
    .withEnvironment({ POSTGRES_PASSWORD: password })
    .withExposedPorts(5432)
    // The image starts the server twice: first to initialise, then to serve.
    .withWaitStrategy(Wait.forLogMessage(/ready to accept connections/, 2))
    .start()
  const address = `${container.getHost()}:${container.getMappedPort(5432)}`
  const url = `postgres://postgres:${password}@${address}/postgres`
  return { url, from: `in a container (${postgresImage})`, stop: async () => void container.stop() }
}

/** The images that a Docker engine here already has: tests never pull. Empty without an engine. */
async function localImages(): Promise<Set<string>> {
  const socketPath = '/var/run/docker.sock'
  const body = await new Promise<string>((resolve) => {
    const asked = request({ socketPath, path: '/images/json', timeout: 2_000 }, (response) => {
      response.setEncoding('utf8')
      let text = ''
      response.on('data', (chunk: string) => {
        text += chunk
      })
      response.on('end', () => resolve(text))
    })
    asked.on('timeout', () => asked.destroy())
    asked.on('error', () => resolve('[]'))
    asked.end()
  })
  const images = JSON.parse(body) as { RepoTags?: string[] | null }[]
  const tags = images.flatMap((image) => image.RepoTags ?? [])
  // Without its helper's image, testcontainers would pull that one.
  return new Set(tags.some((tag) => tag.startsWith('testcontainers/ryuk:')) ? tags : [])
}

/** Readable by the user that PostgreSQL runs as; holds our pid, so that a later run can clear up. */
async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), folderPrefix))
  await chmod(folder, 0o755)
  await writeFile(join(folder, 'pid'), String(process.pid))
  return folder
}

/** Ends what a killed earlier run has left: its servers and its folder. */
async function endLeftServers(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const folder = join(tmpdir(), name)
    if (!name.startsWith(folderPrefix)) continue
    // Another run that ends at this moment takes its folder with it.
    const owner = await stat(folder).catch(() => null)
    if (owner?.uid !== process.getuid?.()) continue
    const pid = Number(await readFile(join(folder, 'pid'), 'utf8').catch(() => ''))
    if (pid === 0 || (await isAlive(pid))) continue
    for (const server of await readdir(folder)) {
      await endLeftRedis(join(folder, server))
      await endLeftPostgres(join(folder, server))
    }
    await rm(folder, { recursive: true, force: true })
  }
}

/** A migrated database with a name of this run, which nobody connects to again. */
async function makeTemplate(databaseUrl: string): Promise<string> {
  const name = `sluice_test_${randomBytes(5).toString('hex')}`
  await asOwner(databaseUrl, (sql) => sql.unsafe(`create database ${name}`))
  const url = new URL(databaseUrl)
  url.pathname = `/${name}`
  await migrate({ databaseUrl: url.href, schema: 'bsky' })
  return name
}

/** Throws when the work takes longer; what it waits for ends with the servers. */
async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => late.reject(new Error(`no template after ${ms} ms`)), ms)
  try {
    return await Promise.race([work, late.promise])
  } finally {
    clearTimeout(timer)
  }
}

/** The template and every clone that a test did not drop. */
async function dropDatabases(databaseUrl: string, template: string): Promise<void> {
  await asOwner(databaseUrl, async (sql) => {
    const found = await sql<{ datname: string }[]>`
      select datname from pg_database where starts_with(datname, ${template})`
    for (const { datname } of found) await sql.unsafe(`drop database ${datname} with (force)`)
  })
}

async function asOwner<T>(
  databaseUrl: string,
  work: (sql: postgres.Sql) => PromiseLike<T>,
): Promise<T> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} })
  try {
    return await work(sql)
  } finally {
    await sql.end({ timeout: 5 })
  }
}
