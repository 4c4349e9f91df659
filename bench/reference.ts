/**
 * The reference's indexer and ours in one run: the same events, on the same Postgres, with the same settings.
 * `node bench/reference.ts [events of ours] [events of the reference's] [setting=value]...`. Before them each applies
 * a fifth as many that are not measured. The first run installs the reference (`test/conformance/install.ts`).
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { pino } from 'pino'
import { migrate } from '../migrations/migrate.ts'
import { connectPostgres } from '../shared/postgres.ts'
import { installReference } from '../test/conformance/install.ts'
import type { Part } from './applier.ts'
import { conversation } from './conversation.ts'
import { ordinary, reuseWal, serverCpu, startServer } from './engine.ts'

const [ours = '150000', theirs = '8000', ...given] = process.argv.slice(2)
const settings = { ...ordinary, ...Object.fromEntries(given.map((pair) => pair.split('='))) }
const lanes = 10
const warmUp = 0.2
let runs = 0

await installReference()
const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
await chmod(folder, 0o755)
const server = await startServer({ dir: join(folder, 'postgres'), settings })
try {
  await reuseWal(server.url)
  const reference = await runReference(Number(theirs))
  const one = await runOurs(Number(ours), 1)
  const two = await runOurs(Number(ours), 2)
  const again = await runReference(Number(theirs))
  console.table({ reference, 'one indexer': one, 'two indexers': two, 'reference, again': again })
  const mean = (reference['events/s'] + again['events/s']) / 2
  for (const [name, own] of Object.entries({ one, two })) {
    console.log(`${name} : reference = ${(own['events/s'] / mean).toFixed(1)}`)
  }
} finally {
  await server.stop()
  await rm(folder, { recursive: true, force: true })
}

async function runReference(count: number) {
  const file = join(folder, 'events.jsonl')
  const warming = Math.round(count * warmUp)
  const lines = [...conversation(warming + count)].map((event) => JSON.stringify(event))
  await writeFile(file, lines.join('\n'))
  const script = fileURLToPath(
    new URL('../test/conformance/reference/indexer.mjs', import.meta.url),
  )
  const schema = `reference_${'ab'[runs++ % 2]}`
  const args = [script, server.url, schema, file, String(lanes), String(warming)]
  const child = spawn(process.execPath, args, {
    env: { LOG_ENABLED: 'false', NODE_ENV: 'test' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let before = 0
  let result: ({ failed: number } & ReturnType<typeof perEvent>) | undefined
  for await (const line of createInterface({ input: child.stdout })) {
    const { measuring, seconds, cpu, failed } = JSON.parse(line)
    if (measuring === true) before = await serverCpu(server)
    else if (seconds !== undefined)
      result = { failed, ...perEvent(count, seconds, cpu, (await serverCpu(server)) - before) }
  }
  if (result === undefined) throw new Error('the reference has ended without a result')
  return result
}

/** What so many events took: `client` in µs of CPU, `server` in seconds of it. */
function perEvent(count: number, seconds: number, client: number, server: number) {
  return {
    'events/s': Math.round(count / seconds),
    'client µs/event': Math.round(client / count),
    'server µs/event': Math.round((server * 1e6) / count),
  }
}

async function runOurs(count: number, indexers: number) {
  const schema = `ours_${'ab'[indexers - 1]}`
  await migrate({ databaseUrl: server.url, schema })
  const warming = Math.round(count * warmUp)
  const parts = { databaseUrl: server.url, schema, warming, count, indexers }
  const threads = Array.from({ length: indexers }, (_, index) => {
    const workerData: Part = { ...parts, index }
    return new Worker(new URL('applier.ts', import.meta.url), { workerData })
  })
  const told = () => Promise.all(threads.map((thread) => once(thread, 'message')))
  await told()
  const before = await serverCpu(server)
  const cpu = process.cpuUsage()
  const start = performance.now()
  const done = told()
  for (const thread of threads) thread.postMessage('go')
  await done
  const seconds = (performance.now() - start) / 1_000
  const { user, system } = process.cpuUsage(cpu)
  const spent = (await serverCpu(server)) - before
  await using sql = connectPostgres({
    databaseUrl: server.url,
    poolSize: 1,
    log: pino({ level: 'silent' }),
  })
  const [left] = await sql.unsafe<{ count: number }[]>(
    `select count(*)::int from ${schema}.reconcile`,
  )
  return {
    'not reconciled': left?.count ?? 0,
    ...perEvent(count, seconds, user + system, spent),
  }
}
