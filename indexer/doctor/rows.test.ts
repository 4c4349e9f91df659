/** Rows that older workers have left otherwise than their records say, and the healing of them. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Event } from '../../shared/events.ts'
import { compareText } from '../fold.ts'
import {
  aFollow,
  aLike,
  aPost,
  aPostGate,
  aQuote,
  aReply,
  aRepost,
  aThreadGate,
  did,
  dump,
  miscounts,
  refTo,
  type TestIndexer,
  testIndexer,
  uri,
} from '../testing.ts'
import { examine, type Finding } from './doctor.ts'

const [alice, bob, carol] = [did('alice'), did('bob'), did('carol')]
const post = aPost({ by: alice, rev: 1 })
const first = aLike({ by: bob, rev: 2, of: refTo(post) })
const second = aLike({ by: bob, rev: 3, of: refTo(post) })
const reply = aReply({ by: bob, rev: 4, to: post })
const below = aReply({ by: carol, rev: 5, to: reply, root: post })
const repost = aRepost({ by: carol, rev: 6, of: refTo(post) })
const follow = aFollow({ by: bob, rev: 7, of: alice })
const quote = aQuote({ by: carol, rev: 8, of: post })
const history: Event[] = [post, first, second, reply, below, repost, follow, quote]

let indexer: TestIndexer
let healthy: string[]
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
beforeEach(async () => {
  const { sql } = indexer
  const tables = await sql<{ name: string }[]>`
    select table_name as name from information_schema.tables where table_schema = 'bsky'
      and table_type = 'BASE TABLE' and table_name <> 'sluice_migration'`
  await sql.unsafe(`truncate ${tables.map(({ name }) => `bsky."${name}"`).join(', ')}`)
  await indexer.apply(history)
  healthy = await rowsNow()
})

async function rowsNow(): Promise<string[]> {
  const lines = await dump(indexer.sql)
  return lines.filter((line) => !line.startsWith('notification')).sort(compareText)
}
const spoil = (statement: string) => indexer.sql.unsafe(`set search_path to bsky; ${statement}`)
const look = (repair: boolean) =>
  examine({
    apply: indexer.options,
    repair,
    rows: true,
    counts: true,
    since: null,
    signal: new AbortController().signal,
    pageSize: 3,
  })
const sums = (findings: readonly Finding[]) => {
  const byKind: Record<string, number> = {}
  for (const { kind, found } of findings) byKind[kind] = (byKind[kind] ?? 0) + found
  return Object.fromEntries(Object.entries(byKind).filter(([, found]) => found > 0))
}

test('rows as ours write them are left alone', async () => {
  expect(sums(await look(true))).toEqual({})
  expect(await rowsNow()).toEqual(healthy)
})

test.each([
  ['a lost row', `delete from "like" where uri = '${uri(first)}'`, 'rows'],
  [
    'a row of the later of two duplicates',
    `delete from duplicate_record; update "like" set uri = '${uri(second)}', cid = '${second.cid}'`,
    'rows',
  ],
  ['a duplicate that nobody remembers', 'delete from duplicate_record', 'rows'],
  ['a column that is another', `update post set text = 'no' where uri = '${uri(post)}'`, 'rows'],
  ['a lost child', `delete from feed_item where uri = '${uri(repost)}'`, 'rows'],
  ['a lost quote', `delete from quote where uri = '${uri(quote)}'`, 'rows'],
  [
    'a row without its record',
    `insert into follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
     values ('at://${carol}/app.bsky.graph.follow/x', 'c', '${carol}', '${alice}', '', '')`,
    'orphans',
  ],
  [
    'a reply that came before its parent',
    `update post set "invalidReplyRoot" = true, "violatesThreadGate" = false where uri = '${uri(reply)}'`,
    'rules',
  ],
  [
    'a mark that says that there is no gate',
    `update post set "hasPostGate" = false where uri = '${uri(post)}'`,
    'rules',
  ],
  [
    'a mark of a gate that is gone',
    `update post set "hasThreadGate" = true where uri = '${uri(post)}'`,
    'rules',
  ],
])('%s is found, healed with its counts, and not found again', async (_, statement, kind) => {
  await spoil(statement)
  expect(sums(await look(false))).toHaveProperty(kind)
  await look(true)
  expect(await rowsNow()).toEqual(healthy)
  expect(await miscounts(indexer.sql)).toEqual([])
  expect(sums(await look(false))).toEqual({})
})

test('gates that were not asked are asked now, but for who followed whom', async () => {
  const closed = aThreadGate({ rev: 9, of: post, allow: [] })
  const noQuotes = aPostGate({ rev: 10, of: post })
  await indexer.apply([closed, noQuotes])
  const judged = await rowsNow()
  await spoil(
    `update post set "violatesThreadGate" = null, "invalidReplyRoot" = null, "violatesEmbeddingRules" = null;
     update post_agg set "replyCount" = 1 where uri = '${uri(post)}'`,
  )
  expect(sums(await look(true))['rules']).toBeGreaterThan(0)
  expect(await rowsNow()).toEqual(judged)
})
