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
