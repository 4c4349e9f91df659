/**
 * The reference's indexer and ours in one run: the same events, on the same Postgres, with the same settings.
 * `node bench/reference.ts [events of ours] [events of the reference's] [setting=value]...`. The first run
 * installs the reference (`test/conformance/install.ts`).
 */
import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { pino } from 'pino'
import { migrate } from '../migrations/migrate.ts'
import { connectPostgres } from '../shared/postgres.ts'
import { installReference } from '../test/conformance/install.ts'
import { conversation } from './conversation.ts'
import { measure, serverCpu, shipped, startServer } from './engine.ts'

const [ours = '60000', theirs = '6000', ...given] = process.argv.slice(2)
const settings = Object.fromEntries(given.map((pair) => pair.split('=')))
const lanes = 10
let runs = 0
const run = promisify(execFile)

await installReference()
const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
await chmod(folder, 0o755)
const server = await startServer({ dir: join(folder, 'postgres'), settings })
try {
  const reference = await runReference(Number(theirs))
  const own = await runOurs(Number(ours))
  const again = await runReference(Number(theirs))
  console.table({ reference, ours: own, 'reference, again': again })
  const mean = (reference['events/s'] + again['events/s']) / 2
  console.log(`ours : reference = ${(own['events/s'] / mean).toFixed(1)}`)
} finally {
  await server.stop()
  await rm(folder, { recursive: true, force: true })
}

async function runReference(count: number) {
  const file = join(folder, 'events.jsonl')
  const lines = [...conversation(count)].map((event) => JSON.stringify(event))
  await writeFile(file, lines.join('\n'))
  const script = fileURLToPath(
    new URL('../test/conformance/reference/indexer.mjs', import.meta.url),
  )
  const schema = `reference_${'ab'[runs++ % 2]}`
  const nothing = join(folder, 'nothing.jsonl')
  await writeFile(nothing, '')
  const apply = (from: string) =>
    run(process.execPath, [script, server.url, schema, from, String(lanes)], {
      env: { LOG_ENABLED: 'false', NODE_ENV: 'test' },
    })
  // What its migrations cost is not what is measured.
  await apply(nothing)
  const before = await serverCpu(server)
  const { stdout } = await apply(file)
  const { events, failed, seconds, cpu } = JSON.parse(stdout)
  return {
    events,
    failed,
    'events/s': Math.round(events / seconds),
    'client µs/event': Math.round((cpu * 1e6) / events),
    'server µs/event': Math.round((((await serverCpu(server)) - before) * 1e6) / events),
  }
}

async function runOurs(count: number) {
  const schema = 'bsky'
  await migrate({ databaseUrl: server.url, schema })
  const log = pino({ level: 'silent' })
  await using sql = connectPostgres({ databaseUrl: server.url, poolSize: 4, log })
  const before = await serverCpu(server)
  const events = [...conversation(count)]
  const result = await measure(sql, schema, events, shipped)
  const [left] = await sql<{ count: number }[]>`select count(*)::int from bsky.reconcile`
  const server_ = ((await serverCpu(server)) - before) * 1e6
  return {
    events: events.length,
    'not reconciled': left?.count ?? 0,
    'events/s': result['events/s'],
    'client µs/event': result['own CPU µs/event'],
    'server µs/event': Math.round(server_ / events.length),
  }
}
