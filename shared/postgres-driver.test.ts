/** What the pool promises when connections end at the worst moment. */
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, testDatabase } from '../test/servers/postgres.ts'
import { startProxy, type TcpProxy } from '../test/servers/proxy.ts'
import { verdict } from './errors.ts'
import { connectPostgres, inTransaction, type Sql } from './postgres.ts'

let database: TestDatabase
let proxy: TcpProxy
let sql: Sql

beforeEach(async () => {
  database = await testDatabase()
  const { hostname: host, port } = new URL(database.url)
  proxy = await startProxy({ host, port: Number(port) })
  const databaseUrl = proxy.through(database.url)
  sql = connectPostgres({ databaseUrl, poolSize: 2, log: pino({ level: 'silent' }) })
})
afterEach(async () => {
  await sql[Symbol.asyncDispose]()
  await proxy[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
})

const settings = { schema: 'bsky', statementTimeoutMs: 0 }
const sleeping = async () => {
  const rows = await database.sql`
    select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`
  return rows.length
}

test('a connection that ends in the middle of a transaction fails that one, and no later one', async () => {
  for (let turn = 0; turn < 10; turn += 1) {
    const doomed = Array.from({ length: 2 }, () =>
      inTransaction(sql, settings, (tx) => tx`select pg_sleep(60)`).catch(verdict),
    )
    await expect.poll(sleeping, { timeout: 10_000, interval: 5 }).toBe(2)
    proxy.cut()
    expect(await Promise.all(doomed)).toEqual(['retry', 'retry'])
    // Both places of the pool at once.
    const next = Array.from({ length: 2 }, () =>
      inTransaction(sql, settings, async (tx) => (await tx`select 1 as one, pg_sleep(0.01)`)[0]),
    )
    expect((await Promise.all(next)).map((row) => row?.['one'])).toEqual([1, 1])
    await database.sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event = 'PgSleep'`
  }
  expect(proxy.fired.cut).toBeGreaterThanOrEqual(20)
})

test('a server that goes away without a word between two statements ends no process', async () => {
  const gone = inTransaction(sql, settings, async (tx) => {
    await tx`select 1`
    proxy.refuse(true)
    proxy.cut()
    await expect.poll(() => proxy.fired.cut, { timeout: 5_000 }).toBeGreaterThan(0)
    await new Promise((resolve) => setTimeout(resolve, 50))
    await tx`select 2`
  })
  await expect(gone).rejects.toSatisfy((error) => verdict(error) === 'retry')
  proxy.refuse(false)
  expect((await inTransaction(sql, settings, (tx) => tx`select 1 as one`))[0]).toEqual({ one: 1 })
})
