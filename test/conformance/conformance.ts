/** Our rows are the reference's, and an unmodified AppView answers the same from them. */
import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { makeEveryKind } from '../every-kind.ts'
import { type Answers, callsAlike, callsApart, compareAnswers } from './answers.ts'
import { type Marks, playAlike, playApart } from './cases.ts'
import {
  type Declared,
  declared,
  describeDifference,
  type Explained,
  explain,
  notOurs,
} from './differences.ts'
import { createStageLabeler, handOverLabels, takeOzoneLabels } from './labels.ts'
import {
  backfilled,
  compareWays,
  exemptWhenBackfilled,
  exemptWhenShuffled,
  shuffled,
} from './other-ways.ts'
import { createPdsAccount } from './pds.ts'
import { summary, writeReport } from './report.ts'
import { openRoom, type Plant, type Room } from './room.ts'
import { compareTables, type Row, type TableResult, tablesOf } from './rows.ts'

let room: Room
let marks: Marks
let tables: TableResult[]
let alike: Answers
let apart: Answers
let explained: Explained

beforeAll(async () => {
  room = await openRoom()
  const { network, live, ours, theirs } = room
  marks = { moderation: network.moderation }
  await playSeeds()
  const cast = await playAlike(network, marks)
  await handOverLabels(theirs, live.redis)
  await takeOzoneLabels(theirs)
  await live.quiet()
  alike = await compareAnswers(network, marks, callsAlike(marks))
  await playEveryKind()
  await playApart(network, cast, marks)
  await live.quiet()
  await findMarks()
  const names = (await tablesOf(theirs)).filter((table) => !notOurs.has(table))
  tables = await compareTables(ours, theirs, names)
  apart = await compareAnswers(network, marks, callsApart(marks))
  const rows = tables.flatMap(({ differences }) => differences)
  explained = explain([...rows, ...alike.differences, ...apart.differences], marks)
  const result = { tables, calls: alike.asked + apart.asked, explained }
  console.log(summary(result))
  await writeReport(result)
})

afterAll(async () => {
  await room?.[Symbol.asyncDispose]()
})

test('every table that an indexer writes has rows', () => {
  expect(tables.filter(({ rows }) => rows === 0).map(({ table }) => table)).toEqual([])
})

test('no row and no answer differs, but for what is declared', () => {
  expect(explained.unexplained.map(describeDifference)).toEqual([])
})

test('every declared difference is there: one that has gone is taken from the list', () => {
  const gone = declared.filter(({ name }) => explained.byName.get(name) === 0)
  expect(gone.map(({ name }) => name)).toEqual([])
  expect(apart.differences.map(({ call }) => call)).toEqual(callsApart(marks))
})

test('docs/differences.md names every declared difference', async () => {
  const page = await readFile(new URL('../../docs/differences.md', import.meta.url), 'utf8')
  const named = [...page.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, name]) => name)
  expect(named.sort()).toEqual(declared.map(({ name }) => name).sort())
})

test('at least sixty calls are answered, and not with an error', () => {
  expect(alike.ok).toBeGreaterThanOrEqual(60)
})

describe('the same tables, but for what is exempt, come', () => {
  const expectSame = async (plant: Plant, exempt: readonly Declared[]) => {
    const names = tables.map(({ table }) => table)
    const differences = await compareWays(plant, room, names)
    const { unexplained } = explain(differences, marks, exempt)
    expect(unexplained.map(describeDifference)).toEqual([])
  }

  test('from the same events in another order', async () => {
    await expectSame(await shuffled(room, 'conformance'), exemptWhenShuffled)
  })

  test('from the same repos, read whole', async () => {
    await expectSame(await backfilled(room), exemptWhenBackfilled)
  })
})

/** The reference's own seeds; the names of their accounts are marked. */
async function playSeeds(): Promise<void> {
  for (const name of await room.network.seedNames()) {
    const dids = await room.network.seed(name)
    for (const [account, did] of Object.entries(dids)) marks[`${name}:${account}`] = did
  }
}

/** A history with every kind of record; its labels come as an older worker wrote them. */
async function playEveryKind(): Promise<void> {
  const { network, live, theirs } = room
  const [example = ''] = network.labelers.filter((did) => did !== network.moderation)
  const every = await makeEveryKind({
    account: ({ handle }) => createPdsAccount(network, handle),
    labeler: createStageLabeler(live.redis, theirs, example),
  })
  Object.assign(marks, {
    'every:ada': every.ada.did,
    'every:bo': every.bo.did,
    'every:doubled': every.doubled.post.uri,
    'every:orphaned-repost': every.orphaned.repost.uri,
    'every:orphaned-quote': every.orphaned.quote.uri,
  })
}

/** Marks what only the rows can tell. */
async function findMarks(): Promise<void> {
  const { ours, theirs } = room
  const { sql, schema } = theirs
  const ada = marks['every:ada'] ?? ''
  await look(
    'lexicon-authority',
    sql`
    select did as value from ${sql(schema)}.actor where handle = 'lex-authority.test'`,
  )
  await look(
    'every:was-valid',
    sql`
    select uri as value from ${sql(schema)}.post where text = 'was valid'`,
  )
  await look('every:nul', ours.sql`select uri as value from post where text like 'nul %'`)
  await look(
    'every:post',
    sql`
    select "postUri" as value from ${sql(schema)}.thread_gate where creator = ${ada}`,
  )
  await look(
    'thread:hidden-later',
    sql`
    select "postUri" as value from ${sql(schema)}.thread_gate g
    join ${sql(schema)}.actor a on a.did = g.creator where a.handle = 'tg-op.test'`,
  )

  await look(
    'replies-to-what-is-gone',
    ours.sql`
    select string_agg(r.uri, ' ') as value from post r
    where r."replyParent" is not null and not exists (
      select from post p where p.uri = r."replyParent")`,
  )

  async function look(name: string, asked: PromiseLike<readonly Row[]>): Promise<void> {
    const [row] = await asked
    if (row) marks[name] = String(row['value'])
  }
}
