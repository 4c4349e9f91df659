/** Labels for both sides: ours come over the streams; the reference has no indexer of labels, so the test writes them. */
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import type { Label } from '../../shared/events.ts'
import { streams } from '../../shared/streams/names.ts'
import type { LabelClaim } from '../../simulator/labeler.ts'
import type { Side } from './rows.ts'

/** A labeler whose labels an older worker has put on our stream, and whom both AppViews believe. */
export function createStageLabeler(redis: Redis, theirs: Side, src: string) {
  return {
    async label(...claims: LabelClaim[]): Promise<Label[]> {
      const cts = new Date().toISOString()
      const labels = claims.map((claim) => ({ src, cts, ...claim }))
      for (const label of labels) {
        // The Rust workers' form knows no expiry.
        await redis.xadd(
          streams.labels,
          '*',
          ...('exp' in label ? asEvent(label) : asLabels(label)),
        )
        await writeLabel(theirs, label)
      }
      return labels
    },
  }
}

/** An entry's fields as the TypeScript workers wrote them. */
const asEvent = (label: Label): [string, string] => [
  'event',
  JSON.stringify({ type: 'label', label }),
]

/** An entry's fields as the Rust workers wrote them. */
function asLabels({ src, uri, cid, val, neg, cts }: Label): [string, string] {
  const time = cts.replace('T', ' ').replace('Z', ' UTC')
  return [
    'labels',
    JSON.stringify({
      seq: 1,
      labels: [{ src, uri, cid: cid ?? null, val, neg: neg ?? null, cts: time }],
    }),
  ]
}

/** Puts on our stream what the reference's seeds wrote by hand, in the form of the TypeScript workers. */
export async function handOverLabels(theirs: Side, redis: Redis): Promise<void> {
  for (const row of await labelsIn(theirs.sql, theirs.schema)) {
    const { cid, exp, ...label } = row
    const whole = { ...label, ...(cid !== '' && { cid }), ...(exp !== null && { exp }) }
    await redis.xadd(streams.labels, '*', ...asEvent(whole))
  }
}

/** Writes what ozone has said, statement by statement, to the reference's table. */
export async function takeOzoneLabels(theirs: Side): Promise<void> {
  const said = await labelsIn(theirs.sql, 'ozone_reference', 'order by id')
  for (const { cid, exp, ...label } of said) {
    await writeLabel(theirs, { ...label, ...(cid !== '' && { cid }), ...(exp !== null && { exp }) })
  }
}

interface LabelRow {
  src: string
  uri: string
  cid: string
  val: string
  neg: boolean
  cts: string
  exp: string | null
}

const labelsIn = (sql: Sql, schema: string, order = '') =>
  sql.unsafe<LabelRow[]>(
    `select src, uri, coalesce(cid, '') as cid, val, coalesce(neg, false) as neg, cts, exp
     from "${schema}".label ${order}`,
  )

async function writeLabel({ sql, schema }: Side, label: Label): Promise<void> {
  const { src, uri, cid = '', val, neg = false, cts } = label
  // Times are compared as text, so all have one form.
  const exp = label.exp === undefined ? null : new Date(label.exp).toISOString()
  await sql`
    insert into ${sql(schema)}.label (src, uri, cid, val, neg, cts, exp)
    values (${src}, ${uri}, ${cid}, ${val}, ${neg}, ${cts}, ${exp})
    on conflict (src, uri, cid, val) do update
      set neg = excluded.neg, cts = excluded.cts, exp = excluded.exp
      where label.cts < excluded.cts`
}
