/** The pool and its transactions on a real Postgres; what its errors mean. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { pino } from 'pino'
import { describe, expect, test } from 'vitest'
import { testDatabase } from '../test/servers/postgres.ts'
import { errorText, halves, verdict } from './errors.ts'
import {
  connectPostgres,
  inTransaction,
  parseDatabaseUrl,
  type Sql,
  schemaName,
  type Transaction,
  together,
} from './postgres.ts'
import { retryTransient } from './retry.ts'

const log = pino({ level: 'silent' })
const limits = { schema: 'bsky', statementTimeoutMs: 10_000 }

describe('the URL', () => {
  test('is read with its parts decoded', () => {
    const url = 'postgres://us%40er:p%2Fw@[::1]:6432/my%20db?sslmode=require&connect_timeout=3'
    expect(parseDatabaseUrl(url)).toMatchObject({
      host: '::1',
      port: 6432,
      database: 'my db',
      user: 'us@er',
      password: 'p/w',
      sslMode: 'require',
      connectTimeoutSeconds: 3,
    })
  })

  test.each([
    ['', 'prefer'],
    ['?sslmode=disable', 'disable'],
    ['?sslmode=verify-full', 'verify-full'],
    ['?sslrootcert=/ca.pem', 'verify-full'],
    ['?sslmode=require&sslrootcert=/ca.pem', 'verify-ca'],
  ])('with %j asks for TLS as %s', (query, sslMode) => {
    expect(parseDatabaseUrl(`postgres://host/db${query}`)).toMatchObject({ sslMode })
  })

  test.each([
    ['mysql://host/db', /begins with postgres/],
    ['postgres://a:1,b:2/db', /one host/],
    ['postgres://host', /name a database/],
    ['postgres:///db', /name a host/],
    ['postgres://u%@host/db', /percent-encoded/],
    ['postgres://host/db?sslmode=yes', /sslmode=disable, allow/],
    ['postgres://host/db?sslcert=/c', /sslcert and sslkey together/],
    ['postgres://host/db?sslnoot=/c', /unknown parameters \(sslnoot\)/],
    ['postgres://host/db?connect_timeout=x', /connect_timeout in seconds/],
  ])('%s is refused with a reason', (url, reason) => {
    expect(() => parseDatabaseUrl(url)).toThrow(reason)
  })

  test('may name the folder of a Unix socket', () => {
    expect(parseDatabaseUrl('postgres:///db?host=/run/pg')).toMatchObject({ host: '/run/pg' })
  })

  test('names a certificate that is not there in the words of the setting', () => {
    const databaseUrl = 'postgres://u:secret@host/db?sslmode=verify-ca&sslrootcert=/none.pem'
    const connect = () => connectPostgres({ databaseUrl, poolSize: 1, log })
    expect(connect).toThrow(/DATABASE_URL: sslrootcert can't be read: (?!.*secret)/)
  })
})

test.each(['bsky; drop', 'bsky-1', '', '"x"'])('%j is no schema name', (name) => {
  expect(() => schemaName(name)).toThrow(/letters and _/)
})

describe('a transaction', () => {
  test('has its settings to itself: the next one on the connection finds none of them', async () => {
    await using database = await opened({ poolSize: 1 })
    const settings = (sql: Sql | Transaction) => sql`
      select current_setting('search_path') as path, current_setting('statement_timeout') as ms`
    const [before] = await settings(database.sql)
    const [inside] = await inTransaction(database.sql, limits, settings)
    expect(inside).toEqual({ path: '"bsky",public', ms: '10s' })
    expect(await settings(database.sql)).toEqual([before])
  })

  test('is at READ COMMITTED whatever the database prefers', async () => {
    await using database = await opened()
    const name = new URL(database.url).pathname.slice(1)
    await database.sql.unsafe(
      `alter database ${name} set default_transaction_isolation = 'serializable'`,
    )
    await using fresh = connectPostgres({ databaseUrl: database.url, poolSize: 1, log })
    const [row] = await inTransaction(fresh, limits, (tx) => tx`show transaction_isolation`)
    expect(row).toEqual({ transaction_isolation: 'read committed' })
  })

  test('that throws leaves nothing', async () => {
    await using database = await opened()
    const failing = inTransaction(database.sql, limits, async (tx) => {
      await tx`insert into reconcile (kind, key) values ('a', 'b')`
      throw new Error('of ours')
    })
    await expect(failing).rejects.toThrow('of ours')
    expect(await database.sql`select * from bsky.reconcile`).toEqual([])
  })
})

test('no more connections are open than the pool may have, however many ask', async () => {
  await using database = await opened({ poolSize: 3 })
  const pids = await Promise.all(
    Array.from({ length: 20 }, () =>
      inTransaction(database.sql, limits, async (tx) => {
        const [row] = await tx<{ pid: number }[]>`select pg_backend_pid() as pid`
        return row?.pid
      }),
    ),
  )
  expect(new Set(pids).size).toBeLessThanOrEqual(3)
})

test('int8 comes as a number where that is exact, arrays go and come as arrays', async () => {
  await using database = await opened()
  const texts = ['a"b', 'c\\d', '', 'e,f', 'NULL', '{}', 'ü\n']
  const [row] = await database.sql`
    select 9007199254740991::int8 as safe, 9007199254740993::int8 as unsafe, count(*) as none,
      ${texts}::text[] as texts, ${texts}::varchar[] as varchars, ${[1, 2]}::int8[] as numbers,
      array[null, 'x']::text[] as nulls, array[true, false] as flags, ${[]}::text[] as empty
    from pg_class where false`
  expect(row).toEqual({
    safe: Number.MAX_SAFE_INTEGER,
    unsafe: '9007199254740993',
    none: 0,
    texts,
    varchars: texts,
    numbers: [1, 2],
    nulls: [null, 'x'],
    flags: [true, false],
    empty: [],
  })
})

test('a statement takes one round trip, and those of a transaction need not wait for each other', async () => {
  await using database = await opened()
  let sent = 0
  await using relay = await startRelay(new URL(database.url), () => (sent += 1))
  await using sql = connectPostgres({ databaseUrl: relay.url, poolSize: 1, log })
  await sql`select`
  const pieces = async (work: () => Promise<unknown>) => {
    const before = sent
    await work()
    return sent - before
  }
  const ask = (sql: Sql | Transaction) =>
    sql.unsafe('select $1::text, $2::text[], $3::int', ['a', ['b', 'c'], 1])
  expect(await pieces(() => ask(sql))).toBe(1)
  // Its beginning, its settings with all statements, its end.
  const asking = (tx: Transaction) => together([ask(tx), ask(tx), ask(tx)])
  expect(await pieces(() => inTransaction(sql, limits, asking))).toBe(3)
})

test('statements by keys are kept on the server from the second transaction on, and read no table whole', async () => {
  await using database = await opened({ poolSize: 1 })
  const look = (tx: Transaction) =>
    tx.unsafe('explain select from actor where did = any($1::text[])', [['did:plc:a']])
  const kept = (tx: Transaction) => tx`select statement from pg_prepared_statements`
  const keyed = { ...limits, keyed: true }
  await inTransaction(database.sql, keyed, look)
  expect(await inTransaction(database.sql, limits, kept)).toEqual([])
  const [plan] = await inTransaction(database.sql, keyed, look)
  expect(Object.values(plan ?? {}).join()).toMatch(/Index/)
  await inTransaction(database.sql, limits, look)
  expect(await inTransaction(database.sql, limits, kept)).toHaveLength(1)
})

test('of statements that are sent together the first to fail is the one that is told, and all are waited for', async () => {
  await using database = await opened()
  let ended = 0
  const ending = (work: Promise<unknown>) => work.finally(() => (ended += 1))
  const work = inTransaction(database.sql, limits, (tx) =>
    together([
      ending(tx`select 1`),
      ending(tx`select 1 / 0`),
      // On a connection of its own: it outlives the rollback.
      ending(database.sql`select pg_sleep(0.2)`),
    ]),
  )
  await expect(work).rejects.toMatchObject({ code: '22012' })
  expect(ended).toBe(3)
})

describe('the verdict on what Postgres says', () => {
  test.each([
    ['22021', 'reject', 'a NUL in a text', (sql: Sql) => sql`select ${'a\0b'}::text`],
    ['22P02', 'reject', 'no JSON', (sql: Sql) => sql`select ${'{'}::text::jsonb`],
    ['23505', 'reject', 'a key twice', twice],
    [
      '23502',
      'reject',
      'a missing value',
      (sql: Sql) => sql`insert into bsky.actor default values`,
    ],
    ['54000', 'reject', 'a text too long for its index', tooLong],
    ['57014', 'retry', 'a statement over its time', slow],
    ['55P03', 'retry', 'a lock not had in time', locked],
    ['40P01', 'retry', 'a deadlock', deadlock],
    ['40001', 'retry', 'a serialisation failure', conflict],
    ['57P01', 'retry', 'a connection ended by the operator', terminated],
    ['42P01', 'crash', 'a table that is not there', (sql: Sql) => sql`select from nowhere`],
    ['42601', 'crash', 'a statement that is none', (sql: Sql) => sql`selct`],
  ] as const)('%s is %s: %s', async (code, expected, _, provoke) => {
    await using database = await opened()
    const error = await Promise.resolve(provoke(database.sql)).catch((error: unknown) => error)
    // The end of a session is seen as its message, or only as the closed connection.
    const codes = code === '57P01' ? [code, 'CONNECTION_CLOSED'] : [code]
    expect(codes).toContain((error as { code?: string }).code)
    expect(verdict(error)).toBe(expected)
    expect(halves(error)).toBe(code === '57014')
  })

  test('53300 is retry: too many connections', async () => {
    await using database = await opened()
    const name = new URL(database.url).pathname.slice(1)
    await database.sql.unsafe(`create role few_${name} login password 'few' connection limit 0`)
    const url = Object.assign(new URL(database.url), { username: `few_${name}`, password: 'few' })
    await using few = connectPostgres({ databaseUrl: url.href, poolSize: 1, log })
    const error = await few`select 1`.catch((error: unknown) => error)
    await database.sql.unsafe(`drop role few_${name}`)
    expect(error).toMatchObject({ code: '53300' })
    expect(verdict(error)).toBe('retry')
  })

  test('nobody listening is retry, and the text names no password', async () => {
    const databaseUrl = 'postgres://u:secret@127.0.0.1:1/db'
    await using sql = connectPostgres({ databaseUrl, poolSize: 1, log })
    const error = await sql`select 1`.catch((error: unknown) => error)
    expect(verdict(error)).toBe('retry')
    expect(errorText(error)).not.toContain('secret')
  })

  test('after the operator ended every connection the same pool goes on', async () => {
    await using database = await opened({ poolSize: 2 })
    await Promise.all([database.sql`select pg_sleep(0.01)`, database.sql`select pg_sleep(0.01)`])
    await database.endSessions()
    const { signal } = new AbortController()
    const count = () => inTransaction(database.sql, limits, (tx) => tx`select count(*) from record`)
    expect(await retryTransient(count, { signal, initialMs: 10 })).toEqual([{ count: 0 }])
  })
})

/** Passes everything on, and tells of each piece that the client sends. */
async function startRelay(to: URL, onPiece: () => void) {
  const server = createServer({ noDelay: true }, (client) => {
    const upstream = connect({ host: to.hostname, port: Number(to.port), noDelay: true })
    client.on('data', onPiece)
    client.pipe(upstream).pipe(client)
    for (const socket of [client, upstream]) socket.on('error', () => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: Object.assign(new URL(to), { port: String(port) }).href,
    [Symbol.asyncDispose]: async () => {
      server.close()
    },
  }
}

async function opened(options: { poolSize?: number } = {}) {
  const database = await testDatabase()
  const { poolSize = 3 } = options
  const sql = connectPostgres({ databaseUrl: database.url, poolSize, log })
  return {
    url: database.url,
    sql,
    endSessions: () => database.sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()`,
    async [Symbol.asyncDispose]() {
      await sql[Symbol.asyncDispose]()
      await database[Symbol.asyncDispose]()
    },
  }
}

function twice(sql: Sql) {
  return sql`insert into bsky.reconcile (kind, key) values ('a', 'a'), ('a', 'a')`
}

function tooLong(sql: Sql) {
  // Random, so that it does not compress below the limit.
  return sql`insert into bsky.reconcile (kind, key)
    select 'a', string_agg(md5(random()::text), '') from generate_series(1, 1000)`
}

function slow(sql: Sql) {
  return inTransaction(sql, { ...limits, statementTimeoutMs: 20 }, (tx) => tx`select pg_sleep(5)`)
}

function locked(sql: Sql) {
  return inTransaction(sql, limits, async (holder) => {
    await holder`lock table reconcile`
    const waiting = { ...limits, lockTimeoutMs: 20 }
    await inTransaction(sql, waiting, (tx) => tx`select count(*) from reconcile`)
  })
}

/** Two transactions that lock the same two tables in opposite order; one is told to give way. */
async function deadlock(sql: Sql) {
  const first = Promise.withResolvers<void>()
  const second = Promise.withResolvers<void>()
  const one = inTransaction(sql, limits, async (tx) => {
    await tx`lock table reconcile`
    first.resolve()
    await second.promise
    await tx`lock table position`
  })
  const other = inTransaction(sql, limits, async (tx) => {
    await first.promise
    await tx`lock table position`
    second.resolve()
    await tx`lock table reconcile`
  })
  const settled = await Promise.allSettled([one, other])
  throw settled.find((result) => result.status === 'rejected')?.reason
}

async function conflict(sql: Sql) {
  await sql`insert into bsky.reconcile (kind, key) values ('a', 'b')`
  await sql.begin('isolation level repeatable read', async (tx) => {
    await tx`select count(*) from bsky.reconcile`
    await sql`update bsky.reconcile set key = 'c'`
    await tx`update bsky.reconcile set key = 'd'`
  })
}

function terminated(sql: Sql) {
  return sql`select pg_terminate_backend(pg_backend_pid()), pg_sleep(5)`
}
