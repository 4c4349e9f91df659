/** The migration files, in order. */
import { hash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'

/**
 * `appview`: tables of the AppView, only where the database is ours. `ours`: our own additions,
 * everywhere. `concurrently`: one index on a table that may hold many rows, outside a transaction.
 */
export type MigrationKind = 'appview' | 'ours' | 'concurrently'

export interface Migration {
  /** The file's name. */
  name: string
  kind: MigrationKind
  checksum: string
  sql: string
}

/** Where the files are. */
export const migrationFolder = new URL('./', import.meta.url)

const fileName = /^\d{4}_[a-z0-9_]+\.sql$/
const firstLine = /^-- sluice: (appview|ours|concurrently)\n/

/** Reads every migration of a folder; a file that is none, or has no kind, is an error. */
export async function readMigrations(folder: URL): Promise<Migration[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.sql')).sort()
  return Promise.all(names.map((name) => readMigration(folder, name)))
}

async function readMigration(folder: URL, name: string): Promise<Migration> {
  if (!fileName.test(name)) throw new Error(`${name} is not named like 0001_what_it_does.sql`)
  const raw = await readFile(new URL(name, folder), 'utf8')
  const sql = raw.replaceAll('\r\n', '\n') // a checkout may have changed the line ends
  const kind = firstLine.exec(sql)?.[1]
  if (kind !== 'appview' && kind !== 'ours' && kind !== 'concurrently') {
    throw new Error(`${name} does not begin with its kind`)
  }
  return { name, kind, checksum: hash('sha256', sql, 'hex'), sql }
}
