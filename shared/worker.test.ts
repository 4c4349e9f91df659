import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterEach, expect, test } from 'vitest'
import { runTogether } from './worker.ts'

const fixture = new URL('../test/fixtures/worker.ts', import.meta.url).pathname
const children: ChildProcess[] = []

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

/** Starts the fixture; `output` grows, `port` comes when it serves. */
function start(env: Record<string, string>) {
  const child = spawn(process.execPath, [decodeURIComponent(fixture)], {
    env: { METRICS_PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  children.push(child)
  const seen = { output: '' }
  const { stdout, stderr } = child
  if (stdout === null || stderr === null) throw new Error('the fixture has no pipes')
  stdout.on('data', (data: Buffer) => {
    seen.output += data.toString()
  })
  stderr.on('data', (data: Buffer) => {
    seen.output += data.toString()
  })
  const ended = [once(child, 'exit'), once(stdout, 'end'), once(stderr, 'end')] as const
  const exit = Promise.all(ended).then(([[code]]) => code as number | null)
  const listening = once(child, 'message').then(
    ([message]) => (message as { listening: number }).listening,
  )
  const says = (phrase: string) =>
    expect.poll(() => seen.output, { timeout: 10_000 }).toContain(phrase)
  return { child, seen, exit, listening, says }
}

test.each(['SIGTERM', 'SIGINT'] as const)(
  '%s finishes the work in hand and exits 0',
  async (name) => {
    const { child, exit, seen, says } = start({ BEHAVIOUR: 'wait' })
    await says('running')
    child.kill(name)
    expect(await exit).toBe(0)
    expect(seen.output).toContain('work in hand finished')
  },
)

test('a worker that does not finish exits 0 before docker kills it, and says so', async () => {
  const { child, exit, seen, says } = start({ BEHAVIOUR: 'stubborn' })
  await says('running')
  child.kill('SIGTERM')
  expect(await exit).toBe(0)
  expect(seen.output).toContain('not finished in time')
})

test('a failing service exits 1 with its reason in the log', async () => {
  const { exit, seen } = start({ BEHAVIOUR: 'fail' })
  expect(await exit).toBe(1)
  expect(seen.output).toContain('no way to')
})

test('a service that has nothing left to do exits 0', async () => {
  expect(await start({ BEHAVIOUR: 'finish' }).exit).toBe(0)
})

test('a worker whose parent is gone stops by itself', async () => {
  const { child, exit, says } = start({ BEHAVIOUR: 'wait' })
  await says('running')
  child.disconnect()
  expect(await exit).toBe(0)
})

test('a bad configuration exits 2 with every problem in one message and no stack', async () => {
  const { exit, seen } = start({ METRICS_PORT: 'x', LOG_LEVEL: 'loud' })
  expect(await exit).toBe(2)
  for (const name of ['METRICS_PORT', 'LOG_LEVEL', 'BEHAVIOUR']) expect(seen.output).toContain(name)
  expect(seen.output).not.toMatch(/\n\s+at /)
})

test('every log line is JSON with the service, and holds no credential', async () => {
  const databaseUrl = 'postgres://app:s3cret@db/bsky'
  const { exit, seen } = start({ BEHAVIOUR: 'fail', DATABASE_URL: databaseUrl })
  await exit
  const lines = seen.output.trim().split('\n')
  for (const line of lines) expect(JSON.parse(line)).toMatchObject({ service: 'fixture' })
  expect(seen.output).not.toContain('s3cret')
  expect(seen.output).toContain('postgres://***@db/bsky')
})

test('health, readiness and metrics are served', async () => {
  const { listening, says } = start({ BEHAVIOUR: 'wait' })
  const base = `http://127.0.0.1:${await listening}`
  await says('running')
  expect((await fetch(`${base}/health`)).status).toBe(200)
  expect((await fetch(`${base}/ready`)).status).toBe(200)
  const page = await (await fetch(`${base}/metrics`)).text()
  expect(page).toMatch(/sluice_build_info\{service="fixture",version="[\d.]+",node="v\d+/)
  expect(page).toContain('process_cpu_seconds_total')
  expect((await fetch(`${base}/other`)).status).toBe(404)
})

test('metrics are served on one address, by default of this machine only', async () => {
  const byDefault = await start({ BEHAVIOUR: 'wait' }).listening
  expect((await fetch(`http://127.0.0.1:${byDefault}/health`)).status).toBe(200)
  await expect(fetch(`http://127.0.0.2:${byDefault}/health`)).rejects.toThrow()
  const elsewhere = await start({ BEHAVIOUR: 'wait', METRICS_HOST: '127.0.0.2' }).listening
  expect((await fetch(`http://127.0.0.2:${elsewhere}/health`)).status).toBe(200)
  await expect(fetch(`http://127.0.0.1:${elsewhere}/health`)).rejects.toThrow()
})

test('a part that is not ready shows its reason', async () => {
  const { createHealth, createRegistry, serveMetrics } = await import('./metrics.ts')
  const health = createHealth()
  health.part('redis').notReady('connection refused')
  await using server = await serveMetrics({
    registry: createRegistry('x'),
    health,
    port: 0,
    host: '127.0.0.1',
  })
  const response = await fetch(`http://127.0.0.1:${server.port}/ready`)
  expect(response.status).toBe(503)
  expect(await response.json()).toEqual({ ready: false, problems: { redis: 'connection refused' } })
})

test('a failing part stops its siblings, is waited for, and its error is the one thrown', async () => {
  const { exit, seen } = start({ BEHAVIOUR: 'sibling' })
  expect(await exit).toBe(1)
  expect(seen.output.indexOf('the second part ended')).toBeGreaterThan(0)
  expect(seen.output).toContain('the first part failed')
})

test('parts that end by themselves do not stop the others', async () => {
  const ended: string[] = []
  const { signal } = new AbortController()
  await runTogether(signal, [
    async () => void ended.push('idle'),
    async (partSignal) => {
      await new Promise((resolve) => setImmediate(resolve))
      expect(partSignal.aborted).toBe(false)
      ended.push('busy')
    },
  ])
  expect(ended).toEqual(['idle', 'busy'])
})
