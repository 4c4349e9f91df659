/** What `npm start` promises, from outside: as a person starts it, ends it and kills it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { afterEach, expect, test, vi } from 'vitest'
import { env } from '../test/env.ts'
import { testFolder } from './parent.fixture.ts'
import { isAlive } from './process.ts'

const packageRoot = fileURLToPath(new URL('..', import.meta.url))
// Nothing listens on port 1 of this machine, and no traffic leaves it.
const nowhere = '127.0.0.1:1'
const longest = 90_000

interface Started {
  child: ChildProcess
  output: () => string
  /** Resolves with the exit code. */
  exited: Promise<number | null>
}

const running = new Set<Started>()

// A test that failed half-way must leave nothing behind.
afterEach(async () => {
  for (const { child, exited } of running) {
    child.kill('SIGINT')
    await exited
  }
})

function npmStart(...args: string[]): Started {
  const { REDIS_URL: _, DATABASE_URL: __, ...rest } = env
  const child = spawn(process.execPath, ['start/main.ts', ...args], {
    cwd: packageRoot,
    env: rest,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8')
    stream.on('data', (chunk: string) => {
      text += chunk
    })
  }
  const exited = once(child, 'close').then(() => {
    running.delete(started)
    return child.exitCode
  })
  const started: Started = { child, output: () => text, exited }
  running.add(started)
  return started
}

async function says(started: Started, pattern: RegExp, timeout = 60_000): Promise<void> {
  await vi.waitFor(() => expect(started.output()).toMatch(pattern), { timeout, interval: 50 })
}

async function workersOf(dir: string): Promise<number[]> {
  const logs = join(dir, 'logs')
  const names = (await readdir(logs)).filter((name) => name.endsWith('.pid'))
  return readPids(names.map((name) => join(logs, name)))
}

/** The processes that a start has on this folder, as their pid files tell. */
async function processesOf(dir: string): Promise<number[]> {
  const servers = ['redis/redis.pid', 'postgres/cluster/postmaster.pid']
  const pids = await readPids(servers.map((name) => join(dir, name)))
  return [...(await workersOf(dir)), ...pids]
}

async function readPids(files: readonly string[]): Promise<number[]> {
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8').catch(() => '')))
  return texts.map((text) => Number(text.split('\n')[0])).filter((pid) => pid > 0)
}

async function living(pids: readonly number[]): Promise<number[]> {
  const states = await Promise.all(pids.map(isAlive))
  return pids.filter((_, at) => states[at])
}

async function takePort(port: number): Promise<AsyncDisposable> {
  const server = createServer()
  await new Promise<void>((resolve) => {
    server.once('error', () => resolve())
    server.listen(port, '127.0.0.1', resolve)
  })
  return {
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

test('bad arguments end with code 2 and all problems, and start nothing', async () => {
  const started = npmStart('--relais', 'x', '--backfill', 'alice')
  expect(await started.exited).toBe(2)
  expect(started.output()).toContain('--relais is not an option')
  expect(started.output()).toContain('"alice" is not a DID')
  expect(started.output()).not.toContain('    at ')
})

test('--help tells every option', async () => {
  const started = npmStart('--help')
  expect(await started.exited).toBe(0)
  for (const option of ['--relay', '--backfill', '--data', '--simulated']) {
    expect(started.output()).toContain(option)
  }
})

test('Ctrl-C ends all of it within 10 s with code 0, and leaves no process and no lock', {
  timeout: longest,
}, async () => {
  await using folder = await testFolder()
  await using _postgres = await takePort(5432)
  await using _redis = await takePort(6379)
  const started = npmStart('--data', folder.path, '--relay', nowhere)
  await says(started, /ingester: http:\/\/127\.0\.0\.1:\d+\/metrics/)
  await says(started, /backfiller: http:\/\/127\.0\.0\.1:\d+\/metrics/)
  await says(started, /0 events\/s/)
  const pids = await processesOf(folder.path)
  expect((await living(pids)).length).toBeGreaterThanOrEqual(4)

  const from = performance.now()
  started.child.kill('SIGINT')
  started.child.kill('SIGINT')
  expect(await started.exited).toBe(0)
  expect(performance.now() - from).toBeLessThan(10_000)
  expect(await living(pids)).toEqual([])
  expect(await readdir(folder.path)).not.toContain('lock')
})

test('a relay that can not be reached is told in words within 10 s', {
  timeout: longest,
}, async () => {
  await using folder = await testFolder()
  const started = npmStart('--data', folder.path, '--relay', nowhere)
  await says(started, /ingester: http/)
  await says(started, /the relay 127\.0\.0\.1:1 can't be reached .*nothing listens there/, 10_000)
  started.child.kill('SIGINT')
  expect(await started.exited).toBe(0)
})

test('a second start on the same folder says who holds it, and changes nothing', {
  timeout: longest,
}, async () => {
  await using folder = await testFolder()
  const first = npmStart('--data', folder.path, '--relay', nowhere)
  await says(first, /following/)
  const second = npmStart('--data', folder.path, '--relay', nowhere)
  expect(await second.exited).toBe(1)
  expect(second.output()).toContain(`pid ${first.child.pid}`)
  expect(second.output()).not.toContain('    at ')
  first.child.kill('SIGINT')
  expect(await first.exited).toBe(0)
})

test('after kill -9 the workers end by themselves, and the next start recovers', {
  timeout: longest,
}, async () => {
  await using folder = await testFolder()
  const killed = npmStart('--data', folder.path, '--relay', nowhere)
  await says(killed, /ingester: http/)
  const left = await processesOf(folder.path)
  const workers = await workersOf(folder.path)
  expect(workers.length).toBe(3)
  killed.child.kill('SIGKILL')
  await vi.waitFor(async () => expect(await living(workers)).toEqual([]), { timeout: 10_000 })

  const next = npmStart('--data', folder.path, '--relay', nowhere)
  await says(next, /0 events\/s/)
  expect(await living(left)).toEqual([])
  next.child.kill('SIGTERM')
  expect(await next.exited).toBe(0)
})

test('workers whose parent is killed while they load end by themselves', {
  timeout: longest,
}, async () => {
  await using folder = await testFolder()
  const killed = npmStart('--data', folder.path, '--relay', nowhere)
  const left = await vi.waitFor(
    async () => {
      const pids = await workersOf(folder.path)
      expect(pids.length).toBe(3)
      return pids
    },
    { timeout: 30_000, interval: 1 },
  )
  killed.child.kill('SIGKILL')
  await vi.waitFor(async () => expect(await living(left)).toEqual([]), { timeout: 15_000 })

  const next = npmStart('--data', folder.path, '--relay', nowhere)
  await says(next, /following/)
  next.child.kill('SIGINT')
  expect(await next.exited).toBe(0)
})

test('a server that dies is started again where it was', { timeout: longest }, async () => {
  await using folder = await testFolder()
  const started = npmStart('--data', folder.path, '--relay', nowhere)
  await says(started, /0 events\/s/)
  const url = await readFile(join(folder.path, 'postgres', 'url'), 'utf8')
  const pidFile = join(folder.path, 'postgres', 'cluster', 'postmaster.pid')
  process.kill(Number.parseInt(await readFile(pidFile, 'utf8'), 10), 'SIGKILL')
  await says(started, /Postgres ended by itself \(SIGKILL\)/)
  await vi.waitFor(() => answers(url.trim()), { timeout: 20_000 })
  started.child.kill('SIGINT')
  expect(await started.exited).toBe(0)
})

test('a simulated network becomes rows, and the next start goes on from there', {
  timeout: longest,
}, async () => {
  await using folder = await testFolder()
  const first = npmStart('--simulated', '--data', folder.path)
  await says(first, /first rows in Postgres \d+\.\d s after the start/)
  await says(first, /[1-9]\d* events\/s · lag \d+ · rows [1-9]/)
  await says(first, /dead letters 0$/m)
  const url = (await readFile(join(folder.path, 'postgres', 'url'), 'utf8')).trim()
  const before = await countRecords(url)
  first.child.kill('SIGKILL')
  await first.exited

  const next = npmStart('--simulated', '--data', folder.path)
  await says(next, /[1-9]\d* events\/s/)
  expect(await countRecords(url)).toBeGreaterThanOrEqual(before)
  expect(next.output()).not.toContain('first rows')
  next.child.kill('SIGINT')
  expect(await next.exited).toBe(0)
})

async function countRecords(url: string): Promise<number> {
  const sql = postgres(url, { max: 1, connect_timeout: 5 })
  try {
    const [found] = await sql`select count(*)::int as count from bsky.record`
    return Number(found?.['count'])
  } finally {
    await sql.end({ timeout: 1 })
  }
}

async function answers(url: string): Promise<void> {
  const sql = postgres(url, { max: 1, connect_timeout: 2 })
  try {
    await sql`select 1`
  } finally {
    await sql.end({ timeout: 0 })
  }
}
