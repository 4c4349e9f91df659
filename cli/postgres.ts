/** The connection to DATABASE_URL of a command, and what its failures mean to an operator. */
import { errorText, verdict } from '../shared/errors.ts'
import { connectPostgres, type Sql } from '../shared/postgres.ts'
import type { Context } from './command.ts'

/** Connects, or throws what is told in one line: a command does not wait for servers. */
export async function openPostgres(
  { databaseUrl, logLevel }: { databaseUrl: string; logLevel: string },
  { log }: Context,
  { name, poolSize = 1 }: { name: string; poolSize?: number },
): Promise<Sql> {
  const sql = connectPostgres({
    ...{ databaseUrl, poolSize, applicationName: `sluice-${name}` },
    log: log(logLevel),
  })
  try {
    await sql`select`
    return sql
  } catch (error) {
    await sql[Symbol.asyncDispose]()
    if (postgresMistake(error) !== null || verdict(error) !== 'retry') throw error
    const text = `Postgres can not be reached: ${errorText(error)}; check DATABASE_URL`
    throw Object.assign(new Error(text), { code: 'ECONNREFUSED' })
  }
}

/** What an operator can do about it, by SQLSTATE or its class. */
const advice: Readonly<Record<string, string>> = {
  '28': 'check the user and the password in DATABASE_URL',
  '3D': 'check the name of the database in DATABASE_URL',
  '3F': 'check DB_SCHEMA, or run `sluice migrate`',
  '42P01': 'check DB_SCHEMA, or run `sluice migrate`',
  '42703': 'the schema is not of this version: run `sluice migrate`',
  '42501': 'the user in DATABASE_URL lacks a right',
}

/** In one line what is wrong with the database that was named, and what to do; null for all else. */
export function postgresMistake(error: unknown): string | null {
  if (!(error instanceof Error) || error.name !== 'PostgresError') return null
  const code = 'code' in error ? String(error.code) : ''
  const todo = advice[code] ?? advice[code.slice(0, 2)]
  return todo === undefined ? null : `Postgres says: ${errorText(error)}; ${todo}`
}
