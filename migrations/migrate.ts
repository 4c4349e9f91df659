/** The runner of the migrations: up only, one process at a time, also behind pgbouncer. */
import type { Logger } from 'pino'
import { pino } from 'pino'
import type { Sql } from 'postgres'
import { ConfigError } from '../shared/config.ts'
import { connectPostgres, inTransaction, type Transaction } from '../shared/postgres.ts'
import { sleep } from '../shared/retry.ts'
import { obstacles } from './adopt.ts'
import { columnsOf, indexState, relationsOf, uniqueKeysOf } from './catalogue.ts'
import { type Migration, migrationFolder, readMigrations } from './files.ts'
import { appviewVersion } from './ours.ts'

export interface MigrateOptions {
  databaseUrl: string
  schema: string
  /** Whether a schema that something else created may be extended with what is ours. */
  adopt?: boolean
  log?: Logger
  /** Where the files are, when not beside this one. */
  folder?: URL
}

export interface MigrationState {
  name: string
  /** `adopted`: stands for tables that something else created. `unknown`: of a newer version. */
  state: 'pending' | 'applied' | 'adopted' | 'changed' | 'unknown'
  ranAt: string | null
}

interface Applied {
  name: string
  checksum: string
  ranAt: string
}

interface Run {
  sql: Sql
  schema: string
  adopt: boolean
  log: Logger
  migrations: readonly Migration[]
}

/** Any number will do, as long as every version of ours takes the same one. */
const lockKey = 7_824_135_906
/** Others queue behind a waiting exclusive lock, so the wait is short, and repeated. */
const lockTimeoutMs = 2_000
const lockAttempts = 30
const lockPauseMs = 1_000
/** An index on a large table takes hours to build. */
const turnAttempts = 50_000
const turnPauseMs = 500
/** Stands where the checksum would be when the tables were not created by us. */
const adopted = 'adopted'

/**
 * Brings the schema to the newest state and tells which migrations ran. Any number of processes may
 * call it at once: each migration runs once. Throws a `ConfigError`, before anything is changed,
 * when the database is not one that it may or can work on.
 */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const log = options.log ?? pino({ level: 'silent' })
  const migrations = await readMigrations(options.folder ?? migrationFolder)
  await using sql = connectPostgres({
    databaseUrl: options.databaseUrl,
    poolSize: 2,
    log,
    applicationName: 'sluice-migrate',
  })
  const run: Run = { sql, schema: options.schema, adopt: options.adopt ?? false, log, migrations }
  await warnOfCollation(run)
  const ran: string[] = []
  for (const _ of migrations) {
    const name = await turn(run)
    if (name === null) break
    log.info({ migration: name }, 'migrated')
    ran.push(name)
  }
  return ran
}

/** What is applied, what is not, and what does not fit; changes nothing. */
export async function migrationStates(options: MigrateOptions): Promise<MigrationState[]> {
  const log = options.log ?? pino({ level: 'silent' })
  const migrations = await readMigrations(options.folder ?? migrationFolder)
  const { databaseUrl, schema } = options
  await using sql = connectPostgres({ databaseUrl, poolSize: 1, log })
  const applied = await inTransaction(sql, { schema, statementTimeoutMs: 10_000 }, (tx) =>
    readLedger(tx, schema),
  )
  return statesOf(migrations, applied ?? [])
}

function statesOf(migrations: readonly Migration[], applied: readonly Applied[]): MigrationState[] {
  const known = migrations.map(({ name, checksum }): MigrationState => {
    const row = applied.find((candidate) => candidate.name === name)
    if (row === undefined) return { name, state: 'pending', ranAt: null }
    const { ranAt } = row
    if (row.checksum === adopted) return { name, state: 'adopted', ranAt }
    return { name, state: row.checksum === checksum ? 'applied' : 'changed', ranAt }
  })
  const names = new Set(migrations.map(({ name }) => name))
  const unknown = applied
    .filter(({ name }) => !names.has(name))
    .map(({ name, ranAt }): MigrationState => ({ name, state: 'unknown', ranAt }))
  return [...known, ...unknown]
}

/** The outcome of a try while another process has the lock. */
const busy = Symbol('busy')

/**
 * Waits for its turn and runs the first pending migration; null when there is none. It waits
 * outside a transaction: one that waits inside has a snapshot, for which the index build of the
 * process ahead would wait in turn, and keeps a connection of the pooler.
 */
async function turn(run: Run): Promise<string | null> {
  for (let attempt = 1; attempt <= turnAttempts; attempt += 1) {
    const ran = await patiently(run, () => next(run))
    if (ran !== busy) return ran
    if (attempt === 1) run.log.info('another process migrates this database: waiting for it')
    await sleep(turnPauseMs)
  }
  throw new Error('another process has been migrating this database for hours: look at it first')
}

async function next(run: Run): Promise<string | null | typeof busy> {
  const { sql, schema, migrations } = run
  return inTransaction(sql, { schema, statementTimeoutMs: 0, lockTimeoutMs }, async (tx) => {
    if (!(await lock(tx))) return busy
    const applied = (await readLedger(tx, schema)) ?? (await begin(run, tx))
    const pending = firstPending(run, applied)
    if (pending === null) return null
    const skipped = pending.kind === 'appview' && isAdopted(migrations, applied)
    if (!skipped) await perform(run, pending, tx)
    const checksum = skipped ? adopted : pending.checksum
    await tx`insert into sluice_migration (name, checksum) values (${pending.name}, ${checksum})`
    return pending.name
  })
}

/** One migration at a time in a database: held until the transaction ends, whichever way. */
async function lock(tx: Transaction): Promise<boolean> {
  const [row] = await tx<{ free: boolean }[]>`
    select pg_try_advisory_xact_lock(${lockKey}::bigint) as free`
  return row?.free === true
}

async function perform(run: Run, migration: Migration, tx: Transaction): Promise<void> {
  if (migration.kind === 'concurrently') return buildIndex(run, migration, tx)
  await tx.unsafe(migration.sql)
}

/** Refuses what does not fit, and gives the first migration that is still to run. */
function firstPending({ migrations, log }: Run, applied: readonly Applied[]): Migration | null {
  const states = statesOf(migrations, applied)
  const changed = states.filter(({ state }) => state === 'changed').map(({ name }) => name)
  if (changed.length > 0) {
    throw new ConfigError([
      `${changed.join(', ')} was changed after it was applied; restore the file, and put the change into a new migration`,
    ])
  }
  const pending = migrations.find(({ name }) => !applied.some((row) => row.name === name))
  const unknown = states.filter(({ state }) => state === 'unknown').map(({ name }) => name)
  if (unknown.length > 0 && pending !== undefined) {
    throw new ConfigError([
      `the database has migrations of another version (${unknown.join(', ')}), and lacks ${pending.name}`,
    ])
  }
  if (unknown.length > 0) log.warn({ unknown }, 'the database has migrations of a newer version')
  return pending ?? null
}

function isAdopted(migrations: readonly Migration[], applied: readonly Applied[]): boolean {
  const first = migrations.find(({ kind }) => kind === 'appview')?.name
  return applied.some(({ name, checksum }) => name === first && checksum === adopted)
}

/** The first contact with a schema: makes the ledger, or refuses. */
async function begin(run: Run, tx: Transaction): Promise<Applied[]> {
  const { schema, adopt, migrations, log } = run
  const relations = await relationsOf(tx, schema)
  if (relations.length === 0 && adopt) {
    throw new ConfigError([`schema "${schema}" is empty: there is nothing to adopt`])
  }
  if (relations.length > 0 && !adopt) {
    throw new ConfigError([
      `schema "${schema}" has ${relations.length} tables and views that something else created (${shown(relations)}); ` +
        'nothing was changed. If they are the tables of an AppView that this indexer shall write, run `npm run migrate -- --adopt`: ' +
        'it adds what is ours and leaves the rest as it is. Else choose another DB_SCHEMA or database.',
    ])
  }
  if (relations.length > 0) await requireUsable(schema, relations, tx)
  await requireTrigrams(tx)
  await tx.unsafe(`create schema if not exists "${schema}"`)
  await tx`
    create table sluice_migration (
      name varchar primary key,
      checksum varchar not null,
      ran_at timestamptz not null default clock_timestamp()
    )`
  const first = migrations.find(({ kind }) => kind === 'appview')
  if (relations.length === 0 || first === undefined) return []
  await tx`insert into sluice_migration (name, checksum) values (${first.name}, ${adopted})`
  log.info({ schema, tables: relations.length }, 'adopted')
  return (await readLedger(tx, schema)) ?? []
}

async function requireUsable(schema: string, relations: string[], tx: Transaction): Promise<void> {
  const columns = await columnsOf(tx, schema)
  const uniqueKeys = await uniqueKeysOf(tx, schema)
  const problems = obstacles({ relations, columns, uniqueKeys })
  if (problems.length === 0) return
  throw new ConfigError([
    `schema "${schema}" can't be adopted; nothing was changed. The tables must be at least those of @atproto/bsky ${appviewVersion}: run its migrations first`,
    ...problems,
  ])
}

/** The AppView looks for the trigram operators in `public`. */
async function requireTrigrams(tx: Transaction): Promise<void> {
  const [found] = await tx<{ schema: string }[]>`
    select n.nspname as schema from pg_extension e
    join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_trgm'`
  if (found === undefined || found.schema === 'public') return
  throw new ConfigError([
    `the extension pg_trgm is in schema "${found.schema}": move it with \`alter extension pg_trgm set schema public\``,
  ])
}

/**
 * Builds one index while other processes write. The build waits for every transaction with an older
 * snapshot, and `tx`, which holds the lock meanwhile, must not be one. A build that was interrupted
 * has left an unusable index: it is dropped and built again.
 */
async function buildIndex({ sql, schema, log }: Run, migration: Migration, tx: Transaction) {
  const index = /^create (?:unique )?index concurrently (\w+)\s/m.exec(migration.sql)?.[1]
  if (index === undefined) throw new Error(`${migration.name} builds no index concurrently`)
  const state = await indexState(tx, schema, index)
  if (state === 'valid') return
  // Sent without parameters: that closes the portal of the query before, which keeps its snapshot.
  await tx.unsafe(`select set_config('idle_in_transaction_session_timeout', '0', true)`)
  if (state === 'invalid') {
    log.info({ index }, 'dropping what an interrupted build has left')
    await sql.unsafe(`drop index concurrently if exists "${schema}"."${index}"`)
  }
  log.info({ index }, 'building an index')
  await sql.unsafe(migration.sql.replaceAll(':schema', `"${schema}"`))
}

/** Repeats what could not get its locks in time, so that other work passes in between. */
async function patiently<T>({ log }: Run, work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; attempt < lockAttempts; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (!passes(error)) throw error
      log.warn({ attempt, err: error }, 'a table is in use: trying again')
      await sleep(lockPauseMs)
    }
  }
  return work()
}

/** A lock that was not free, or a deadlock that we were chosen to give way in. */
function passes(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return code === '55P03' || code === '40P01'
}

/** The ledger, or null where there is none. */
async function readLedger(tx: Transaction, schema: string): Promise<Applied[] | null> {
  const [table] = await tx<{ there: boolean }[]>`
    select to_regclass(${`"${schema}".sluice_migration`}) is not null as there`
  if (!table?.there) return null
  return tx<Applied[]>`
    select name, checksum,
      to_char(ran_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as "ranAt"
    from sluice_migration order by name`
}

/** Readers compare timestamps, revs and uris as text, and expect the order of their bytes. */
async function warnOfCollation({ sql, log }: Run): Promise<void> {
  const [row] = await sql<{ collation: string; encoding: string }[]>`
    select datcollate as collation, pg_encoding_to_char(encoding) as encoding
    from pg_database where datname = current_database()`
  if (row === undefined) return
  if (row.encoding !== 'UTF8') {
    throw new ConfigError([`the database has the encoding ${row.encoding}: it must be UTF8`])
  }
  if (['C', 'POSIX', 'C.UTF-8', 'C.utf8'].includes(row.collation)) return
  log.warn(row, 'the database sorts text by language: create it with lc_collate C.UTF-8')
}

function shown(names: readonly string[]): string {
  const few = names.slice(0, 5).join(', ')
  return names.length > 5 ? `${few}, …` : few
}
