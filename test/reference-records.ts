/**
 * What the reference's own indexer makes of odd records. `node test/reference-records.ts` runs it and
 * writes `test/fixtures/records/expected.jsonl`; the tests compare ours with that file.
 */
import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { migrateReference } from '../migrations/testing.ts'
import { findPlaces } from '../start/places.ts'
import { startPostgres } from '../start/postgres.ts'
import { sharedData } from './data.ts'
import { env } from './env.ts'

/** When every record is said to be indexed. */
export const indexedAt = '2026-06-01T00:00:00.000Z'

export const expectedFile = new URL('fixtures/records/expected.jsonl', import.meta.url)
export const madeFile = new URL('fixtures/records/made.jsonl', import.meta.url)

/** The tables with rows of one record, and the column that holds its URI. */
export const keys = {
  record: 'uri',
  post: 'uri',
  feed_item: 'uri',
  post_embed_image: 'postUri',
  post_embed_gallery_image: 'postUri',
  post_embed_external: 'postUri',
  post_embed_record: 'postUri',
  post_embed_video: 'postUri',
  quote: 'uri',
  op_thread_reply: 'uri',
  thread_gate: 'uri',
  post_gate: 'uri',
  like: 'uri',
  repost: 'uri',
  follow: 'uri',
  actor_block: 'uri',
  list: 'uri',
  list_item: 'uri',
  list_block: 'uri',
  reference_list_opt_out: 'uri',
  starter_pack: 'uri',
  verification: 'uri',
  feed_generator: 'uri',
  labeler: 'uri',
  profile: 'uri',
} as const

/** What depends on other records, or is ours. */
const left = [
  ...['rev', 'invalidReplyRoot', 'violatesThreadGate', 'violatesEmbeddingRules'],
  ...['hasThreadGate', 'hasPostGate'],
]

/** Every row of the record `$1`, as text. */
export function rowsQuery(schema: string): string {
  // A profile that does not tell when it was made has the time of its indexing.
  const undated = `(select json not like '%"createdAt"%' from ${schema}.record where uri = $1)`
  const without = `array[${left.map((column) => `'${column}'`).join(', ')}]`
  return Object.entries(keys)
    .map(([table, key]) => {
      const more = table === 'profile' ? ` - case when ${undated} then 'createdAt' else '' end` : ''
      return `select '${table}' as "table", (to_jsonb(t) - ${without}${more})::text as row
        from ${schema}."${table}" t where t."${key}" = $1`
    })
    .join(' union all ')
}

export interface Expectation {
  key: string
  /** The kind of error that the reference threw. */
  error: string | null
  /** `table hash`, sorted. */
  rows: string[]
}

async function main(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-reference-'))
  await chmod(folder, 0o755)
  const server = await startPostgres({
    places: await findPlaces(env),
    dir: join(folder, 'postgres'),
  })
  try {
    await migrateReference(server.url, 'bsky')
    const script = fileURLToPath(new URL('reference/records.mjs', import.meta.url))
    const files = [sharedData('records/mined/odd.jsonl'), fileURLToPath(madeFile)]
    const spec = JSON.stringify({ indexedAt, keys, rowsQuery: rowsQuery('bsky') })
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [script, server.url, 'bsky', ...files],
      { env: { ...env, RECORDS_SPEC: spec, LOG_ENABLED: 'false' }, maxBuffer: 1e8 },
    )
    await writeFile(expectedFile, stdout)
  } finally {
    await server.stop()
    await rm(folder, { recursive: true, force: true })
  }
}

if (import.meta.main) await main()
