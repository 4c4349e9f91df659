/** Adopting a database that the AppView created: only what is ours comes, and nothing else moves. */
import { hash, randomBytes } from 'node:crypto'
import postgres, { type Sql } from 'postgres'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { createLog } from '../shared/log.ts'
import { type TestDatabase, testDatabase } from '../test/servers/postgres.ts'
import { needs, obstacles } from './adopt.ts'
import { columnsOf, relationsOf, uniqueKeysOf } from './catalogue.ts'
import { migrate, migrationStates } from './migrate.ts'
import { ownTables } from './ours.ts'
import { catalogueOf, migrateReference } from './testing.ts'

let template: TestDatabase

beforeAll(async () => {
  template = await testDatabase({ migrated: false })
  await migrateReference(template.url, 'bsky')
  await fill(template.sql)
  await template.sql.end()
}, 360_000)

afterAll(() => template?.[Symbol.asyncDispose]())

test('an adopted database has the tables of a fresh one, and its rows as they were', async () => {
  await using database = await adoptable()
  await using fresh = await testDatabase()
  const before = await digests(database.sql)
  await migrate({ ...of(database), adopt: true })
  expect(await catalogueOf(database.sql, 'bsky')).toEqual(await catalogueOf(fresh.sql, 'bsky'))
  expect(await digests(database.sql)).toEqual(before)
  expect(await database.sql`select distinct rev from record`).toEqual([{ rev: null }])
})

test('an adopted database is migrated further without being asked again', async () => {
  await using database = await adoptable()
  await migrate({ ...of(database), adopt: true })
  expect(await migrate(of(database))).toEqual([])
  const [first, second] = await migrationStates(of(database))
  expect([first?.state, second?.state]).toEqual(['adopted', 'applied'])
})

test('nothing is adopted without being asked', async () => {
  await using database = await adoptable()
  const before = await catalogueOf(database.sql, 'bsky')
  await expect(migrate(of(database))).rejects.toThrow(/something else created.*--adopt/s)
  expect(await catalogueOf(database.sql, 'bsky')).toEqual(before)
})

test('an empty schema is not adopted: its name may be a mistake', async () => {
  await using database = await testDatabase({ migrated: false })
  await expect(migrate({ ...of(database), adopt: true })).rejects.toThrow(/nothing to adopt/)
})

test('all that keeps the indexer from working is named, and nothing is changed', async () => {
  await using database = await adoptable()
  const { sql } = database
  await sql`drop table op_thread_reply`
  await sql`alter table profile drop column "bannerCid"`
  await sql`alter table post alter column langs type text`
  await sql`alter table "like" drop constraint like_unique_subject`
  await sql`alter table list add column shard int not null`
  await sql`alter table repost drop column "sortAt", add column "sortAt" varchar`
  await sql`create table repo_sync (did varchar)`
  const before = await catalogueOf(sql, 'bsky')
  const refused = await migrate({ ...of(database), adopt: true }).then(String, String)
  for (const problem of [
    'table op_thread_reply is missing',
    'column profile.bannerCid is missing',
    'column post.langs is a text, not jsonb',
    'like has no unique key on (creator, subject)',
    'column list.shard is required, has no default and is unknown to us',
    'column repost.sortAt is a character varying, not generated',
    'repo_sync is there already, and is not ours',
  ]) {
    expect(refused).toContain(problem)
  }
  expect(await catalogueOf(sql, 'bsky')).toEqual(before)
})

test('columns, indexes and a rev that others have added are no obstacle', async () => {
  await using database = await adoptable()
  await database.sql`alter table record add column rev text, add column note text`
  await database.sql`alter table post add column shard int not null default 0`
  await database.sql`create unique index on notification (did, "recordUri", reason)`
  await database.sql`update record set rev = '3abc'`
  await migrate({ ...of(database), adopt: true })
  expect(await database.sql`select distinct rev from record`).toEqual([{ rev: '3abc' }])
})

test('a table in use is not waited for with others queueing behind, and is tried again', async () => {
  await using database = await adoptable()
  const lines: string[] = []
  const waiting = Promise.withResolvers<void>()
  const log = createLog('test', 'info', {
    write(line: string) {
      lines.push(line)
      if (line.includes('a table is in use')) waiting.resolve()
    },
  })
  let adopting: Promise<string[]> | undefined
  await database.sql.begin(async (reader) => {
    await reader`lock table record in access share mode`
    adopting = migrate({ ...of(database), adopt: true, log })
    await waiting.promise
    await database.sql`select count(*) from record`
  })
  expect(await adopting).toContain('0002_record_rev.sql')
})

test('every table that the indexer needs is one that a fresh database has', async () => {
  await using fresh = await testDatabase({ migrated: true })
  const found = {
    relations: (await relationsOf(fresh.sql, 'bsky')).filter((name) => !isOurs(name)),
    columns: await columnsOf(fresh.sql, 'bsky'),
    uniqueKeys: await uniqueKeysOf(fresh.sql, 'bsky'),
  }
  expect(obstacles(found)).toEqual([])
  const missing = obstacles({ relations: [], columns: [], uniqueKeys: new Set() })
  expect(missing).toHaveLength(Object.keys(needs).length)
})

function isOurs(name: string): boolean {
  return ownTables.some((own) => own === name)
}

function of({ url }: { url: string }) {
  return { databaseUrl: url, schema: 'bsky' }
}

/** A database of its own, as the AppView's migrations and `fill` have left it. */
async function adoptable(): Promise<Pick<TestDatabase, 'url' | 'sql'> & AsyncDisposable> {
  const url = new URL(template.url)
  const source = url.pathname.slice(1)
  const name = `${source}_${randomBytes(4).toString('hex')}`
  const owner = postgres(inject('servers').databaseUrl, { max: 1, onnotice: () => {} })
  await owner.unsafe(`create database ${name} template ${source}`)
  url.pathname = `/${name}`
  const connection = { search_path: 'bsky,public' }
  const sql = postgres(url.href, { max: 4, onnotice: () => {}, connection })
  const close = async () => {
    await sql.end({ timeout: 1 })
    await owner.unsafe(`drop database ${name} with (force)`)
    await owner.end()
  }
  return { url: url.href, sql, [Symbol.asyncDispose]: close }
}

const did = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const time = '2026-01-02T03:04:05.678Z'

async function fill(sql: Sql): Promise<void> {
  const uri = `at://${did}/app.bsky.feed.post/3aaaaaaaaaa22`
  await sql`insert into record (uri, cid, did, json, "indexedAt")
    values (${uri}, 'bafy', ${did}, '{}', ${time})`
  await sql`insert into post (uri, cid, creator, text, langs, "createdAt", "indexedAt")
    values (${uri}, 'bafy', ${did}, 'hello', '["en"]', ${time}, ${time})`
  await sql`insert into "like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
    values (${`at://${did}/app.bsky.feed.like/1`}, 'bafy', ${did}, ${uri}, 'bafy', ${time}, ${time})`
  await sql`insert into post_agg (uri, "likeCount") values (${uri}, 1)`
  await sql`insert into actor (did, handle, "indexedAt") values (${did}, 'a.test', ${time})`
  await sql`insert into mute ("mutedByDid", "subjectDid", "createdAt") values (${did}, 'x', ${time})`
}

/** Of every table that is not ours, its rows without our column, hashed. */
async function digests(sql: Sql): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const table of (await relationsOf(sql, 'bsky')).filter((name) => !isOurs(name))) {
    const rows = await sql`
      select (to_jsonb(t) - 'rev')::text as row from ${sql(table)} t order by 1`
    found[table] = hash('sha256', JSON.stringify(rows), 'hex')
  }
  return found
}
