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
import { composeFor, type Docker, dockerAt } from './docker.ts'

export interface Stack extends AsyncDisposable {
  readonly docker: Docker
  /** `docker-compose` with this stack's project, files and settings. */
  readonly compose: Docker
  /** The loopback address at which the stack's ports are published. */
  readonly bind: string
  /** Holds the credentials' files. */
  readonly secrets: string
  readonly redis: Redis
  readonly redisUrl: string
  readonly sql: Sql
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
  const secrets = await writeSecrets(password)
  // Ports are as operators know them, so each stack has an address of its own.
  const bind = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.${randomInt(2, 255)}`
  const compose = await composeFor({
    host,
    project: `sluice-test-${randomBytes(4).toString('hex')}`,
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
  })
  const redisUrl = `redis://:${password}@${bind}:6379`
  const redis = new Redis(redisUrl, {
    protocol: 2,
    lazyConnect: true,
    maxRetriesPerRequest: null,
    retryStrategy: () => 100,
  })
  redis.on('error', () => {})
  const sql = postgres(`postgres://${user}:${password}@${bind}:5432/${user}`, {
    max: 4,
    onnotice: () => {},
    connection: { search_path: 'bsky,public' },
  })
  const container = async (service: string) => (await compose('ps', '--quiet', service)).trim()
  return {
    docker,
    compose,
    bind,
    secrets,
    redis,
    redisUrl,
    sql,
    container,
    async inspect(service) {
      const [found] = JSON.parse(await docker('inspect', await container(service)))
      return found
    },
    async [Symbol.asyncDispose]() {
      redis.disconnect()
      await sql.end({ timeout: 1 })
      await compose('down', '--volumes', '--remove-orphans', '--timeout', '10')
      await rm(secrets, { recursive: true })
    },
  }
}

async function writeSecrets(password: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-secrets-'))
  await chmod(folder, 0o755)
  const files = {
    redis_url: `redis://:${password}@redis:6379`,
    redis_conf: `requirepass ${password}`,
    database_url: `postgres://${user}:${password}@pgbouncer:6432/${user}`,
    pgbouncer_databases: `${user} = host=postgres port=5432`,
    pgbouncer_users: `"${user}" "${password}"`,
    postgres_password: password,
    grafana_password: password,
  }
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), `${text}\n`)
  return folder
}
