/** Databases as they stand in the field: on each an indexer starts as a process and makes the same rows. */
import { readFile } from 'node:fs/promises'
import type { Sql } from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { migrate } from '../migrations/migrate.ts'
import { catalogueOf, migrateReference } from '../migrations/testing.ts'
import { type Event, encodeEvent, encodeLabel } from '../shared/events.ts'
import { eventually, type Pipeline, startPipeline } from '../test/pipeline.ts'
import { type TestDatabase, testDatabase } from '../test/servers/postgres.ts'
import { aDeleteOf, aFollow, aLike, aPost, did, dump, miscounts, refTo } from './testing.ts'

const [alice, bob] = [did('fieldalice'), did('fieldbob')]
const post = aPost({ by: alice, rev: 1 })
const gone = aPost({ by: alice, rev: 2 })
const label = {
  src: did('labeler'),
  uri: `at://${alice}`,
  val: 'spam',
  cts: '2026-01-01T00:00:00Z',
}
const events: Event[] = [
  post,
  aLike({ by: bob, rev: 1, of: refTo(post) }),
  aPost({ by: bob, rev: 2 }, { reply: { root: refTo(post), parent: refTo(post) } }),
  aFollow({ by: bob, rev: 3, of: alice }),
  gone,
  aDeleteOf(gone, 3),
  {
    type: 'account',
    seq: 9,
    time: '2026-02-01T00:00:00.000Z',
    did: bob,
    active: false,
    status: 'suspended',
  },
]

let pipeline: Pipeline
/** As the AppView's own migrations leave it. */
let reference: TestDatabase
beforeAll(async () => {
  pipeline = await startPipeline()
  reference = await testDatabase({ migrated: false })
  await migrateReference(reference.url, 'bsky')
}, 400_000)
afterAll(async () => {
  await reference[Symbol.asyncDispose]()
  await pipeline[Symbol.asyncDispose]()
})

/** Has an indexer read everything into the database; gives the rows that came of it. */
async function indexInto({ url, sql }: { url: string; sql: Sql }): Promise<string[]> {
  for (const event of events) await pipeline.redis.xadd('firehose_live', '*', ...encodeEvent(event))
  await pipeline.redis.xadd('label_live', '*', ...encodeLabel(label, 1))
  const worker = await pipeline.start('indexer', {
    DATABASE_URL: url,
    ENABLE_DID_RESOLUTION: 'false',
  })
  await worker.ready()
  await pipeline.drained('firehose_live', 'firehose_group')
  await pipeline.drained('label_live', 'label_group')
  await eventually(async () => (await sql`select from reconcile`).length, 0)
  expect(await connectionsTo(sql)).toBeLessThanOrEqual(12)
  expect(await worker.stop()).toBe(0)
  return dump(sql as never, 'did:plc:field')
}

async function connectionsTo(sql: Sql): Promise<number> {
  const found = await sql`
    select from pg_stat_activity
    where datname = current_database() and application_name like 'sluice-indexer/%'`
  return found.length
}

describe('an indexer makes the same rows', () => {
  let expected: string[]
  beforeAll(async () => {
    expected = await indexInto({ url: pipeline.databaseUrl, sql: pipeline.sql })
    expect(expected.length).toBeGreaterThan(15)
  }, 60_000)

  test('on a database that the migrations of the AppView made', { timeout: 90_000 }, async () => {
    await using database = await testDatabase({ copyOf: reference })
    await migrate({ databaseUrl: database.url, schema: 'bsky', adopt: true })
    expect(await indexInto(database)).toEqual(expected)
    expect(await miscounts(database.sql as never)).toEqual([])
  })

  test('on one that the Rust workers filled, and leaves alone what is theirs', {
    timeout: 90_000,
  }, async () => {
    await using database = await testDatabase({ copyOf: reference })
    const rust = new URL('../test/fixtures/databases/rust.sql', import.meta.url)
    await database.sql.unsafe(await readFile(rust, 'utf8'))
    await migrate({ databaseUrl: database.url, schema: 'bsky', adopt: true })
    const theirs = () =>
      database.sql`select to_jsonb(r) as row from record r where did like 'did:plc:aaaa%' order by uri`
    const before = await theirs()
    expect(await indexInto(database)).toEqual(expected)
    expect(await theirs()).toEqual(before)
  })

  test('on a fork with columns, a key and a trigger of its own', { timeout: 90_000 }, async () => {
    await using database = await testDatabase({ copyOf: reference })
    await database.sql.unsafe(fork)
    const catalogue = await catalogueOf(database.sql, 'bsky')
    await migrate({ databaseUrl: database.url, schema: 'bsky', adopt: true })
    const rows = await indexInto(database)
    expect(rows.map(withoutTheirs).sort()).toEqual(expected)
    // Everything of theirs is as it was.
    const now = new Set(await catalogueOf(database.sql, 'bsky'))
    expect(catalogue.filter((line) => !now.has(line))).toEqual([])
    expect(await database.sql`select distinct heard from notification`).toEqual([{ heard: true }])
  })
})

test('a database of another is not touched unasked: the indexer ends and says what to run', {
  timeout: 90_000,
}, async () => {
  await using database = await testDatabase({ copyOf: reference })
  const before = await catalogueOf(database.sql, 'bsky')
  const worker = await pipeline.start('indexer', {
    DATABASE_URL: database.url,
    INDEXER_GROUP: 'no',
  })
  await expect.poll(() => worker.child.exitCode, { timeout: 20_000 }).not.toBeNull()
  expect(worker.output()).toContain('run `sluice migrate --adopt` first')
  expect(await catalogueOf(database.sql, 'bsky')).toEqual(before)
})

/** What a fork of the AppView has added, and how it has named its migrations anew. */
const fork = `
  alter table post add column "mediaCount" integer not null default 0;
  alter table actor add column "communityId" varchar;
  alter table record add column "sortAt" varchar generated always as ("indexedAt") stored;
  alter table notification add column heard boolean not null default false;
  create unique index notification_once on notification (did, "recordUri", reason);
  create function notification_heard() returns trigger language plpgsql as $$
    begin new.heard := true; perform pg_notify('notifications', new.did); return new; end $$;
  create trigger notification_heard before insert on notification
    for each row execute function notification_heard();
  update kysely_migration set name = 'fork_' || name;`

function withoutTheirs(line: string): string {
  const at = line.indexOf(' ')
  const row = JSON.parse(line.slice(at)) as Record<string, unknown>
  const table = line.slice(0, at)
  for (const column of ['mediaCount', 'communityId', 'heard']) delete row[column]
  if (table === 'record') delete row['sortAt']
  return `${table} ${JSON.stringify(row)}`
}
