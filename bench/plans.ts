/**
 * What each statement of a batch does in a database that holds a network already, and how the speed
 * compares with an empty one. `node bench/plans.ts [records] [--in folder] [--fill] [--write]`; a
 * database in a folder that is named stays, to be looked at again, --fill does no more than fill it,
 * and with --write the table goes into docs/plans.md. Fails when a large table is scanned whole, and when a statement
 * touches more where all is about the famous.
 */
import { writeFileSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { pino } from 'pino'
import postgres from 'postgres'
import { migrate } from '../migrations/migrate.ts'
import { connectPostgres, type Sql } from '../shared/postgres.ts'
import { engine, measure, ordinary, reuseWal, serverCpu, shipped, withServer } from './engine.ts'
import { fill, worldOf } from './filled.ts'
import { history } from './mix.ts'

const schema = 'bsky'
const log = pino({ level: 'silent' })
const events = 40_000
const explainedEvents = 4_000
/** Two fifths of 24 GB, checkpoints half an hour apart; the tables are larger. */
const settings = {
  ...ordinary,
  shared_buffers: '10GB',
  max_wal_size: '24GB',
  checkpoint_timeout: '30min',
}
/** A page is written to the log whole when it is touched first after a checkpoint: that must be over. */
const roundsBefore = 8
/** A table of fewer rows may be scanned. */
const largeRows = 10_000
/** So many more of a call say nothing. */
const fewBlocks = 500

interface PlanNode {
  'Node Type': string
  'Relation Name'?: string
  'Index Name'?: string
  'Actual Rows'?: number
  'Shared Hit Blocks'?: number
  'Shared Read Blocks'?: number
  'Actual Total Time'?: number
  Plans?: PlanNode[]
}

interface Seen {
  calls: number
  ms: number
  blocks: number
  access: Set<string>
  whole: Set<string>
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    in: { type: 'string' },
    fill: { type: 'boolean' },
    write: { type: 'boolean' },
  },
})
const records = Number(positionals[0] ?? 1_000_000)
const own = values.in === undefined ? await mkdtemp(join(tmpdir(), 'sluice-bench-')) : undefined
const folder = resolve(own ?? values.in ?? '')
await mkdir(folder, { recursive: true })
await chmod(folder, 0o755)

await withServer({ dir: join(folder, 'postgres'), settings }, async (server) => {
  const databaseUrl = server.url
  const world = worldOf(records)
  await migrate({ databaseUrl, schema: 'empty' })
  await migrate({ databaseUrl, schema })
  await using sql = connectPostgres({ databaseUrl, poolSize: 4, log })
  const last = async () => {
    const [row] = await sql<{ n: number }[]>`select coalesce(max(seq), 0)::int as n from bench`
    return row?.n ?? 0
  }
  await sql`create table if not exists bench (seq bigint)`
  if ((await last()) === 0) {
    const started = performance.now()
    await fill(sql, schema, records)
    await sql`insert into bench values (${records})`
    process.stdout.write(`filled in ${Math.round((performance.now() - started) / 1_000)} s\n`)
    // What is not on the disk yet would keep the server from stopping in time.
    await sql`checkpoint`
  }
  if (values.fill) return
  // What was applied before is not applied again.
  const first = await last()
  await sql`insert into bench values (${first + 100 * events})`
  await reuseWal(databaseUrl)

  const rates = []
  const rounds = ['empty', ...Array(roundsBefore).fill(schema), 'empty', schema]
  for (const [round, of] of rounds.entries()) {
    const made = [...history(events, first + round * events, world)]
    const before = await serverCpu(server)
    const measured = await measure(sql, of, made, shipped)
    const cpu = Math.round((((await serverCpu(server)) - before) * 1e6) / made.length)
    const name = of === schema ? records.toLocaleString('en') : 'none'
    rates.push({ records: name, ...measured, 'Postgres µs/event': cpu })
  }
  console.table(rates)

  const fames = [world.fame, 1].map((fame, round) =>
    history(explainedEvents, first + (50 + round) * events, { ...world, fame }),
  )
  const seen = await explained(databaseUrl, [...(fames[0] ?? [])])
  const famous = await explained(databaseUrl, [...(fames[1] ?? [])])
  const large = await largeTables(sql)
  await sql`checkpoint`
  const page = pageOf(seen, famous, rates)
  process.stdout.write(page)
  if (values.write) writeFileSync(new URL('../docs/plans.md', import.meta.url), page)
  const scanned = [...seen.values(), ...famous.values()]
    .flatMap(({ whole }) => [...whole])
    .filter((name) => large.has(name))
  const growing = [...seen]
    .filter(([text, entry]) => blocksOf(famous.get(text)) > 1.5 * blocksOf(entry) + fewBlocks)
    .map(([text]) => text.slice(0, 80))
  for (const [what, which] of Object.entries({ 'scanned whole': scanned, growing })) {
    if (which.length === 0) continue
    process.stderr.write(`${what}: ${[...new Set(which)].join(', ')}\n`)
    process.exitCode = 1
  }
})
if (own !== undefined) await rm(own, { recursive: true, force: true })

/** Applies the events while Postgres explains every statement, and adds up what it tells. */
async function explained(
  databaseUrl: string,
  made: Parameters<Awaited<ReturnType<typeof engine>>>[0],
) {
  const seen = new Map<string, Seen>()
  const sql = postgres(databaseUrl, {
    max: 1,
    onnotice: ({ message }) => note(seen, message ?? ''),
    connection: {
      session_preload_libraries: 'auto_explain',
      // As text: the client leaves out what is falsy.
      'auto_explain.log_min_duration': '0',
      'auto_explain.log_analyze': 'on',
      'auto_explain.log_buffers': 'on',
      'auto_explain.log_format': 'json',
      'auto_explain.log_level': 'notice',
    },
  })
  try {
    const apply = await engine(sql as unknown as Sql, schema, true)
    for (let at = 0; at < made.length; at += shipped.batchSize) {
      await apply(made.slice(at, at + shipped.batchSize))
    }
  } finally {
    await sql.end()
  }
  return seen
}

function note(seen: Map<string, Seen>, message: string): void {
  const json = /plan:\n([\s\S]+)$/.exec(message)?.[1]
  if (json === undefined) return
  const { 'Query Text': text, Plan: plan } = JSON.parse(json) as {
    'Query Text': string
    Plan: PlanNode
  }
  const name = text.replaceAll(/\s+/g, ' ').trim()
  const entry = seen.get(name) ?? {
    calls: 0,
    ms: 0,
    blocks: 0,
    access: new Set(),
    whole: new Set(),
  }
  seen.set(name, entry)
  entry.calls += 1
  entry.ms += plan['Actual Total Time'] ?? 0
  entry.blocks += (plan['Shared Hit Blocks'] ?? 0) + (plan['Shared Read Blocks'] ?? 0)
  for (const node of nodes(plan)) {
    const relation = node['Relation Name']
    const index = node['Index Name']
    if (index !== undefined) entry.access.add(index)
    else if (relation !== undefined && node['Node Type'] === 'Seq Scan') {
      entry.access.add(`${relation} (whole)`)
      entry.whole.add(relation)
    }
  }
}

/** Blocks that a call touches. */
function blocksOf(seen: Seen | undefined): number {
  return seen === undefined ? 0 : seen.blocks / seen.calls
}

function* nodes(plan: PlanNode): Generator<PlanNode> {
  yield plan
  for (const child of plan.Plans ?? []) yield* nodes(child)
}

async function largeTables(sql: Sql): Promise<Set<string>> {
  const rows = await sql<{ name: string }[]>`
    select relname as name from pg_class join pg_namespace n on n.oid = relnamespace
    where nspname = ${schema} and relkind = 'r' and reltuples > ${largeRows}`
  return new Set(rows.map(({ name }) => name))
}

function pageOf(
  seen: ReadonlyMap<string, Seen>,
  famous: ReadonlyMap<string, Seen>,
  rates: readonly Record<string, unknown>[],
): string {
  const rows = [...seen]
    .sort(([, a], [, b]) => b.ms - a.ms)
    .map(([text, entry]) => rowOf(text, entry, famous.get(text)))
  const columns = ['records', 'events/s', 'own CPU µs/event', 'Postgres µs/event']
  const speeds = rates.map((rate) => `| ${columns.map((column) => rate[column]).join(' | ')} |`)
  const calls = [...seen.values()].reduce((sum, entry) => sum + entry.calls, 0)
  const batches = explainedEvents / shipped.batchSize
  return `# Statements and their plans

Written by \`node bench/plans.ts ${records} --write\` on a database that holds ${records.toLocaleString('en')} records with their rows,
counts and notifications. Times are those of Postgres for one call, in batches of ${shipped.batchSize} events, while it explains every
statement; blocks of 8 KB are those that one call touches: in the usual mix, and when all likes, reposts, replies and
follows are about the 20 most famous posts and accounts. What touched more of them there would grow with popularity.

## Speed, with ${shipped.transactions} batches of ${shipped.batchSize} in flight

| records that are there | events/s | client, µs of CPU an event | Postgres, µs of CPU an event |
|---|---|---|---|
${speeds.join('\n')}

## Statements of a batch

${(calls / batches).toFixed(0)} statements a batch of ${shipped.batchSize} events, those of its second transaction included, without the four that begin, set and end each
transaction.

| calls a batch | ms a call | blocks | blocks, all famous | access | statement |
|---|---|---|---|---|---|
${rows.join('\n')}
`
}

function rowOf(text: string, seen: Seen, famous: Seen | undefined): string {
  const short = text.length > 90 ? `${text.slice(0, 90)}…` : text
  const cells = [
    (seen.calls / (explainedEvents / shipped.batchSize)).toFixed(1),
    (seen.ms / seen.calls).toFixed(2),
    Math.round(blocksOf(seen)),
    famous === undefined ? '' : Math.round(blocksOf(famous)),
    [...seen.access].sort().join(', '),
    `\`${short.replaceAll('|', '\\|').replaceAll('`', '')}\``,
  ]
  return `| ${cells.join(' | ')} |`
}
