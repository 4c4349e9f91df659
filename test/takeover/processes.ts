/**
 * The guide played with processes: the names that the page uses (`docker`, `compose`, `sluice`,
 * `redis-cli`) are programs on PATH that reach them.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { inject } from 'vitest'
import { findPlaces } from '../../start/places.ts'
import { findRedis } from '../../start/redis.ts'
import { env } from '../env.ts'
import type { Pipeline, RunningWorker, Service } from '../pipeline.ts'
import { findTool } from '../servers/tool.ts'
import { consumerOf, type Family } from './older/family.ts'
import { runCommands } from './page.ts'
import type { Stage } from './play.ts'
import type { Told } from './told.ts'

export interface ProcessOptions {
  family: Family
  pipeline: Pipeline
  told: Told
  /** Settings of ours beside those of the pipeline. */
  ours: Readonly<Record<string, string>>
  /** Settings of the older workers. */
  older: Readonly<Record<string, string>>
}

const olderMain = fileURLToPath(new URL('./older/main.ts', import.meta.url))
const cliMain = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))
const ports: Readonly<Record<string, number>> = {
  ingester: 4100,
  backfiller1: 9091,
  backfiller2: 9092,
}

/** `old-backfiller2` and `backfiller2` are both of the service backfiller. */
const serviceOf = (name: string) => name.replace(/^old-/, '').replace(/\d+$/, '') as Service

export async function openProcesses(options: ProcessOptions): Promise<Stage> {
  const { family, pipeline, told, ours, older } = options
  const olderWorkers = new Map<string, ChildProcess>()
  const said = new Map<string, string>()
  const workers = new Map<string, RunningWorker>()
  const folder = await mkdtemp(join(inject('servers').folder, 'stage-'))
  const socket = join(folder, 'socket')

  /** Of the first start: as a container keeps what it was made with. */
  const made = new Map<string, Record<string, string>>()
  const startOlder: Stage['startOlder'] = async (names, settings) => {
    for (const name of names) {
      made.set(name, settings ?? made.get(name) ?? {})
      const consumer = consumerOf(family, name)
      const child = spawn(process.execPath, [olderMain, family, serviceOf(name)], {
        env: {
          ...older,
          ...made.get(name),
          BACKFILLER_CONSUMER: consumer,
          INDEXER_CONSUMER: consumer,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      const hear = (data: Buffer) => said.set(name, (said.get(name) ?? '') + data.toString())
      child.stdout.on('data', hear)
      child.stderr.on('data', hear)
      olderWorkers.set(name, child)
    }
  }
  const killOlder = async (name: string) => {
    const child = olderWorkers.get(name)
    if (child === undefined) throw new Error(`No such container: ${name}`)
    olderWorkers.delete(name)
    if (child.exitCode !== null) throw new Error(`${name} ended by itself: ${said.get(name)}`)
    const exit = once(child, 'exit')
    // They do not know SIGTERM: docker kills them.
    child.kill('SIGKILL')
    await exit
  }
  const start = async (name: string) => {
    const consumer = { INDEXER_CONSUMER: name, BACKFILLER_CONSUMER: name }
    workers.set(name, await pipeline.start(serviceOf(name), { ...ours, ...consumer }))
    await writeCurl()
  }
  const stop = async (name: string) => {
    const worker = workers.get(name)
    if (worker === undefined) throw new Error(`no such service: ${name}`)
    workers.delete(name)
    const code = await worker.stop()
    if (code !== 0) throw new Error(`${name} ended with ${code}:\n${worker.output()}`)
  }

  /** The ports of the page lead to where the workers really listen. */
  const writeCurl = () =>
    writeFile(
      join(folder, '.curlrc'),
      Object.entries(ports)
        .flatMap(([name, port]) => {
          const url = workers.get(name)?.metricsUrl
          return url ? [`connect-to = "127.0.0.1:${port}:${new URL(url).host}"\n`] : []
        })
        .join(''),
    )

  const docker = async ([command = '', ...names]: readonly string[]): Promise<void> => {
    if (command === 'stop') await Promise.all(names.map(killOlder))
    else if (command === 'start') await startOlder(names)
    else throw new Error(`docker ${command}: not played here`)
  }
  const compose = async ([command = '', ...args]: readonly string[]): Promise<void> => {
    const names = args.filter((arg) => !arg.startsWith('-'))
    if (command === 'stop') await Promise.all(names.map(stop))
    else if (command === 'up') await Promise.all(names.map(start))
    else throw new Error(`compose ${command}: not played here`)
  }
  const server = createServer(async (request, response) => {
    const args = (await text(request)).split('\n').filter((arg) => arg !== '')
    try {
      await (request.url === '/docker' ? docker(args) : compose(args))
      response.end()
    } catch (error) {
      response.writeHead(500).end(String(error))
    }
  })
  server.listen(socket)
  await once(server, 'listening')

  const environment = await writePrograms(folder, socket, { ...pipeline.environment, ...ours })
  await writeCurl()

  return {
    family,
    network: pipeline.network,
    told,
    redis: pipeline.redis,
    sql: pipeline.sql,
    startOlder,
    saidBy: async (name) => said.get(name) ?? '',
    async check() {
      for (const [name, text] of said) {
        const failed = /^failed: .*$/m.exec(text)
        if (failed !== null) throw new Error(`${name} ${failed[0].slice(0, 2_000)}`)
      }
      for (const [name, { child, output }] of workers) {
        if (child.exitCode !== null || child.signalCode !== null) {
          throw new Error(`${name} ended:\n${output().slice(-4_000)}`)
        }
      }
      for (const [name, { exitCode, signalCode }] of olderWorkers) {
        if (exitCode !== null || signalCode !== null) {
          throw new Error(`${name} ended:\n${said.get(name)?.slice(-4_000)}`)
        }
      }
    },
    async run(name) {
      return runCommands(name, environment)
    },
    async [Symbol.asyncDispose]() {
      for (const child of olderWorkers.values()) child.kill('SIGKILL')
      await Promise.all([...workers.values()].map((worker) => worker.kill()))
      server.close()
    },
  }
}

async function writePrograms(
  folder: string,
  socket: string,
  settings: Readonly<Record<string, string>>,
): Promise<Record<string, string>> {
  const places = await findPlaces(env)
  const redis = await findRedis(places)
  const beside = join(dirname(redis.command), 'redis-cli')
  const cli = redis.env['LD_LIBRARY_PATH']
    ? { command: beside, env: redis.env }
    : await findTool('redis-cli', [{ packages: ['redis-tools'], program: 'usr/bin/redis-cli' }])
  const url = new URL(settings['REDIS_URL'] ?? '')
  const libraries = cli.env['LD_LIBRARY_PATH'] ?? ''
  const send = (to: string) =>
    `printf '%s\\n' "$@" | curl -sS --fail-with-body --unix-socket '${socket}' --data-binary @- http://stage/${to}`
  const programs = {
    docker: send('docker'),
    compose: send('compose'),
    sluice: `exec '${process.execPath}' '${cliMain}' "$@"`,
    'redis-cli': `LD_LIBRARY_PATH='${libraries}' exec '${cli.command}' -h ${url.hostname} -p ${url.port} -n ${url.pathname.slice(1) || 0} "$@"`,
  }
  const bin = join(folder, 'bin')
  await mkdir(bin)
  for (const [name, line] of Object.entries(programs)) {
    await writeFile(join(bin, name), `#!/bin/bash\n${line}\n`)
    await chmod(join(bin, name), 0o755)
  }
  return { ...settings, PATH: `${bin}:${env['PATH']}`, CURL_HOME: folder, LOG_LEVEL: 'error' }
}
