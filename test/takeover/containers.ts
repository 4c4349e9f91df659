/** The guide played with containers: ours as docker-compose.prod.yml has them, the older ones beside them. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inject } from 'vitest'
import type { Network } from '../../simulator/network.ts'
import { composeLine } from '../deploy/docker.ts'
import { openStack, type Stack } from '../deploy/stack.ts'
import { env } from '../env.ts'
import { consumerOf, type Family } from './older/family.ts'
import { readCommands, runCommands } from './page.ts'
import type { Stage } from './play.ts'
import { makeTables, olderSettings, ourSettings } from './scene.ts'
import type { Told } from './told.ts'

const tests = fileURLToPath(new URL('../', import.meta.url))
const servers = ['redis', 'postgres', 'pgbouncer1', 'pgbouncer2']
const workers = ['ingester', 'backfiller1', 'backfiller2', 'indexer1', 'indexer2']
const published = [4100, 9091, 9092]
/** Asking the engine for every container costs a part of a second. */
const checkEveryMs = 5_000

/** Starts the servers and makes the tables; no worker runs yet. */
export async function openContainers(family: Family, network: Network, told: Told): Promise<Stage> {
  const resources = new AsyncDisposableStack()
  try {
    const settings = ourSettings(family, { network })
    const stack = resources.use(await openStack({ network, env: settings }))
    const { docker, compose, redis, sql } = stack
    await compose('up', '--detach', ...servers)
    await redis.connect()
    await untilUp(() => sql`select 1`)
    await makeTables(sql, family)
    const older = olderSettings(family, {
      network,
      redisUrl: stack.redisUrl.replace(stack.bind, 'redis'),
      databaseUrl: databaseUrl(stack),
    })
    const names = new Set<string>()
    resources.defer(async () => {
      if (names.size > 0) await docker('rm', '--force', ...names)
    })
    const folder = await mkdtemp(join(tmpdir(), 'sluice-takeover-'))
    resources.defer(() => rm(folder, { recursive: true }))
    const environment = await writePrograms(folder, stack)
    const functions = readCommands().get('names') ?? ''

    const startOlder: Stage['startOlder'] = async (started, more = {}) => {
      for (const name of started) {
        const consumer = consumerOf(family, name)
        const given = {
          ...older,
          ...more,
          INDEXER_CONSUMER: consumer,
          BACKFILLER_CONSUMER: consumer,
        }
        const service = name.replace(/^old-|\d+$/g, '')
        await docker(
          ...['run', '--detach', '--name', name, '--network', `${await networkOf(stack)}`],
          ...['--volume', `${tests}:/app/test:ro`, '--entrypoint', 'node', '--no-healthcheck'],
          ...Object.entries(given).flatMap(([key, value]) => ['--env', `${key}=${value}`]),
          ...[inject('dock').sluice, '/app/test/takeover/older/main.ts', family, service],
        )
        names.add(name)
      }
    }
    let checkAt = 0
    const stage: Stage = {
      family,
      network,
      told,
      redis,
      sql,
      startOlder,
      saidBy: (name) => docker('logs', name),
      async check() {
        if (Date.now() < checkAt) return
        checkAt = Date.now() + checkEveryMs
        for (const name of names) {
          const failed = /^(failed|unreadable): .*$/m.exec(await docker('logs', name))
          if (failed !== null) throw new Error(`${name} ${failed[0].slice(0, 2_000)}`)
        }
        for (const { service, action } of stack.events) {
          // Ours end when they are told to, and then with 0.
          if (workers.includes(service) && action === 'oom')
            throw new Error(`${service}: ${action}`)
        }
      },
      run: (name) => runCommands(name, environment, functions),
      [Symbol.asyncDispose]: () => resources.disposeAsync(),
    }
    return stage
  } catch (error) {
    await resources.disposeAsync()
    throw error
  }
}

function databaseUrl({ redisUrl }: Stack): string {
  return `postgres://sluice:${new URL(redisUrl).password}@postgres:5432/sluice`
}

async function networkOf(stack: Stack): Promise<string> {
  const format = '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}'
  const container = await stack.container('redis')
  return (await stack.docker('inspect', '--format', format, container)).trim()
}

async function untilUp(ask: () => PromiseLike<unknown>): Promise<void> {
  for (let left = 100; ; left -= 1) {
    try {
      await ask()
      return
    } catch (error) {
      if (left === 0) throw error
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
  }
}

/** `docker compose -f docker-compose.prod.yml` is this stack's, and the ports are at its address. */
async function writePrograms(folder: string, stack: Stack): Promise<Record<string, string>> {
  const { host } = inject('dock')
  const real = { PATH: env['PATH'] ?? '', HOME: env['HOME'] ?? '/', DOCKER_HOST: host }
  const quoted = (await composeLine(stack.options)).map((arg) => `'${arg}'`).join(' ')
  await writeFile(
    join(folder, 'docker'),
    `#!/bin/bash
PATH=\${PATH#*:}
if [ "$1 $2 $3" = 'compose -f docker-compose.prod.yml' ]; then shift 3; exec ${quoted} "$@"; fi
exec docker "$@"
`,
  )
  await chmod(join(folder, 'docker'), 0o755)
  await writeFile(
    join(folder, '.curlrc'),
    published.map((port) => `connect-to = "127.0.0.1:${port}:${stack.bind}:${port}"\n`).join(''),
  )
  return { ...stack.options.env, ...real, PATH: `${folder}:${real.PATH}`, CURL_HOME: folder }
}
