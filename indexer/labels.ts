/** Labels: the newest statement about a value on a subject counts. */

import { crashPoint } from '../shared/crash-point.ts'
import { InvalidEventError } from '../shared/errors.ts'
import { type Label, type LabelEvent, timestamp } from '../shared/events.ts'
import { inTransaction, type Sql } from '../shared/postgres.ts'
import type { Outcome } from '../shared/streams/consumer.ts'
import { compareText } from './fold.ts'
import { cleanText } from './text.ts'
import { relation } from './write.ts'

interface LabelRow {
  src: string
  uri: string
  /** Empty when the label is about any version of the subject. */
  cid: string
  val: string
  neg: boolean
  cts: string
  exp: string | null
}

/** What became of a batch of label entries. */
export interface AppliedLabels {
  outcomes: readonly Outcome[]
  added: number
  removed: number
}

/** Applies label entries in one transaction; applying them again changes nothing. */
export async function applyLabels(
  options: { sql: Sql; schema: string; statementTimeoutMs: number },
  events: readonly LabelEvent[],
): Promise<AppliedLabels> {
  const { sql, schema, statementTimeoutMs } = options
  const rows = events.map((event) => event.labels.map(rowOf))
  const newest = newestLabels(rows.flat().filter((row) => row !== null))
  crashPoint('indexer.before-labels')
  const moved = await inTransaction(sql, { schema, statementTimeoutMs }, async (transaction) => {
    if (newest.length === 0) return []
    const written = await transaction.unsafe<
      { src: string; uri: string; cid: string; val: string }[]
    >(
      `insert into label as l (src, uri, cid, val, neg, cts, exp)
       select src, uri, cid, val, neg::boolean, cts, exp from ${relation(columns)}
       on conflict (src, uri, cid, val) do update
         set neg = excluded.neg, cts = excluded.cts, exp = excluded.exp
         where (${momentOf('l.cts')}, l.neg, coalesce(l.exp, ''))
             < (excluded.cts, excluded.neg, coalesce(excluded.exp, ''))
       returning src, uri, cid, val`,
      [JSON.stringify(newest)],
    )
    crashPoint('indexer.labels-written')
    return written
  })
  crashPoint('indexer.labels-committed')
  const keys = new Set(moved.map(keyOf))
  const news = new Set(newest.filter((row) => keys.has(keyOf(row))))
  const outcomes = rows.map((labels): Outcome => {
    if (labels.some((row) => row !== null && news.has(row))) return 'applied'
    return labels.length > 0 && labels.every((row) => row === null) ? 'refused:label' : 'stale'
  })
  const removed = [...news].filter(({ neg }) => neg).length
  return { outcomes, added: news.size - removed, removed }
}

/** A stored time in the form of ours: older workers wrote others, which do not compare as text. */
function momentOf(column: string): string {
  const time = String.raw`^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)? ?(UTC|Z|[+-]\d\d:?\d\d)$`
  return `case when length(${column}) <> 24 and ${column} ~ '${time}' then
    to_char(${column}::timestamptz at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    else ${column} end`
}

const columns = ['src', 'uri', 'cid', 'val', 'neg', 'cts', 'exp']

function keyOf({ src, uri, cid, val }: Pick<LabelRow, 'src' | 'uri' | 'cid' | 'val'>): string {
  return JSON.stringify([src, uri, cid, val])
}

/** Null when its time can't be read: it could never be ordered. */
function rowOf({ src, uri, cid = '', val, neg = false, cts, exp }: Label): LabelRow | null {
  const made = readTime(cts)
  if (made === null) return null
  const expires = exp === undefined ? null : readTime(exp)
  return {
    src,
    uri: cleanText(uri),
    cid: cleanText(cid),
    val: cleanText(val),
    neg,
    cts: made,
    exp: expires,
  }
}

function readTime(value: string): string | null {
  try {
    return timestamp(value)
  } catch (error) {
    if (error instanceof InvalidEventError) return null
    throw error
  }
}

/** By time, then negation, then expiry. */
export function compareLabels(a: LabelRow, b: LabelRow): number {
  return (
    compareText(a.cts, b.cts) ||
    Number(a.neg) - Number(b.neg) ||
    compareText(a.exp ?? '', b.exp ?? '')
  )
}

function newestLabels(rows: readonly LabelRow[]): LabelRow[] {
  const newest = new Map<string, LabelRow>()
  for (const row of rows) {
    const known = newest.get(keyOf(row))
    if (known === undefined || compareLabels(row, known) > 0) newest.set(keyOf(row), row)
  }
  return [...newest].sort(([a], [b]) => compareText(a, b)).map(([, row]) => row)
}
