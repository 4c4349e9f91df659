/** What older workers left in a database: found, and healed when asked, a page at a time. */
import { inTransaction, type Sql, type Transaction } from '../../shared/postgres.ts'
import { retryTransient } from '../../shared/retry.ts'
import type { ApplyOptions } from '../apply.ts'
import type { Key } from '../rules/keys.ts'
import { reconcile } from '../rules/reconcile.ts'
import { walkActors } from './actors.ts'
import { walkBlobs } from './blobs.ts'
import { walkCounts } from './counts.ts'
import { walkNotifications } from './notifications.ts'
import { walkRecords } from './records.ts'
import { walkRows } from './rows.ts'
import { walkTimes } from './times.ts'
import type { Page, Patient, Walk } from './walk.ts'

export interface DoctorOptions {
  apply: ApplyOptions
  /** Heals what is found; an interrupted repair continues where it was. */
  repair: boolean
  /** Rows too: a look at every row beside the record that it stands for. */
  rows?: boolean
  /** Counters too: a look at every row that counts. */
  counts: boolean
  /** Since when workers that keep no revs wrote here; null: never. */
  since: string | null
  signal: AbortSignal
  pageSize?: number
  onProgress?: (walk: string, done: number, total: number) => void
}

/** What a walk found, by kind. */
export interface Finding {
  kind: string
  walk: string
  found: number
}

/** Walks through everything. Indexers may run meanwhile. Throws the signal's reason when it aborts. */
export async function examine(options: DoctorOptions): Promise<Finding[]> {
  const { apply, rows = false, counts, since, signal } = options
  const patient: Patient = { apply, columns: await columnsOf(apply) }
  // Links before blobs and rows, which are read from the records; counters last.
  const walks = [
    walkRecords(patient, since),
    ...walkBlobs(patient),
    ...walkTimes(patient),
    walkActors,
    walkNotifications,
    ...(rows ? walkRows(patient) : []),
    ...(counts ? walkCounts(apply.collections) : []),
  ]
  const findings: Finding[] = []
  for (const walk of walks) {
    const found = await follow(options, walk)
    signal.throwIfAborted()
    for (const [kind, count] of Object.entries(found)) {
      findings.push({ kind, walk: walk.name, found: count })
    }
  }
  return findings
}

/** A page of posts is looked at for each. */
const keysAtOnce = 50

/** Walks to the end of one table. With a repair each page and the place after it are one transaction. */
async function follow(options: DoctorOptions, walk: Walk): Promise<Record<string, number>> {
  const { apply, repair, signal, onProgress, pageSize: size = 2_000 } = options
  const { sql, schema, statementTimeoutMs } = apply
  const total = await estimate(apply, walk.table)
  const found: Record<string, number> = {}
  let done = 0
  let after: string | null = repair ? await startOf(apply, walk) : ''
  while (after !== null) {
    signal.throwIfAborted()
    const from: string = after
    const page = await retryTransient(
      () =>
        inTransaction(sql, { schema, statementTimeoutMs }, async (tx) => {
          const result = await walk.page(tx, { after: from, size, repair })
          if (repair) await noteProgress(tx, walk, result)
          return result
        }),
      { signal },
    )
    await followRules(apply, page.left ?? [], signal)
    for (const [kind, count] of Object.entries(page.found)) found[kind] = (found[kind] ?? 0) + count
    done += page.seen
    after = page.after
    onProgress?.(walk.name, done, Math.max(done, total))
  }
  return found
}

/** Does what is left to the rules, and what follows from it. Who dies here leaves it to the indexers. */
async function followRules(
  { sql, schema, statementTimeoutMs }: ApplyOptions,
  keys: readonly Key[],
  signal: AbortSignal,
): Promise<void> {
  const options = { sql, schema, statementTimeoutMs, probe: async () => {} }
  for (let left = [...keys]; left.length > 0; ) {
    signal.throwIfAborted()
    const some = left.splice(0, keysAtOnce)
    left.push(...(await retryTransient(() => reconcile(options, some), { signal })))
  }
}

async function startOf({ sql, schema }: ApplyOptions, { name }: Walk): Promise<string> {
  const [row] = await sql.unsafe<{ cursor: string }[]>(
    `select cursor from "${schema}".doctor_progress where name = $1`,
    [name],
  )
  return row?.cursor ?? ''
}

async function noteProgress(
  sql: Transaction,
  { name }: Walk,
  { after, found }: Page,
): Promise<void> {
  if (after === null) {
    await sql.unsafe('delete from doctor_progress where name = $1', [name])
    return
  }
  await sql.unsafe(
    `insert into doctor_progress (name, cursor, found, "updatedAt") values ($1, $2, $3::text::bigint, $4)
     on conflict (name) do update set cursor = excluded.cursor, "updatedAt" = excluded."updatedAt",
       found = doctor_progress.found + excluded.found`,
    [name, after, Object.values(found).reduce((sum, n) => sum + n, 0), new Date().toISOString()],
  )
}

/** As the planner has it: good enough for a bar. */
async function estimate({ sql, schema }: ApplyOptions, table: string): Promise<number> {
  const [row] = await sql.unsafe<{ rows: number }[]>(
    `select greatest(c.reltuples, 0)::bigint as rows from pg_class c
     join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2`,
    [schema, table],
  )
  return Number(row?.rows ?? 0)
}

async function columnsOf({ sql, schema }: ApplyOptions): Promise<Patient['columns']> {
  return (sql as Sql).unsafe<Patient['columns'][number][]>(
    `select table_name as "table", column_name as name, is_generated = 'ALWAYS' as generated
     from information_schema.columns where table_schema = $1`,
    [schema],
  )
}
