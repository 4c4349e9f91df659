/** The reference network for a test: the process that runs it, and its commands. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort } from '../../start/process.ts'

/** Where it answers. */
export interface Addresses {
  plc: string
  pds: string
  /** The reference's AppView, on its own database. */
  bsky: string
  /** An unmodified AppView on ours. */
  peer: string
  /** The moderation service: a labeler. */
  ozone: string
  /** The DID that the moderation service signs labels with. */
  moderation: string
  /** Whose labels both AppViews believe. */
  labelers: readonly string[]
  adminPassword: string
}

export type Subject =
  | { $type: 'com.atproto.admin.defs#repoRef'; did: string }
  | { $type: 'com.atproto.repo.strongRef'; uri: string; cid: string }

interface Commands {
  /** Resolves when the reference has indexed everything said so far. */
  settle(): Promise<void>
  seedNames(): Promise<readonly string[]>
  /** Runs one of the reference's seeds; gives the DIDs of its accounts by name. */
  seed(name: string): Promise<Record<string, string>>
  /** An authorization header with which both AppViews take a call for one of an account's own. */
  serviceAuth(did: string, method: string): Promise<string>
  /** Emits a moderation event in ozone. */
  moderate(event: Record<string, unknown>, subject: Subject): Promise<void>
  lastSeq(): Promise<number>
}

export interface ReferenceNetwork extends Commands, Addresses, AsyncDisposable {}

export interface ReferenceOptions {
  workingFolder: string
  /** An empty database for the reference. */
  databaseUrl: string
  redisPort: number
  /** Our database, which the second AppView reads. */
  peer: { databaseUrl: string; schema: string }
}

const names = ['settle', 'seedNames', 'seed', 'serviceAuth', 'moderate', 'lastSeq'] as const
const services = ['plc', 'pds', 'bsky', 'ozone', 'peer', 'peerDataplane'] as const

/** Starts it; throws with what it printed when it ends before it is up. */
export async function startReference(options: ReferenceOptions): Promise<ReferenceNetwork> {
  const { workingFolder, databaseUrl, redisPort, peer } = options
  const ports: Record<string, number> = {}
  for (const service of services) ports[service] = await freePort()
  const argument = JSON.stringify({ databaseUrl, ports, peer })
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL('reference/network.mjs', import.meta.url)), argument],
    {
      cwd: workingFolder,
      env: {
        PATH: dirname(process.execPath),
        REDIS_HOST: `127.0.0.1:${redisPort}`,
        LOG_ENABLED: 'false',
        NODE_ENV: 'test',
      },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    },
  )
  const printed = lastPrinted(child)
  const ended = once(child, 'exit')
  const up = once(child, 'message').then(([message]) => message as { ready: Addresses })
  const first = await Promise.race([up, ended])
  if (!('ready' in first)) throw new Error(`the reference network did not start:\n${printed()}`)
  const gone = ended.then(() => {
    throw new Error(`the reference network has ended:\n${printed()}`)
  })
  // At the end of the test nobody waits for it.
  gone.catch(() => {})
  const call = caller(child, gone)
  const commands = Object.fromEntries(
    names.map((name) => [name, (...args: unknown[]) => call(name, args)]),
  ) as unknown as Commands
  return {
    ...first.ready,
    ...commands,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
      await ended
    },
  }
}

function caller(child: ChildProcess, gone: Promise<never>) {
  let last = 0
  const waiting = new Map<number, PromiseWithResolvers<unknown>>()
  child.on('message', (message: { id: number; result?: unknown; error?: string }) => {
    const call = waiting.get(message.id)
    waiting.delete(message.id)
    if (message.error === undefined) call?.resolve(message.result)
    else call?.reject(new Error(message.error))
  })
  return (name: string, args: unknown[]) => {
    const call = Promise.withResolvers<unknown>()
    const id = ++last
    waiting.set(id, call)
    child.send({ id, name, args })
    return Promise.race([call.promise, gone])
  }
}

/** The end of what it prints, for when it fails. */
function lastPrinted(child: ChildProcess): () => string {
  let text = ''
  const collect = (data: Buffer) => {
    text = (text + data.toString()).slice(-8_000)
  }
  child.stdout?.on('data', collect)
  child.stderr?.on('data', collect)
  return () => text
}
