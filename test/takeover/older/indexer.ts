/** An older indexer: the streams into rows, one event after the other, as T and R do it. */
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { type Family, type Json, readEvent, say, unreadable } from './family.ts'
import { type Entry, readGroup } from './group.ts'
import { createRows, type Rows, type RowsOptions } from './rows.ts'

interface Options extends RowsOptions {
  redis: Redis
  name: string
  labelGroup: string
}

export async function runIndexer(options: Options): Promise<void> {
  const { family, redis, name, sql, labelGroup } = options
  const rows = await createRows(options)
  const events = (stream: string) => {
    const reading = { family, redis, stream, group: 'firehose_group', name, count: 10 }
    return readGroup(reading, async (entries) => {
      for (const { fields } of entries) await apply(family, rows, fields)
    })
  }
  const labels = { family, redis, stream: 'label_live', group: labelGroup, name, count: 10 }
  await Promise.all([
    events('firehose_live'),
    events('firehose_backfill'),
    readGroup(labels, async (entries) => {
      for (const entry of entries) await applyLabels(family, sql, entry)
    }),
  ])
}

/** Two that lock each other are told apart by trying again. */
const tries = 3

async function apply(family: Family, rows: Rows, fields: string[]): Promise<void> {
  const text = fields[fields.indexOf('event') + 1] ?? ''
  let event: Json & { type: string }
  try {
    event = readEvent(family, text)
  } catch (error) {
    say(`unreadable: ${error}`)
    process.exit(unreadable)
  }
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await rows.apply(event)
    } catch (error) {
      // Both only log in the end: what failed is acknowledged with its batch.
      if (attempt < tries) continue
      return say(`failed: ${error} ${text}`)
    }
  }
}

async function applyLabels(family: Family, sql: Sql, { fields }: Entry): Promise<void> {
  const field = (name: string) =>
    fields[fields.findIndex((key, at) => at % 2 === 0 && key === name) + 1]
  const text = fields.includes(family === 'T' ? 'event' : 'labels')
    ? (field(family === 'T' ? 'event' : 'labels') ?? '')
    : null
  // T acknowledges and deletes an entry that is not in its form.
  if (text === null)
    return say(`dropped a label entry without ${family === 'T' ? 'event' : 'labels'}`)
  const json = JSON.parse(text) as { label?: Json; labels?: Json[] }
  for (const label of json.labels ?? [json.label ?? {}]) {
    const { src, uri, cid, val, neg, cts, exp } = label as Record<string, string | null>
    await sql.unsafe(
      `insert into label as l (src, uri, cid, val, neg, cts, exp) values ($1, $2, $3, $4, $5, $6, $7)
       on conflict (src, uri, cid, val) do update
         set neg = excluded.neg, cts = excluded.cts, exp = excluded.exp
         where left(translate(l.cts, 'T', ' '), 23) <= left(translate(excluded.cts, 'T', ' '), 23)`,
      [src ?? '', uri ?? '', cid ?? '', val ?? '', Boolean(neg), cts ?? '', exp ?? null],
    )
  }
}
