/** For tests of the migrations: the AppView's own migrations, and a schema's whole catalogue. */
import { execFile } from 'node:child_process'
import { hash } from 'node:crypto'
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Sql } from 'postgres'
import { sleep } from '../shared/retry.ts'

const run = promisify(execFile)
const reference = new URL('../test/reference/', import.meta.url)
const lockFolder = new URL('.installing/', reference)
const installTimeoutMs = 300_000
const pollMs = 250

/**
 * Runs the AppView's own migrations on a database, in a process of its own; gives how many ran.
 * Installs the package first, once: it takes about 40 s and needs the npm registry.
 */
export async function migrateReference(databaseUrl: string, schema: string): Promise<number> {
  await installReference()
  const script = fileURLToPath(new URL('migrate.mjs', reference))
  const { stdout } = await run(process.execPath, [script, databaseUrl, schema])
  return Number(stdout)
}

async function installReference(): Promise<void> {
  for (let waitedMs = 0; waitedMs < installTimeoutMs; waitedMs += pollMs) {
    if (await isInstalled()) return
    if (await takeLock()) return installLocked()
    await sleep(pollMs)
  }
  throw new Error('test/reference was not installed in time')
}

/** By the lock file's checksum, so that another version is installed anew. */
async function isInstalled(): Promise<boolean> {
  const marker = await readFile(markerFile, 'utf8').catch(() => null)
  return marker !== null && marker === (await lockFileHash())
}

const markerFile = new URL('node_modules/.sluice-installed', reference)

async function lockFileHash(): Promise<string> {
  return hash('sha256', await readFile(new URL('package-lock.json', reference), 'utf8'), 'hex')
}

async function takeLock(): Promise<boolean> {
  const age = await stat(lockFolder).then(
    ({ mtimeMs }) => Date.now() - mtimeMs,
    () => null,
  )
  // Whoever took it so long ago was killed.
  if (age !== null && age > installTimeoutMs) await rm(lockFolder, { recursive: true, force: true })
  return mkdir(lockFolder).then(
    () => true,
    () => false,
  )
}

async function installLocked(): Promise<void> {
  try {
    const args = ['ci', '--ignore-scripts', '--prefix', fileURLToPath(reference)]
    await run('npm', args, { timeout: installTimeoutMs })
    await writeFile(markerFile, await lockFileHash())
  } finally {
    await rm(lockFolder, { recursive: true, force: true })
  }
}

/** Everything in a schema that a reader or a later migration may depend on, a line each, sorted. */
export async function catalogueOf(sql: Sql, schema: string): Promise<string[]> {
  const lines = await sql<{ line: string }[]>`
    with relation as (
      select c.oid, c.relname, c.relkind, c.relpersistence
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = ${schema}
    )
    select format('%s %s %s', case relkind when 'r' then 'table' when 'm' then 'view'
      when 'S' then 'sequence' else 'relation ' || relkind::text end, relname, relpersistence) as line
    from relation where relkind not in ('i', 'c')
    union all
    select concat_ws(' ', 'column', relname || '.' || attname, format_type(atttypid, atttypmod),
      case when attnotnull then 'required' end, nullif(attidentity::text, ''),
      case attgenerated when 's' then 'stored' when 'v' then 'virtual' end,
      pg_get_expr(adbin, adrelid), (select collname from pg_collation where oid = attcollation))
    from relation r join pg_attribute a on a.attrelid = r.oid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where relkind in ('r', 'm') and attnum > 0 and not attisdropped
    union all
    -- Postgres 18 lists not-null constraints here too; the columns above tell them.
    select format('constraint %s %s %s', relname, conname, pg_get_constraintdef(k.oid))
    from relation r join pg_constraint k on k.conrelid = r.oid where contype <> 'n'
    union all
    select format('index %s %s %s', t.relname, i.relname, pg_get_indexdef(x.indexrelid))
    from pg_index x join relation t on t.oid = x.indrelid join relation i on i.oid = x.indexrelid
    where x.indisvalid
    union all
    select format('view %s %s', relname, pg_get_viewdef(oid)) from relation where relkind = 'm'
    union all
    select format('trigger %s %s', relname, pg_get_triggerdef(g.oid))
    from relation r join pg_trigger g on g.tgrelid = r.oid where not tgisinternal
    union all
    select format('function %s', p.oid::regprocedure)
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = ${schema}
    union all
    select format('extension %s %s', extname, nspname)
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace`
  return lines.map(({ line }) => line.replaceAll(/\s+/g, ' ')).sort()
}
