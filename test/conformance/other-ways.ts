/** The same network by other ways into our tables: its events in any order, and its repos read whole. */
import type { Redis } from 'ioredis'
import { streams } from '../../shared/streams/names.ts'
import { createRandom, type Random } from '../../simulator/random.ts'
import type { Declared } from './differences.ts'
import type { Plant, Room } from './room.ts'
import { compareTables, type Row, type RowDifference, type Side } from './rows.ts'

/** Gives every event that was recorded to an indexer of its own, shuffled; then what has to be fetched is. */
export async function shuffled(room: Room, seed: string): Promise<Plant> {
  const plant = await room.plant()
  await copyThreadMutes(room.ours, plant)
  const events = await entriesOf(room.recorded, streams.live)
  for (const fields of shuffle(events, createRandom(seed)))
    await plant.redis.xadd(streams.live, '*', ...fields)
  await plant.start('indexer')
  await plant.quiet()
  for (const fields of await entriesOf(room.recorded, streams.requests)) {
    await plant.redis.xadd(streams.requests, '*', ...fields)
  }
  await plant.start('backfiller')
  await plant.quiet()
  return plant
}

/** Reads the list of the PDS, and every repo on it, instead of its events. */
export async function backfilled(room: Room): Promise<Plant> {
  const plant = await room.plant({ INDEXER_BACKFILL_NOTIFICATIONS: 'true' })
  await copyThreadMutes(room.ours, plant)
  await Promise.all([
    plant.start('indexer'),
    plant.start('backfiller'),
    plant.start('ingester', { INGESTER_MODE: 'backfill' }),
  ])
  await plant.quiet()
  return plant
}

export async function compareWays(
  plant: Plant,
  room: Room,
  tables: readonly string[],
): Promise<readonly RowDifference[]> {
  const { sql, schema } = plant.database
  const results = await compareTables({ sql, schema }, room.ours, tables)
  return results.flatMap(({ differences }) => differences)
}

/** In a database that has an AppView, its own processes write them. */
async function copyThreadMutes(from: Side, { database: { sql } }: Plant): Promise<void> {
  const rows = await from.sql<Row[]>`select * from thread_mute`
  if (rows.length > 0) await sql`insert into thread_mute ${sql(rows)}`
}

function shuffle<T>(values: readonly T[], random: Random): readonly T[] {
  const keyed = values.map((value) => ({ value, key: random.next() }))
  return keyed.sort((a, b) => a.key - b.key).map(({ value }) => value)
}

async function entriesOf(redis: Redis, stream: string): Promise<string[][]> {
  return (await redis.xrange(stream, '-', '+')).map(([, fields]) => fields)
}

const row = (difference: RowDifference): Row =>
  difference.kind === 'only theirs' ? difference.theirs : difference.ours

const inColumn =
  (...names: readonly string[]) =>
  (difference: RowDifference) =>
    difference.kind === 'column' && names.includes(difference.column)

const inTable =
  (...names: readonly string[]) =>
  (difference: RowDifference) =>
    names.includes(difference.table)

/** What does not tell of the network, but of the run: beside `ours` is the other way, beside `theirs` live. */
const always: readonly Declared[] = [
  { name: 'labels are a stream of their own', covers: inTable('label') },
  { name: 'the AppView writes it', covers: inColumn('bookmarkCount', 'takedownRef') },
  {
    name: 'counts that are all 0 or not there',
    covers: (difference) =>
      /_agg$/.test(difference.table) &&
      difference.kind !== 'column' &&
      Object.values(row(difference)).every((value) => typeof value === 'string' || value === 0),
  },
  {
    name: 'when a handle was looked at',
    covers: (difference) => difference.table === 'actor' && inColumn('indexedAt')(difference),
  },
  {
    name: 'when a reply was seen to be deleted, if it was',
    covers: inTable('op_thread_reply'),
  },
  { name: 'how far a record was last read', covers: inColumn('rev') },
  {
    name: 'who followed whom, and who was on a list, when reply and gate met',
    covers: (difference, marks) => {
      const rules = ['followed', 'follower', 'listed', 'either']
      const uris = rules.flatMap((rule) => [
        marks[`gate:${rule}`],
        ...(marks[`gate:${rule}:replies`] ?? '').split(' '),
      ])
      return Object.values(row(difference)).some((value) => uris.includes(String(value)))
    },
  },
  {
    name: 'who had muted a thread when he was to be told',
    covers: (difference, marks) =>
      difference.table === 'notification' &&
      Object.values(row(difference)).includes(marks['mute:root']),
  },
  {
    name: 'a reply to what has gone by now may have come before',
    covers: (difference, marks) => {
      const replies = (marks['replies-to-what-is-gone'] ?? '').split(' ')
      const { uri, recordUri } = row(difference)
      return replies.includes(String(uri ?? recordUri))
    },
  },
  {
    name: 'whom a deleted account would be told of',
    covers: (difference, marks) =>
      difference.table === 'notification' &&
      difference.kind === 'only ours' &&
      difference.ours['did'] === marks['deleted'],
  },
  {
    name: 'verified and unverified tell of a history',
    covers: (difference) =>
      difference.table === 'notification' && /verified$/.test(String(row(difference)['reason'])),
  },
]

export const exemptWhenShuffled: readonly Declared[] = [
  ...always,
  {
    name: 'the handle of an account that rests, looked at now',
    covers: (difference, marks) =>
      difference.table === 'actor' &&
      inColumn('handle')(difference) &&
      [marks['status:rests'], marks['status:suspended']].includes(String(row(difference)['did'])),
  },
  {
    name: 'when a resync brought a record back',
    covers: (difference, marks) =>
      inColumn('indexedAt')(difference) && row(difference)['uri'] === marks['imported:back'],
  },
]

export const exemptWhenBackfilled: readonly Declared[] = [
  ...always,
  { name: 'when the repo was read', covers: inColumn('indexedAt') },
  { name: 'a whole repo has a rev, whatever is in scope', covers: inTable('actor_sync') },
  {
    name: 'what is dated in the future, or has no date, sorts by when it was read',
    covers: inColumn('sortAt', 'sortedAt', 'createdAt'),
  },
  {
    name: 'the repo of an account that rests can not be read',
    covers: (difference, marks) => {
      const resting = [marks['status:rests'], marks['status:suspended']]
      const values = Object.values(row(difference)).map(String)
      const itself = resting.some((did) => values.some((value) => value.includes(did ?? '-')))
      return itself || (difference.table === 'profile_agg' && values.includes(marks['gina'] ?? '-'))
    },
  },
]
