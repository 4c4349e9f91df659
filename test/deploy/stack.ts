/** docker-compose.prod.yml on the lane's engine: its secrets, its addresses, and clients that look inside. */
import { randomBytes, randomInt } from 'node:crypto'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import postgres, { type Sql } from 'postgres'
import { inject } from 'vitest'
import type { Network } from '../../simulator/network.ts'
import {
  type ComposeOptions,
  type ContainerEvent,
  composeFor,
  type Docker,
  dockerAt,
  watchEvents,
} from './docker.ts'

export interface Stack extends AsyncDisposable {
  readonly docker: Docker
  /** `docker-compose` with this stack's project, files and settings. */
  readonly compose: Docker
  /** What `compose` is made of. */
  readonly options: ComposeOptions
  /** The same with other settings. */
  composeWith(env: Readonly<Record<string, string>>): Promise<Docker>
  /** The loopback address at which the stack's ports are published. */
  readonly bind: string
  /** Holds the credentials' files. */
  readonly secrets: string
  readonly redis: Redis
  readonly redisUrl: string
  readonly sql: Sql
  /** What became of its containers, in order. */
  readonly events: readonly ContainerEvent[]
  /** The id of the service's container. */
  container(service: string): Promise<string>
  /** What `docker inspect` says of the service's container. */
  inspect(service: string): Promise<Inspection>
}

/** The part of `docker inspect` that tests look at. */
export interface Inspection {
  Id: string
  RestartCount: number
  Config: { User: string; Env: string[]; Labels: Record<string, string> }
  State: {
    Status: string
    ExitCode: number
    StartedAt: string
    FinishedAt: string
    Health?: { Status: string; Log: { Start: string; End: string; ExitCode: number }[] }
  }
  HostConfig: {
    Memory: number
    NanoCpus: number
    ReadonlyRootfs: boolean
    CapDrop: string[] | null
    SecurityOpt: string[] | null
    LogConfig: { Type: string; Config: Record<string, string> }
    RestartPolicy: { Name: string }
  }
}

export interface StackOptions {
  /** What the workers are told of; it listens at `inject('dock').gateway`. */
  network: Network
  /** Overlays after docker-compose.prod.yml. */
  files?: readonly string[]
  /** Credentials beside those that docker-compose.prod.yml names, or in their place, given the password. */
  secrets?: (password: string) => Readonly<Record<string, string>>
  /** The test's own client asks a Sentinel, too. */
  sentinels?: boolean
  /** More of what the compose files read. */
  env?: Readonly<Record<string, string>>
}

const root = fileURLToPath(new URL('../../', import.meta.url))
const user = 'sluice'

/**
 * Prepares a stack with Postgres and without Grafana; `compose('up', '--detach')` starts it. Everything
 * of it is gone when it is disposed.
 */
export async function openStack(options: StackOptions): Promise<Stack> {
  const { network, files = [], env = {} } = options
  const { host, images, sluice } = inject('dock')
  const docker = dockerAt(host)
  const password = randomBytes(12).toString('hex')
  const secrets = await writeSecrets({ ...credentials(password), ...options.secrets?.(password) })
  // Ports are as operators know them, so each stack has an address of its own.
  const bind = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.${randomInt(2, 255)}`
  const project = `sluice-test-${randomBytes(4).toString('hex')}`
  const own: ComposeOptions = {
    host,
    project,
    files: ['docker-compose.prod.yml', ...files, 'test/deploy/compose.yml'].map((file) =>
      join(root, file),
    ),
    env: {
      ...images,
      SLUICE_IMAGE: sluice,
      SECRETS_DIR: secrets,
      BIND: bind,
      COMPOSE_PROFILES: 'postgres',
      REDIS_MAXMEMORY: '1gb',
      REDIS_MEM_LIMIT: '2g',
      INDEXER_CPUS: '2',
      INGESTER_RELAY_HOSTS: network.relay.url,
      INGESTER_LABELER_HOSTS: network.labeler.url,
      PLC_URL: network.plc.url,
      HANDLE_RESOLVER: network.handleResolver.url,
      ALLOW_PRIVATE_HOSTS: 'true',
      ...env,
    },
  }
  const composeWith: Stack['composeWith'] = (other) =>
    composeFor({ ...own, env: { ...own.env, ...other } })
  const compose = await composeWith({})
  const events = watchEvents(host, project)
  const redisUrl = `redis://:${password}@${bind}:6379`
  const redis = new Redis(redisUrl, {
    protocol: 2,
    lazyConnect: true,
    maxRetriesPerRequest: null,
    retryStrategy: () => 100,
    ...(options.sentinels ? throughSentinel(bind) : {}),
  })
  redis.on('error', () => {})
  const sql = postgres(`postgres://${user}:${password}@${bind}:5432/${user}`, {
    max: 4,
    onnotice: () => {},
    connection: { search_path: 'bsky,public' },
  })
  const container = async (service: string) => {
    const labels = { project, service, oneoff: 'False' }
    const filters = Object.entries(labels).flatMap(([name, value]) => [
      ...['--filter', `label=com.docker.compose.${name}=${value}`],
    ])
    return (await docker('ps', '--all', '--quiet', ...filters)).trim()
  }
  return {
    docker,
    compose,
    options: own,
    composeWith,
    bind,
    secrets,
    redis,
    redisUrl,
    sql,
    events: events.seen,
    container,
    async inspect(service) {
      const [found] = JSON.parse(await docker('inspect', await container(service)))
      return found
    },
    async [Symbol.asyncDispose]() {
      redis.disconnect()
      await sql.end({ timeout: 1 })
      await events[Symbol.asyncDispose]()
      await compose('down', '--volumes', '--remove-orphans', '--timeout', '10')
      await rm(secrets, { recursive: true })
    },
  }
}

/** Names of the stack's network mean nothing out here. */
function throughSentinel(bind: string) {
  return {
    name: 'streams',
    sentinels: [{ host: bind, port: 26379 }],
    updateSentinels: false,
    natMap: {
      'redis:6379': { host: bind, port: 6379 },
      'redis2:6379': { host: bind, port: 6380 },
    },
  }
}

/** What docker-compose.prod.yml reads from files. */
function credentials(password: string): Record<string, string> {
  return {
    redis_url: `redis://:${password}@redis:6379`,
    redis_conf: `requirepass ${password}`,
    database_url: `postgres://${user}:${password}@pgbouncer:6432/${user}`,
    pgbouncer_databases: `${user} = host=postgres port=5432`,
    pgbouncer_users: `"${user}" "${password}"`,
    postgres_password: password,
    grafana_password: password,
  }
}

async function writeSecrets(files: Readonly<Record<string, string>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-secrets-'))
  await chmod(folder, 0o755)
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), `${text}\n`)
  return folder
}
