/** Postgres: a bounded pool and transactions that also work behind pgbouncer in transaction mode. */
import { readFileSync } from 'node:fs'
import { type ConnectionOptions, checkServerIdentity } from 'node:tls'
import type { Logger } from 'pino'
import type postgres from 'postgres'
import { ConfigError, type Options } from './config.ts'
import { errorText } from './errors.ts'
import { driver } from './postgres-driver.ts'

/** A pool of connections. Closing it lets running queries end, for at most 1 s. */
export type Sql = postgres.Sql & AsyncDisposable
/** One open transaction. */
export type Transaction = postgres.TransactionSql

export interface PostgresOptions {
  databaseUrl: string
  poolSize: number
  log: Logger
  /** What `pg_stat_activity` shows; pgbouncer passes it on. */
  applicationName?: string
}

export interface TransactionOptions {
  schema: string
  /** A statement that takes longer fails with 57014; 0 means no limit. */
  statementTimeoutMs: number
  /** A wait for a lock that takes longer fails with 55P03; 0 means no limit. */
  lockTimeoutMs?: number
  /**
   * Its statements find rows by keys: they are planned once, by indexes alone, whatever the statistics say of tables
   * that grow meanwhile; and kept on the server, unless a pooler is in between.
   */
  keyed?: boolean
}

const connectTimeoutSeconds = 10
const idleTimeoutSeconds = 60
/**
 * Short, for whoever closes has waited for its work. After the server ended a session the client
 * library takes a query for open that is not, and would always wait for the whole of it.
 */
const closeTimeoutSeconds = 1
/** An open transaction whose process hangs must not hold its row locks for ever. */
const idleInTransactionTimeoutMs = 60_000

const sslModes = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'] as const
type SslMode = (typeof sslModes)[number]

const knownParameters = [
  'sslmode',
  'sslrootcert',
  'sslcert',
  'sslkey',
  'host',
  'connect_timeout',
  'application_name',
]

/** Where a database is, as its URL says. */
export interface DatabaseAddress {
  /** A host name, an address, or the folder of a Unix socket. */
  host: string
  port: number
  database: string
  user: string | undefined
  password: string | undefined
  sslMode: SslMode
  sslFiles: { ca?: string; cert?: string; key?: string }
  connectTimeoutSeconds: number
  applicationName: string | undefined
}

/** Reads a Postgres URL; throws an Error that says what is wrong with it, never the URL itself. */
export function parseDatabaseUrl(value: string): DatabaseAddress {
  if (!/^postgres(ql)?:\/\//.test(value)) {
    throw new Error('must be a URL that begins with postgres:// or postgresql://')
  }
  if (!URL.canParse(value)) throw new Error('must be a readable URL with one host')
  const url = new URL(value)
  const parameters = url.searchParams
  const unknown = [...parameters.keys()].filter((name) => !knownParameters.includes(name))
  if (unknown.length > 0) {
    throw new Error(`has unknown parameters (${unknown.join(', ')})`)
  }
  const host = parameters.get('host') ?? decode(url.hostname).replace(/^\[(.*)\]$/, '$1')
  const database = decode(url.pathname.slice(1))
  if (host === '') throw new Error('must name a host')
  if (database === '') throw new Error('must name a database, as postgres://host:5432/database')
  const timeout = parameters.get('connect_timeout') ?? String(connectTimeoutSeconds)
  if (!/^[1-9]\d{0,3}$/.test(timeout)) throw new Error('must have connect_timeout in seconds')
  return {
    host,
    port: Number(url.port || '5432'),
    database,
    user: decode(url.username) || undefined,
    password: decode(url.password) || undefined,
    sslMode: sslModeOf(parameters.get('sslmode'), parameters.get('sslrootcert')),
    sslFiles: sslFilesOf(parameters),
    connectTimeoutSeconds: Number(timeout),
    applicationName: parameters.get('application_name') ?? undefined,
  }
}

/** Parser of an option that is a Postgres URL. */
export function databaseUrl(value: string): string {
  parseDatabaseUrl(value)
  return value
}

/** Parser of an option that is a schema name: letters and `_` only, as the AppView demands. */
export function schemaName(value: string): string {
  if (!/^[A-Za-z_]{1,63}$/.test(value)) throw new Error('must be letters and _ only')
  return value
}

/** What everything that uses Postgres has. */
export const postgresOptions = {
  databaseUrl: {
    env: 'DATABASE_URL',
    aliases: ['DB_POSTGRES_URL'],
    parse: databaseUrl,
    doc: 'Where the index is, as postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=/path.',
    secret: true,
  },
  schema: {
    env: 'DB_SCHEMA',
    parse: schemaName,
    default: 'bsky',
    doc: 'The schema that holds the tables of the AppView.',
  },
} as const satisfies Options

/**
 * Opens a pool. Nothing is kept in a session, no settings, no advisory locks, and prepared statements only where no
 * pooler is noticed, so that one may give every transaction another connection. Connecting happens with
 * the first query. int8 comes as a number (as text above 2^53), `text[]`, `int8[]` and `bool[]`
 * come and go as arrays.
 */
export function connectPostgres(options: PostgresOptions): Sql {
  const address = parseDatabaseUrl(options.databaseUrl)
  const { host, port, database, user, password } = address
  const socketFolder = host.startsWith('/')
  const sql = driver({
    host,
    port,
    database,
    ...(socketFolder ? { path: `${host}/.s.PGSQL.${port}` } : {}),
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ssl: socketFolder ? false : tlsOptions(address),
    max: options.poolSize,
    connect_timeout: address.connectTimeoutSeconds,
    idle_timeout: idleTimeoutSeconds,
    prepare: true,
    fetch_types: false,
    types,
    connection: {
      application_name: address.applicationName ?? options.applicationName ?? 'sluice',
    },
    onnotice: (notice) => options.log.debug({ code: notice['code'] }, 'postgres notice'),
  }) as unknown as postgres.Sql
  return Object.assign(sql, {
    [Symbol.asyncDispose]: () => sql.end({ timeout: closeTimeoutSeconds }),
  })
}

/**
 * Runs `work` in one transaction at READ COMMITTED, with the search path and the limits set for
 * this transaction only. Commits when `work` resolves, else rolls back and throws what it threw.
 */
export async function inTransaction<T>(
  sql: postgres.Sql,
  options: TransactionOptions,
  work: (sql: Transaction) => Promise<T>,
): Promise<T> {
  const settings = settingsStatement(options)
  const keeps = options.keyed === true && direct.has(sql)
  let result: { value: T } | undefined
  await sql.begin('isolation level read committed read write', async (transaction) => {
    const set = transaction.unsafe<{ pid: number }[]>(settings).execute()
    const [answer, value] = await together([set, work(keeps ? keeping(transaction) : transaction)])
    noteDirect(sql, answer)
    result = { value }
  })
  if (result === undefined) throw new Error('the transaction ended without a result')
  return result.value
}

/** The pools whose sessions are the server's own. */
const direct = new WeakSet<postgres.Sql>()

/** A pooler gives its own number for the session, and the server another one. */
function noteDirect(sql: postgres.Sql, answer: postgres.RowList<{ pid: number }[]>): void {
  if (answer[0]?.pid === answer.state?.pid) direct.add(sql)
  else direct.delete(sql)
}

/** The same transaction, whose statements are kept on the server. */
function keeping(transaction: Transaction): Transaction {
  const { unsafe } = transaction
  const kept: typeof unsafe = (text, parameters, options) =>
    unsafe(text, parameters, { ...options, prepare: parameters !== undefined })
  return Object.assign(transaction, { unsafe: kept })
}

/**
 * Waits for statements that need nothing of each other: queries are sent in this order, without a round trip in between.
 * All have ended when it ends, for none may be sent when the transaction is over; the first to fail is thrown.
 */
export async function together<const T extends readonly PromiseLike<unknown>[]>(
  work: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  let failure: { reason: unknown } | undefined
  const noting = async (one: PromiseLike<unknown>) => {
    try {
      return await one
    } catch (reason) {
      failure ??= { reason }
      return undefined
    }
  }
  const results = await Promise.all(work.map(noting))
  if (failure !== undefined) throw failure.reason
  return results as { -readonly [K in keyof T]: Awaited<T[K]> }
}

/** The settings of a transaction, as one statement. */
function settingsStatement(options: TransactionOptions): string {
  const { schema, statementTimeoutMs, lockTimeoutMs = 0, keyed = false } = options
  const settings = [
    ['search_path', `"${schemaName(schema)}",public`],
    ['statement_timeout', milliseconds(statementTimeoutMs)],
    ['lock_timeout', milliseconds(lockTimeoutMs)],
    ['idle_in_transaction_session_timeout', milliseconds(idleInTransactionTimeoutMs)],
    ...(keyed ? byKeys : []),
  ]
  const calls = settings.map(([name, value]) => `set_config('${name}', '${value}', true)`)
  return `select pg_backend_pid() as pid, ${calls.join(', ')}`
}

/** What keeps the planner from reading a small table whole, with a plan that it keeps when the table has grown. */
const byKeys = [
  ['enable_seqscan', 'off'],
  ['enable_hashjoin', 'off'],
  ['enable_mergejoin', 'off'],
  ['jit', 'off'],
  ['plan_cache_mode', 'force_generic_plan'],
] as const

function milliseconds(value: number): string {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError('a timeout must be a whole number of milliseconds')
  }
  return String(value)
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    throw new Error('must have its special characters percent-encoded')
  }
}

/** As libpq: without a mode TLS is tried first; `require` with a CA file verifies the chain. */
function sslModeOf(mode: string | null, rootCert: string | null): SslMode {
  if (mode === null) return rootCert === null ? 'prefer' : 'verify-full'
  const known = sslModes.find((name) => name === mode)
  if (known === undefined) throw new Error(`must have one of sslmode=${sslModes.join(', ')}`)
  return known === 'require' && rootCert !== null ? 'verify-ca' : known
}

function sslFilesOf(parameters: URLSearchParams): DatabaseAddress['sslFiles'] {
  const ca = parameters.get('sslrootcert')
  const cert = parameters.get('sslcert')
  const key = parameters.get('sslkey')
  if ((cert === null) !== (key === null)) throw new Error('must have sslcert and sslkey together')
  return {
    ...(ca === null || ca === 'system' ? {} : { ca }),
    ...(cert === null || key === null ? {} : { cert, key }),
  }
}

function tlsOptions(address: DatabaseAddress): false | 'prefer' | ConnectionOptions {
  const { host, sslMode, sslFiles } = address
  if (sslMode === 'disable') return false
  if (sslMode === 'allow' || sslMode === 'prefer') return 'prefer'
  const files: ConnectionOptions = {
    ...(sslFiles.ca === undefined ? {} : { ca: readPem('sslrootcert', sslFiles.ca) }),
    ...(sslFiles.cert === undefined ? {} : { cert: readPem('sslcert', sslFiles.cert) }),
    ...(sslFiles.key === undefined ? {} : { key: readPem('sslkey', sslFiles.key) }),
  }
  if (sslMode === 'require') return { ...files, rejectUnauthorized: false }
  if (sslMode === 'verify-ca') return { ...files, checkServerIdentity: () => undefined }
  // The client library names no host for an address, so that Node would compare with `localhost`.
  return {
    ...files,
    checkServerIdentity: (_, certificate) => checkServerIdentity(host, certificate),
  }
}

function readPem(parameter: string, path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError([`DATABASE_URL: ${parameter} can't be read: ${errorText(error)}`])
  }
}

const oid = { int8: 20, int2Array: 1005, int4Array: 1007, int8Array: 1016 } as const
const textArrayOids = [1009, 1015] // text[], varchar[]
const boolArrayOid = 1000

/** The types that the client would otherwise ask the catalogue for, at every new connection. */
const types = {
  int8: { to: oid.int8, from: [oid.int8], serialize: String, parse: integer },
  textArray: {
    to: 1009,
    from: textArrayOids,
    serialize: arrayLiteral,
    parse: (literal: string) => arrayElements(literal),
  },
  integerArray: {
    to: oid.int8Array,
    from: [oid.int8Array, oid.int4Array, oid.int2Array],
    serialize: arrayLiteral,
    parse: (literal: string) => arrayElements(literal).map((text) => text && integer(text)),
  },
  booleanArray: {
    to: boolArrayOid,
    from: [boolArrayOid],
    serialize: arrayLiteral,
    parse: (literal: string) => arrayElements(literal).map((text) => text && text === 't'),
  },
}

/** A number where it is exact, else the text unchanged. */
function integer(text: string): number | string {
  const number = Number(text)
  return Number.isSafeInteger(number) ? number : text
}

/** The literal of a one-dimensional array. */
function arrayLiteral(value: unknown): string {
  if (!Array.isArray(value)) return String(value)
  const elements = value.map((element: unknown) =>
    element === null || element === undefined
      ? 'null'
      : `"${String(element).replaceAll(/["\\]/g, '\\$&')}"`,
  )
  return `{${elements.join(',')}}`
}

/** The elements of the literal of a one-dimensional array. */
function arrayElements(literal: string): (string | null)[] {
  const elements: (string | null)[] = []
  for (const [, quoted, plain] of literal.matchAll(/"((?:[^"\\]|\\.)*)"|([^{},"]+)/gs)) {
    if (quoted !== undefined) elements.push(quoted.replaceAll(/\\(.)/gs, '$1'))
    else elements.push(plain === 'NULL' ? null : (plain ?? null))
  }
  return elements
}
