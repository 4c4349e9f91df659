/** What the embedded PostgreSQL promises. */
import { chmod, readFile, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import postgres, { type Sql } from 'postgres'
import { expect, test } from 'vitest'
import { env } from '../test/env.ts'
import { bareCheckout, homeOf, nobody, startParent, testFolder } from './parent.fixture.ts'
import { findPlaces } from './places.ts'
import { NoPostgresError, startPostgres } from './postgres.ts'
import { endProcess, isAlive } from './process.ts'

const isRoot = process.getuid?.() === 0
const unsafe = true

async function ask<T>(url: string, question: (sql: Sql) => PromiseLike<T>): Promise<T> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    return await question(sql)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Listens where a server of the system would; passes over a port that is already taken. */
async function takePort(port: number): Promise<AsyncDisposable> {
  const server = createServer()
  await new Promise<void>((resolve) => {
    server.once('error', () => resolve())
    server.listen(port, '127.0.0.1', resolve)
  })
  return {
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

test('keeps rows, port and password through a stop and a start, in a folder with spaces', async () => {
  await using folder = await testFolder()
  const places = await findPlaces(env)
  const first = await startPostgres({ places, dir: folder.path, unsafe })
  await ask(first.url, (sql) => sql`create table kept as select 1 as id`)
  await first.stop()
  await using again = await startPostgres({ places, dir: folder.path, unsafe })
  expect(again.url).toBe(first.url)
  expect(await ask(again.url, (sql) => sql`select id from kept`)).toMatchObject([{ id: 1 }])
})

test('starts while 5432 is taken', async () => {
  await using folder = await testFolder()
  await using _taken = await takePort(5432)
  await using server = await startPostgres({
    places: await findPlaces(env),
    dir: folder.path,
    unsafe,
  })
  expect(server.port).not.toBe(5432)
})

test('orders text by code point, in UTF-8, and finds trigrams beyond ASCII', async () => {
  await using folder = await testFolder()
  const dir = folder.path
  await using server = await startPostgres({ places: await findPlaces(env), dir, unsafe })
  await ask(server.url, (sql) => sql`create extension pg_trgm`)
  const [row] = await ask(
    server.url,
    (sql) => sql`select 'a' > 'B' as ordered, show_trgm('日本語') as trigrams,
      current_setting('server_encoding') as encoding`,
  )
  expect(row).toMatchObject({ ordered: true, encoding: 'UTF8' })
  expect(row?.['trigrams'].length).toBe(4)
})

test('lets nobody in without the password, which only its owner can read', async () => {
  await using folder = await testFolder()
  const dir = folder.path
  await using server = await startPostgres({ places: await findPlaces(env), dir, unsafe })
  const url = new URL(server.url)
  url.password = 'guess'
  await expect(ask(url.href, (sql) => sql`select 1`)).rejects.toMatchObject({ code: '28P01' })
  for (const file of ['password', 'url']) {
    expect((await stat(join(dir, file))).mode & 0o077).toBe(0)
  }
})

test('ends the server that a killed parent has left, and keeps its rows', async () => {
  await using folder = await testFolder()
  const left = await startParent({ server: 'postgres', dir: folder.path })
  await ask(left.url, (sql) => sql`create table kept as select 1 as id`)
  await left.kill()
  expect(await isAlive(left.pid)).toBe(true)

  const places = await findPlaces(env)
  await using server = await startPostgres({ places, dir: folder.path, unsafe })
  expect(await isAlive(left.pid)).toBe(false)
  expect(await ask(server.url, (sql) => sql`select id from kept`)).toMatchObject([{ id: 1 }])
})

test('starts after it was killed itself', async () => {
  await using folder = await testFolder()
  const places = await findPlaces(env)
  const killed = await startPostgres({ places, dir: folder.path, unsafe })
  await endProcess(killed.pid, [['SIGKILL', 5_000]])
  await using server = await startPostgres({ places, dir: folder.path, unsafe })
  expect(await ask(server.url, (sql) => sql`select 1 as one`)).toMatchObject([{ one: 1 }])
})

test('a pid file that names a stranger costs the stranger nothing', async () => {
  await using folder = await testFolder()
  const places = await findPlaces(env)
  const first = await startPostgres({ places, dir: folder.path, unsafe })
  await first.stop()
  const file = join(folder.path, 'cluster', 'postmaster.pid')
  await writeFile(file, `${process.pid}\n`)
  await using server = await startPostgres({ places, dir: folder.path, unsafe })
  expect(await readFile(file, 'utf8')).toMatch(new RegExp(`^${server.pid}\n`))
})

test.runIf(isRoot)('as root, names a folder that its user can not enter', async () => {
  await using folder = await testFolder()
  await chmod(folder.path, 0o700)
  const dir = join(folder.path, 'inside')
  const starting = startPostgres({ places: await findPlaces(env), dir, unsafe })
  await expect(starting).rejects.toThrow(NoPostgresError)
  await expect(starting).rejects.toThrow(/can't enter .*inside.*--data/)
})

test.runIf(isRoot)('as root, runs from a checkout that its user can not enter', async () => {
  await using folder = await testFolder()
  const { checkout, node } = await bareCheckout(folder.path)
  await chmod(checkout, 0o700)
  const dir = join(folder.path, 'the data')
  await using server = await startParent({ server: 'postgres', dir, checkout, node })
  expect(await ask(server.url, (sql) => sql`select 1 as one`)).toMatchObject([{ one: 1 }])
  expect(await server.end()).toBe(0)
})

test.runIf(isRoot)('an ordinary user runs it though the install script never ran', async () => {
  await using folder = await testFolder()
  const { checkout, node } = await bareCheckout(folder.path)
  const home = await homeOf(folder.path, nobody)
  await using server = await startParent({
    server: 'postgres',
    dir: join(home, 'the data'),
    checkout,
    node,
    identity: nobody,
    env: { HOME: home, XDG_CACHE_HOME: '' },
  })
  expect(await ask(server.url, (sql) => sql`select 1 as one`)).toMatchObject([{ one: 1 }])
  expect(await server.end()).toBe(0)
})
