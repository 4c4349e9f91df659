/**
 * What each statement of a batch does in a database that holds a network already, and how the speed
 * compares with an empty one. `node bench/plans.ts [records] [--write]`; with --write the table goes
 * into docs/plans.md. Fails when a large table is scanned whole.
 */
import { writeFileSync } from 'node:fs'
import { pino } from 'pino'
import postgres from 'postgres'
import { migrate } from '../migrations/migrate.ts'
import { connectPostgres, type Sql } from '../shared/postgres.ts'
import { engine, measure, withPostgres } from './engine.ts'
import { fill, worldOf } from './filled.ts'
import { history } from './mix.ts'

const schema = 'bsky'
const log = pino({ level: 'silent' })
const events = 20_000
const batch = 500
/** A table of fewer rows may be scanned. */
const largeRows = 10_000
const run = { batchSize: batch, transactions: 2 }

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

const records = Number(process.argv.find((argument) => /^\d+$/.test(argument)) ?? 1_000_000)

await withPostgres(undefined, async (databaseUrl) => {
  const world = worldOf(records)
  await migrate({ databaseUrl, schema: 'empty' })
  await migrate({ databaseUrl, schema })
  await using sql = connectPostgres({ databaseUrl, poolSize: 4, log })
  const started = performance.now()
  await fill(sql, schema, records)
  const filledSeconds = Math.round((performance.now() - started) / 1_000)

  const rates = []
  for (const [round, of] of ['empty', schema, 'empty', schema].entries()) {
    const made = [...history(events, records + round * events, world)]
    const measured = await measure(sql, of, made, run)
    rates.push({ database: of === schema ? `${records} records` : 'empty', ...measured })
  }
  console.table(rates)

  const fames = [world.fame, 1].map((fame, round) =>
    history(2_000, records + (10 + round) * events, { ...world, fame }),
  )
  const seen = await explained(databaseUrl, [...(fames[0] ?? [])])
  const famous = await explained(databaseUrl, [...(fames[1] ?? [])])
  const large = await largeTables(sql)
  const page = pageOf(seen, famous, rates, filledSeconds)
  process.stdout.write(page)
  if (process.argv.includes('--write')) {
    writeFileSync(new URL('../docs/plans.md', import.meta.url), page)
  }
  const scanned = [...seen.values()]
    .flatMap(({ whole }) => [...whole])
    .filter((name) => large.has(name))
  if (scanned.length > 0) {
    process.stderr.write(`scanned whole: ${[...new Set(scanned)].join(', ')}\n`)
    process.exitCode = 1
  }
})

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
    const apply = await engine(sql as unknown as Sql, schema)
    for (let at = 0; at < made.length; at += batch) await apply(made.slice(at, at + batch))
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
  filledSeconds: number,
): string {
  const rows = [...seen]
    .sort(([, a], [, b]) => b.ms - a.ms)
    .map(([text, entry]) => rowOf(text, entry, famous.get(text)))
  const speeds = rates.map(
    (rate) => `| ${rate['database']} | ${rate['events/s']} | ${rate['own CPU µs/event']} |`,
  )
  return `# Statements and their plans

Written by \`node bench/plans.ts ${records} --write\` on a database that holds ${records.toLocaleString('en')} records with their rows,
counts and notifications (made in ${filledSeconds} s). Times are those of Postgres for one call, in batches of ${batch} events;
blocks of 8 KB are those that one call touches: in the usual mix, and when all likes, reposts, replies and follows are
about the 20 most famous posts and accounts. What touched more of them there would grow with popularity.

## Speed, with ${run.transactions} batches of ${run.batchSize} in flight

| database | events/s | own CPU µs/event |
|---|---|---|
${speeds.join('\n')}

## Statements of a batch

| calls | ms a call | blocks | blocks, all famous | access | statement |
|---|---|---|---|---|---|
${rows.join('\n')}
`
}

function rowOf(text: string, seen: Seen, famous: Seen | undefined): string {
  const short = text.length > 90 ? `${text.slice(0, 90)}…` : text
  const cells = [
    seen.calls,
    (seen.ms / seen.calls).toFixed(2),
    Math.round(seen.blocks / seen.calls),
    famous === undefined ? '' : Math.round(famous.blocks / famous.calls),
    [...seen.access].sort().join(', '),
    `\`${short.replaceAll('|', '\\|').replaceAll('`', '')}\``,
  ]
  return `| ${cells.join(' | ')} |`
}
