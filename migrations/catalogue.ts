/** What a schema holds, as far as adopting a database depends on it. */
import type { ISql } from 'postgres'

type Sql = ISql<Record<never, never>>

export interface Column {
  table: string
  name: string
  /** As Postgres prints it, such as `character varying` or `bigint`. */
  type: string
  required: boolean
  generated: boolean
  hasDefault: boolean
}

/** Tables and views of the schema; what an extension brought does not count. */
export async function relationsOf(sql: Sql, schema: string): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select c.relname as name
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and c.relkind in ('r', 'p', 'v', 'm', 'f')
      and not exists (
        select from pg_depend d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
      )
    order by 1`
  return rows.map(({ name }) => name)
}

/** Columns of the tables of the schema. */
export async function columnsOf(sql: Sql, schema: string): Promise<Column[]> {
  return sql<Column[]>`
    select c.relname as "table", a.attname as name, format_type(a.atttypid, null) as type,
      a.attnotnull as required, a.attgenerated <> '' as generated,
      a.atthasdef or a.attidentity <> '' as "hasDefault"
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
    order by 1, a.attnum`
}

/** The columns of each valid unique index without a condition, as `table: column column`, sorted. */
export async function uniqueKeysOf(sql: Sql, schema: string): Promise<Set<string>> {
  const rows = await sql<{ key: string }[]>`
    select c.relname || ': ' || string_agg(a.attname, ' ' order by a.attname collate "C") as key
    from pg_index i
    join pg_class c on c.oid = i.indrelid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid
      and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
    where n.nspname = ${schema} and i.indisunique and i.indisvalid
      and i.indpred is null and i.indexprs is null
    group by i.indexrelid, c.relname`
  return new Set(rows.map(({ key }) => key))
}

/** Whether an index of the schema is there and usable; an interrupted build leaves an unusable one. */
export async function indexState(
  sql: Sql,
  schema: string,
  index: string,
): Promise<'absent' | 'invalid' | 'valid'> {
  const [row] = await sql<{ valid: boolean }[]>`
    select i.indisvalid and i.indisready as valid
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and c.relname = ${index}`
  if (row === undefined) return 'absent'
  return row.valid ? 'valid' : 'invalid'
}
