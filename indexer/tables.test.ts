import { pino } from 'pino'
import { expect, test } from 'vitest'
import { connectPostgres } from '../shared/postgres.ts'
import { testDatabase } from '../test/servers/postgres.ts'
import { requireTables } from './tables.ts'

const log = pino({ level: 'silent' })

test('a migrated database is taken', async () => {
  await using database = await testDatabase()
  await using sql = connectPostgres({ databaseUrl: database.url, poolSize: 1, log })
  await requireTables(sql, database.schema)
})

test('an empty database is refused, and the message says what to run', async () => {
  await using database = await testDatabase({ migrated: false })
  await using sql = connectPostgres({ databaseUrl: database.url, poolSize: 1, log })
  await expect(requireTables(sql, 'bsky')).rejects.toThrow(/run `sluice migrate` first/)
})

test('a database without our column and tables is refused, and the message names both', async () => {
  await using database = await testDatabase()
  await using sql = connectPostgres({ databaseUrl: database.url, poolSize: 1, log })
  await database.sql.unsafe('alter table record drop column rev')
  await database.sql.unsafe('drop table repo_sync')
  await expect(requireTables(sql, 'bsky')).rejects.toThrow(
    'lacks repo_sync, record.rev: run `sluice migrate --adopt` first',
  )
})

test('a database that an older version has migrated is refused, and the message names what it lacks', async () => {
  await using database = await testDatabase()
  await using sql = connectPostgres({ databaseUrl: database.url, poolSize: 1, log })
  await database.sql`delete from sluice_migration where name = '0005_accounts.sql'`
  await expect(requireTables(sql, 'bsky')).rejects.toThrow(
    'lacks 0005_accounts.sql: run `sluice migrate` first',
  )
})

test('tables that have changed since they were adopted are refused, and every problem is named', async () => {
  await using database = await testDatabase()
  await using sql = connectPostgres({ databaseUrl: database.url, poolSize: 1, log })
  await database.sql.unsafe('alter table list add column shard int not null')
  await database.sql.unsafe('alter table profile drop column "bannerCid"')
  await expect(requireTables(sql, 'bsky')).rejects.toThrow(
    /profile.bannerCid is missing.*list.shard is required|list.shard is required.*profile.bannerCid is missing/,
  )
})
