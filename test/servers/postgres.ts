/** Postgres for tests: a database of the test's own, cloned from the run's migrated template. */
import { randomBytes } from 'node:crypto'
import postgres, { type Sql } from 'postgres'
import { inject } from 'vitest'

export interface TestDatabase {
  url: string
  schema: 'bsky'
  /** A small pool; the schema is on its search path. */
  sql: Sql
  [Symbol.asyncDispose](): Promise<void>
}

/** A database that no other test has: migrated, or empty with `migrated: false`. Dropped at the end. */
export async function testDatabase(options: { migrated?: boolean } = {}): Promise<TestDatabase> {
  const { migrated = true } = options
  const { databaseUrl, template } = inject('servers')
  const name = `${template}_${randomBytes(5).toString('hex')}`
  await asOwner(
    databaseUrl,
    `create database ${name} template ${migrated ? template : 'template0'}`,
  )
  const url = new URL(databaseUrl)
  url.pathname = `/${name}`
  const sql = postgres(url.href, {
    max: 4,
    onnotice: () => {},
    connection: { search_path: 'bsky,public' },
  })
  return {
    url: url.href,
    schema: 'bsky',
    sql,
    async [Symbol.asyncDispose]() {
      await sql.end({ timeout: 1 })
      await asOwner(databaseUrl, `drop database if exists ${name} with (force)`)
    },
  }
}

async function asOwner(databaseUrl: string, statement: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} })
  try {
    await sql.unsafe(statement)
  } finally {
    await sql.end({ timeout: 5 })
  }
}
