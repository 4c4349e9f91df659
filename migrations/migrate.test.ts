/** What the runner promises: once each, one at a time, and never on what is not ours. */
import { type ExecFileException, execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { ConfigError } from '../shared/config.ts'
import { env } from '../test/env.ts'
import { testDatabase } from '../test/servers/postgres.ts'
import { type MigrateOptions, migrate, migrationStates } from './migrate.ts'
import { catalogueOf } from './testing.ts'

const main = fileURLToPath(new URL('../cli/main.ts', import.meta.url))
const names = [
  '0001_appview.sql',
  '0002_record_rev.sql',
  '0003_own_tables.sql',
  '0004_post_reply_root_index.sql',
  '0005_accounts.sql',
  '0006_reconcile_walks.sql',
  '0007_post_answers_index.sql',
  '0008_post_thread_index.sql',
]

test('an empty database is brought to the newest state, and a second run does nothing', async () => {
  await using database = await testDatabase({ migrated: false })
  expect(await migrate(of(database))).toEqual(names)
  expect(await migrate(of(database))).toEqual([])
  const states = await migrationStates(of(database))
  expect(states.map(({ state }) => state)).toEqual(names.map(() => 'applied'))
})

test('of many processes at once each migration runs in one', async () => {
  await using database = await testDatabase({ migrated: false })
  const many = await Promise.all(Array.from({ length: 5 }, () => migrate(of(database))))
  expect(many.flat().sort()).toEqual(names)
})

test('the schema may have another name', async () => {
  await using database = await testDatabase({ migrated: false })
  await migrate({ databaseUrl: database.url, schema: 'App_View' })
  const lines = await catalogueOf(database.sql, 'App_View')
  expect(lines).toContain('column record.rev character varying default')
  expect(await catalogueOf(database.sql, 'bsky')).toEqual(['extension pg_trgm public', plpgsql])
})

test('a migration that was changed after it ran is refused', async () => {
  await using database = await testDatabase()
  await using folder = await changedCopy(names[2], (text) => `${text}\n-- more\n`)
  await expect(migrate({ ...of(database), folder: folder.url })).rejects.toThrow(
    /0003_own_tables.sql was changed after it was applied/,
  )
  const states = await migrationStates({ ...of(database), folder: folder.url })
  expect(states[2]).toMatchObject({ name: names[2], state: 'changed' })
})

test('line ends of another system are no change', async () => {
  await using database = await testDatabase()
  await using folder = await changedCopy(names[2], (text) => text.replaceAll('\n', '\r\n'))
  expect(await migrate({ ...of(database), folder: folder.url })).toEqual([])
})

test('a migration that fails leaves nothing of itself, and those before it stay', async () => {
  await using database = await testDatabase({ migrated: false })
  await using folder = await changedCopy(names[2], (text) => `${text}\nselect 1 / 0;\n`)
  await expect(migrate({ ...of(database), folder: folder.url })).rejects.toThrow(/division by zero/)
  const states = await migrationStates(of(database))
  const expected = names.map((_, index) => (index < 2 ? 'applied' : 'pending'))
  expect(states.map(({ state }) => state)).toEqual(expected)
  expect(await migrate(of(database))).toEqual(names.slice(2))
})

test('a database of a newer version is left alone, and refused where it lacks ours', async () => {
  await using database = await testDatabase()
  await database.sql`insert into sluice_migration (name, checksum) values ('0999_new.sql', 'x')`
  expect(await migrate(of(database))).toEqual([])
  await database.sql`delete from sluice_migration where name = ${names[3] ?? ''}`
  await expect(migrate(of(database))).rejects.toThrow(/another version \(0999_new.sql\)/)
})

test('what an interrupted index build has left is built again', async () => {
  await using database = await testDatabase()
  const { sql } = database
  await sql`drop index sluice_post_thread_idx`
  await sql`delete from sluice_migration where name = ${names[7] ?? ''}`
  await sql`insert into post (uri, cid, creator, text, "replyRoot", "createdAt", "indexedAt")
    select n::text, '', '', '', 'same', '', '' from generate_series(1, 2) n`
  await expect(
    sql`create unique index concurrently sluice_post_thread_idx on post ("replyRoot")`,
  ).rejects.toThrow(/could not create unique index/)
  expect(await migrate(of(database))).toEqual([names[7]])
  const lines = await catalogueOf(sql, 'bsky')
  expect(lines.filter((line) => line.includes('sluice_post_thread_idx'))).toHaveLength(1)
})

test('tables that something else created are refused, and stay as they are', async () => {
  await using database = await testDatabase({ migrated: false })
  await database.sql`create schema bsky`
  await database.sql`create table bsky.record (uri varchar primary key)`
  const before = await catalogueOf(database.sql, 'bsky')
  const { code, stderr } = await command(database.url, [])
  expect(code).toBe(2)
  expect(stderr).toMatch(/something else created \(record\).*nothing was changed.*--adopt/s)
  expect(await catalogueOf(database.sql, 'bsky')).toEqual(before)
})

test('what an extension brought does not count as something else', async () => {
  await using database = await testDatabase({ migrated: false })
  await database.sql`create schema bsky`
  await database.sql`create table bsky.settings (name text)`
  await database.sql`alter extension plpgsql add table bsky.settings`
  expect(await migrate(of(database))).toEqual(names)
})

test('the command tells all that is wrong with its settings in one message', async () => {
  const { code, stderr } = await command('mysql://secret@host/db', [], 'bsky-1')
  expect(code).toBe(2)
  expect(stderr).toMatch(/DATABASE_URL: its value must.*DB_SCHEMA: "bsky-1" must/s)
  expect(stderr).not.toMatch(/secret|\n\s+at /)
})

test('the command migrates, and tells the state of each migration', async () => {
  await using database = await testDatabase({ migrated: false })
  expect(await command(database.url, [])).toMatchObject({ code: 0 })
  const { stdout } = await command(database.url, ['--status'])
  expect(stdout.match(/^applied {2}\d{4}-\S+Z +\d{4}_\w+\.sql$/gm)).toHaveLength(names.length)
})

test('a database that is away is a failure, not a bad configuration', async () => {
  const { code, stderr } = await command('postgres://127.0.0.1:1/none', [])
  expect(code).toBe(1)
  expect(stderr).toMatch(/^sluice: .*ECONNREFUSED.*\n$/)
})

test('an encoding that can not hold every text is refused', async () => {
  await using database = await testDatabase({ migrated: false })
  const name = `${new URL(database.url).pathname.slice(1)}_latin`
  await database.sql.unsafe(
    `create database ${name} template template0 encoding 'SQL_ASCII' locale 'C'`,
  )
  const databaseUrl = Object.assign(new URL(database.url), { pathname: `/${name}` }).href
  try {
    await expect(migrate({ databaseUrl, schema: 'bsky' })).rejects.toThrow(ConfigError)
  } finally {
    await database.sql.unsafe(`drop database ${name} with (force)`)
  }
})

const plpgsql = 'extension plpgsql pg_catalog'

function of({ url, schema }: { url: string; schema: string }): MigrateOptions {
  return { databaseUrl: url, schema }
}

/** The migrations in a folder of their own, one of them changed. */
async function changedCopy(name: string | undefined, change: (text: string) => string) {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-migrations-'))
  const filter = (path: string) => !path.endsWith('.ts')
  await cp(fileURLToPath(new URL('./', import.meta.url)), folder, { recursive: true, filter })
  const file = join(folder, name ?? '')
  await writeFile(file, change(await readFile(file, 'utf8')))
  return {
    url: pathToFileURL(`${folder}/`),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
  }
}

/** Runs `sluice migrate` as a process of its own. */
function command(
  databaseUrl: string,
  args: readonly string[],
  schema = 'bsky',
): Promise<{ code: number | string; stdout: string; stderr: string }> {
  const own = { ...env, DATABASE_URL: databaseUrl, DB_SCHEMA: schema }
  return new Promise((resolve) => {
    const done = (error: ExecFileException | null, stdout: string, stderr: string) =>
      resolve({ code: error?.code ?? 0, stdout, stderr })
    execFile(process.execPath, [main, 'migrate', ...args], { env: own }, done)
  })
}
