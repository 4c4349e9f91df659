/** The schema that we create is the AppView's, and what is ours. */
import type { Sql } from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, testDatabase } from '../test/servers/postgres.ts'
import { ownColumns, ownIndexes, ownTables } from './ours.ts'
import { catalogueOf, migrateReference } from './testing.ts'

let reference: TestDatabase
let ours: TestDatabase

beforeAll(async () => {
  reference = await testDatabase({ migrated: false })
  ours = await testDatabase()
  await migrateReference(reference.url, 'bsky')
}, 360_000)

afterAll(async () => {
  await reference?.[Symbol.asyncDispose]()
  await ours?.[Symbol.asyncDispose]()
})

test('nothing that the AppView has is missing or different', async () => {
  const own = new Set(await catalogueOf(ours.sql, 'bsky'))
  const expected = await catalogueOf(reference.sql, 'bsky')
  expect(expected.length).toBeGreaterThan(500)
  expect(expected.filter((line) => !own.has(line))).toEqual([])
})

test('nothing is added but what is listed as ours', async () => {
  const expected = new Set(await catalogueOf(reference.sql, 'bsky'))
  const added = (await catalogueOf(ours.sql, 'bsky')).filter((line) => !expected.has(line))
  expect(added.filter((line) => ownerOf(line) === null)).toEqual([])
})

test('everything that is listed as ours is there', async () => {
  const expected = new Set(await catalogueOf(reference.sql, 'bsky'))
  const added = (await catalogueOf(ours.sql, 'bsky')).filter((line) => !expected.has(line))
  const owners = new Set(added.map(ownerOf))
  expect([...owners].sort()).toEqual([...ownTables, ...ownColumns, ...ownIndexes].sort())
})

test('an AppView that starts on our database finds that its migrations are done', async () => {
  expect(await migrateReference(ours.url, 'bsky')).toBe(0)
  expect(await rowsOf(ours.sql)).toEqual(await rowsOf(reference.sql))
})

/** What on our list a line of the catalogue belongs to. */
function ownerOf(line: string): string | null {
  const [kind, table = '', name = ''] = line.split(' ')
  if (kind === 'index' && ownIndexes.some((own) => own === name)) return name
  if (kind === 'column' && ownColumns.some((own) => own === table)) return table
  return ownTables.find((own) => own === table.split('.')[0]) ?? null
}

/** The rows that the migrations themselves write, without their times. */
async function rowsOf(sql: Sql): Promise<unknown[]> {
  return [
    await sql`select name from kysely_migration order by "timestamp", name`,
    await sql`select * from kysely_migration_lock`,
    await sql`select * from view_param order by name`,
  ]
}
