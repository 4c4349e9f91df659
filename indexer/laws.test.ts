/** The rows are a function of the set of events: histories in any order, with repeats, in any batches. */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Event, PutEvent, RepoEvent } from '../shared/events.ts'
import {
  aBlock,
  aDeleteOf,
  aFollow,
  aLike,
  aListItem,
  aPost,
  aProfile,
  aRepost,
  aSnapshot,
  did,
  dump,
  miscounts,
  type TestIndexer,
  testIndexer,
  tid,
  uri,
} from './testing.ts'

const histories = 240
const authors = ['x', 'y']

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer({ notifyBackfilled: true })
})
afterAll(() => indexer[Symbol.asyncDispose]())

/** What one author does next; the numbers are taken modulo what there is. */
interface Step {
  author: number
  kind: 'post' | 'reply' | 'quote' | 'like' | 'repost' | 'follow' | 'block' | 'item' | 'profile'
  /** Which of a few keys it writes to. */
  slot: number
  subject: number
  what: 'put' | 'delete' | 'spoil' | 'snapshot'
}

const step: fc.Arbitrary<Step> = fc.record({
  // Few accounts, keys and subjects, so that duplicates, deletions and updates meet.
  author: fc.nat(1),
  kind: fc.constantFrom(
    ...(['post', 'reply', 'quote', 'block', 'item', 'profile'] as const),
    ...(['like', 'like', 'like', 'repost', 'repost', 'follow', 'follow'] as const),
  ),
  slot: fc.nat(2),
  subject: fc.nat(1),
  what: fc.constantFrom(
    ...(['put', 'put', 'put', 'put', 'delete', 'delete', 'spoil', 'snapshot'] as const),
  ),
})

interface History {
  events: Event[]
  /** What the repos hold in the end, by URI. */
  present: Map<string, PutEvent>
}

/** Plays the steps as real repos would: revs ascend, a record is created before it is deleted. */
function historyOf(steps: readonly Step[], run: string): History {
  const events: Event[] = []
  const held = new Map<string, PutEvent>()
  const spoilt = new Set<string>()
  let rev = 0
  for (const { author, kind, slot, subject, what } of steps) {
    rev += 1
    const by = did(`${run}${authors[author]}`)
    if (what === 'snapshot') {
      const own = [...held.values()].filter((event) => event.did === by)
      const { records, complete } = aSnapshot(by, rev, own)
      events.push(...records, complete)
      continue
    }
    const put = putOf(kind, { by, rev, rkey: tid(900 + slot) }, run, subject)
    const path = uri(put)
    const known = held.get(path)
    if (what === 'delete') {
      if (known === undefined) continue
      events.push(aDeleteOf(put, rev))
      held.delete(path)
      spoilt.delete(path)
      continue
    }
    const event: PutEvent = { ...put, type: known === undefined ? 'create' : 'update' }
    const stored = what === 'spoil' ? spoil(event) : event
    events.push(stored)
    held.set(path, stored)
    if (what === 'spoil') spoilt.add(path)
    else spoilt.delete(path)
  }
  const present = new Map([...held].filter(([path]) => !spoilt.has(path)))
  return { events, present }
}

function spoil(event: PutEvent): PutEvent {
  return { ...event, record: { ...event.record, createdAt: 'yesterday' }, cid: `${event.cid}x` }
}

function putOf(
  kind: Step['kind'],
  at: { by: string; rev: number; rkey: string },
  run: string,
  subject: number,
): PutEvent {
  const who = did(`${run}${authors[subject]}`)
  const cid = 'bafyreiakjysges5gqcg5yc2btbqyglrekv4ikboapvljxzv5pvm77zrnxi'
  const of = { uri: `at://${who}/app.bsky.feed.post/${tid(900)}`, cid }
  const list = `at://${at.by}/app.bsky.graph.list/${tid(1)}`
  switch (kind) {
    case 'post':
      return aPost(at, { text: `rev ${at.rev}` })
    case 'reply':
      return aPost(at, { text: `rev ${at.rev}`, reply: { root: of, parent: of } })
    case 'quote':
      return aPost(at, { embed: { $type: 'app.bsky.embed.record', record: of } })
    case 'like':
      return aLike({ ...at, of })
    case 'repost':
      return aRepost({ ...at, of })
    case 'follow':
      return aFollow({ ...at, of: who })
    case 'block':
      return aBlock({ ...at, of: who })
    case 'item':
      return aListItem({ ...at, of: who, list })
    case 'profile':
      return aProfile({ ...at, rkey: 'self' }, { displayName: `rev ${at.rev}` })
  }
}

/** Any order, some of it twice, but that a snapshot's end comes after what it contains. */
function shuffled(events: readonly Event[], random: () => number): Event[] {
  const twice = [...events, ...events.filter(() => random() < 0.3)]
  const order = twice
    .map((event) => ({ event, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ event }) => event)
  const isEnd = (event: Event): event is RepoEvent => event.type === 'repo'
  const result: Event[] = order.filter((event) => !isEnd(event))
  for (const end of new Set(order.filter(isEnd))) {
    const contained = (event: Event) =>
      event.did === end.did && event.seq === -1 && 'rev' in event && event.rev === end.rev
    const firsts = events.filter(contained).map((event) => result.indexOf(event))
    const earliest = Math.max(-1, ...firsts) + 1
    const place = earliest + Math.floor(random() * (result.length - earliest + 1))
    result.splice(place, 0, end)
  }
  return result
}

async function play(events: readonly Event[], random: () => number): Promise<void> {
  for (let start = 0; start < events.length; ) {
    // A snapshot's end is applied alone, as the consumer hands it over.
    const isAlone = events[start]?.type === 'repo'
    const next = events.findIndex((event, index) => index > start && event.type === 'repo')
    const limit = isAlone ? start + 1 : next === -1 ? events.length : next
    const end = Math.min(limit, start + 1 + Math.floor(random() * 8))
    await indexer.apply(events.slice(start, end))
    start = end
  }
}

/** A small seeded generator, so that a failing history can be played again. */
function generator(seed: number): () => number {
  let state = seed | 1
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return (state >>> 0) / 2 ** 32
  }
}

let runs = 0

test(`${histories} histories end in the same tables in any order, with repeats, in any batches`, {
  timeout: 300_000,
}, async () => {
  const property = fc.asyncProperty(
    fc.array(step, { minLength: 8, maxLength: 30 }),
    fc.integer({ min: 1 }),
    async (steps, seed) => {
      const random = generator(seed)
      runs += 1
      const results: string[][] = []
      for (const copy of ['p', 'q']) {
        // Names of one length, so that the order of the URIs is the same in both copies.
        const run = `${copy}${String(runs).padStart(6, '0').replaceAll(/[018]/g, digit)}`
        const { events, present } = historyOf(steps, run)
        await play(copy === 'p' ? events : shuffled(events, random), random)
        const lines = await dump(indexer.sql, run)
        const records = await indexer.sql.unsafe('select uri from record where did like $1', [
          `%${run}%`,
        ])
        expect(records.map((row) => row['uri']).sort()).toEqual([...present.keys()].sort())
        results.push(lines.map((line) => withoutNames(line, run)).sort())
      }
      expect(results[1]).toEqual(results[0])
    },
  )
  await fc.assert(property, { numRuns: histories, endOnFailure: false })
  expect(await miscounts(indexer.sql)).toEqual([])
})

/** Names of accounts hold no digit that base32 lacks. */
function digit(found: string): string {
  return { '0': 'a', '1': 'b', '8': 'c' }[found] ?? found
}

/** The CIDs hold the names of the accounts too, and are not compared. */
function withoutNames(line: string, run: string): string {
  return line.replaceAll(run, '').replaceAll(/bafyrei\w+/g, 'cid')
}
