/**
 * The rows are a function of the set of events: histories in any order, with repeats, in any batches,
 * by one to four indexers at once. `LAWS_HISTORIES` and `LAWS_SEED` choose how many and which.
 */
import fc from 'fast-check'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { AccountEvent, Event, PutEvent, RepoEvent } from '../shared/events.ts'
import { env } from '../test/env.ts'
import { purgeOne } from './purge.ts'
import {
  aBlock,
  aDeleteOf,
  aFollow,
  aLike,
  aListItem,
  aPost,
  aPostGate,
  aProfile,
  aQuote,
  aRepost,
  aSnapshot,
  aThreadGate,
  aThreadRule,
  aVerification,
  did,
  dump,
  mentioning,
  miscounts,
  refTo,
  type TestIndexer,
  testIndexer,
  tid,
  uri,
} from './testing.ts'

const histories = Number(env['LAWS_HISTORIES'] ?? 40)
const seed = Number(env['LAWS_SEED'] ?? 1)
const authors = ['x', 'y', 'z']
/** When an account ends, and when it is back: after the revs before, and before those after. */
const ended = '2026-02-01T00:00:00.000Z'
const returned = '2026-03-01T00:00:00.000Z'
/** The rev at which who has returned is fetched: after all else. */
const last = 99
const lastRev = `3n${tid(last).slice(2)}`

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer({ notifyBackfilled: true })
})
afterAll(() => indexer[Symbol.asyncDispose]())

const kinds = [
  ...(['post', 'post', 'reply', 'reply', 'reply', 'quote', 'threadgate', 'postgate'] as const),
  ...(['like', 'like', 'like', 'repost', 'repost', 'follow', 'follow'] as const),
  ...(['block', 'item', 'profile', 'verification'] as const),
]

/** What one author does next; the numbers are taken modulo what there is. */
interface Step {
  author: number
  kind: (typeof kinds)[number]
  /** Which of a few keys it writes to. */
  slot: number
  /** Whom it is about, and which post of his. */
  subject: number
  target: number
  variant: number
  what: 'put' | 'delete' | 'spoil' | 'snapshot' | 'end'
}

const step: fc.Arbitrary<Step> = fc.record({
  // Few accounts, keys and subjects, so that duplicates, deletions and updates meet.
  author: fc.nat(2),
  kind: fc.constantFrom(...kinds),
  slot: fc.nat(3),
  subject: fc.nat(2),
  target: fc.nat(2),
  variant: fc.nat(4),
  what: fc.constantFrom(
    ...(['put', 'put', 'put', 'put', 'put', 'put', 'put', 'put'] as const),
    ...(['delete', 'delete', 'spoil', 'snapshot', 'end'] as const),
  ),
})

interface History {
  /** What is there before all else: who is on the list that gates ask for. */
  prelude: Event[]
  events: Event[]
  /** What the repos hold in the end, by URI. */
  present: Map<string, PutEvent>
}

/** Plays the steps as real repos would: revs ascend, a record is created before it is deleted. */
function historyOf(steps: readonly Step[], run: string): History {
  const events: Event[] = []
  const held = new Map<string, PutEvent>()
  const spoilt = new Set<string>()
  const back = new Set<string>()
  const person = (number: number) => did(`${run}${authors[number]}`)
  const listed = person(1)
  const list = `at://${person(0)}/app.bsky.graph.list/${tid(2)}`
  const item = aListItem({ by: person(0), rev: 0, rkey: tid(999), of: listed, list })
  held.set(uri(item), item)
  let rev = 0
  for (const step of steps) {
    rev += 1
    const { author, what } = step
    const by = person(author)
    if (what === 'snapshot') {
      const own = [...held.values()].filter((event) => event.did === by)
      const { records, complete } = aSnapshot(by, rev, own)
      events.push(...[...records, complete].map((event) => dated(event, back)))
      continue
    }
    if (what === 'end') {
      if (!back.has(by)) events.push(anAccount(by, ended, 'deleted'), anAccount(by, returned, null))
      back.add(by)
      continue
    }
    const put = putOf(step, rev, person, list, held)
    const path = uri(put)
    const known = held.get(path)
    if (what === 'delete') {
      if (known === undefined) continue
      events.push(dated(aDeleteOf(put, rev), back))
      held.delete(path)
      spoilt.delete(path)
      continue
    }
    const event: PutEvent = { ...put, type: known === undefined ? 'create' : 'update' }
    const stored = what === 'spoil' ? spoil(event) : event
    events.push(dated(stored, back))
    held.set(path, stored)
    if (what === 'spoil') spoilt.add(path)
    else spoilt.delete(path)
  }
  // Whoever returns is fetched anew, as he is by then.
  for (const by of back) {
    const own = [...held.values()].filter((event) => event.did === by)
    const { records, complete } = aSnapshot(by, last, own)
    events.push(...[...records, complete].map((event) => dated(event, back)))
  }
  const present = new Map([...held].filter(([path]) => !spoilt.has(path)))
  return { prelude: [item], events, present }
}

/** The revs of an account that has returned are later than its end. */
function dated<E extends Event & { rev: string }>(event: E, back: ReadonlySet<string>): E {
  return back.has(event.did) ? { ...event, rev: `3n${event.rev.slice(2)}` } : event
}

function anAccount(by: string, time: string, status: string | null): AccountEvent {
  return { type: 'account', seq: 1, time, did: by, active: status === null, status }
}

function spoil(event: PutEvent): PutEvent {
  return { ...event, record: { ...event.record, createdAt: 'yesterday' }, cid: `${event.cid}x` }
}

function putOf(
  { author, kind, slot, subject, target, variant }: Step,
  rev: number,
  person: (number: number) => string,
  list: string,
  held: ReadonlyMap<string, PutEvent>,
): PutEvent {
  const by = person(author)
  const who = person(subject)
  const at = { by, rev, rkey: tid(900 + slot) }
  const text = { text: `rev ${rev}` }
  // A reply is to a post of a lower key, so that there are no circles.
  const post = aPost({ by: who, rev: 0, rkey: tid(900 + target) })
  const of = refTo(post)
  const own = aPost({ by, rev: 0, rkey: tid(900 + target) })
  switch (kind) {
    case 'post':
      return aPost(at, variant === 0 ? { ...text, ...mentioning(who, person(2)) } : text)
    case 'reply': {
      const above = target < slot ? of : null
      if (above === null) return aPost(at, text)
      const known = held.get(above.uri)?.record as { reply?: { root: typeof of } } | undefined
      const root = variant === 0 ? of : (known?.reply?.root ?? of)
      return aPost(at, { ...text, reply: { root, parent: above } })
    }
    case 'quote':
      return aQuote({ ...at, of: post }, variant === 0 ? mentioning(who) : {})
    case 'threadgate': {
      const hidden = [`at://${who}/app.bsky.feed.post/${tid(901)}`]
      const rules = [[], [aThreadRule('mention')], [aThreadRule('list', list)]][variant]
      return aThreadGate({ rev, of: own, hidden, ...(rules ? { allow: rules } : {}) })
    }
    case 'postgate':
      return aPostGate({ rev, of: own, open: variant === 0 })
    case 'like':
      return aLike({ ...at, of })
    case 'repost':
      return aRepost({ ...at, of })
    case 'follow':
      return aFollow({ ...at, of: who })
    case 'block':
      return aBlock({ ...at, of: who })
    case 'item':
      return aListItem({ ...at, of: who, list: `at://${by}/app.bsky.graph.list/${tid(1)}` })
    case 'verification':
      return aVerification({ ...at, of: who })
    case 'profile': {
      const pack = { uri: `at://${who}/app.bsky.graph.starterpack/${tid(1)}`, cid: of.cid }
      const joined = variant === 0 ? {} : { joinedViaStarterPack: pack }
      return aProfile({ ...at, rkey: 'self' }, { displayName: `rev ${rev}`, ...joined })
    }
  }
}

/**
 * Any order, some of it twice, but that a snapshot's end comes after what it contains, and that the
 * repo of an account that has returned is fetched after its return.
 */
function shuffled(events: readonly Event[], random: () => number): Event[] {
  const twice = [...events, ...events.filter(() => random() < 0.3)]
  const order = twice
    .map((event) => ({ event, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ event }) => event)
  const isEnd = (event: Event): event is RepoEvent => event.type === 'repo'
  let result: Event[] = order.filter((event) => !isEnd(event))
  for (const back of events.filter((event) => event.type === 'account' && event.active)) {
    const fetched = (event: Event) =>
      event.did === back.did && 'rev' in event && event.rev === lastRev
    const late = result.filter(fetched)
    result = result.filter((event) => !fetched(event))
    const after = result.indexOf(back) + 1
    for (const event of late) {
      result.splice(after + Math.floor(random() * (result.length - after + 1)), 0, event)
    }
  }
  for (const end of new Set(order.filter(isEnd))) {
    const contained = (event: Event) =>
      (event.did === end.did && event.seq === -1 && 'rev' in event && event.rev === end.rev) ||
      (event.type === 'account' && event.did === end.did && end.rev === lastRev)
    const firsts = events.filter(contained).map((event) => result.indexOf(event))
    const earliest = Math.max(-1, ...firsts) + 1
    const place = earliest + Math.floor(random() * (result.length - earliest + 1))
    result.splice(place, 0, end)
  }
  return result
}

/** Applies the events by so many indexers at once; a snapshot's end is alone, as the consumer has it. */
async function play(
  events: readonly Event[],
  random: () => number,
  indexers: number,
): Promise<void> {
  for (let start = 0; start < events.length; ) {
    const isAlone = events[start]?.type === 'repo'
    const next = events.findIndex((event, index) => index > start && event.type === 'repo')
    const limit = isAlone ? start + 1 : next === -1 ? events.length : next
    const batches: Event[][] = []
    while (start < limit && batches.length < indexers) {
      const end = Math.min(limit, start + 1 + Math.floor(random() * 8))
      batches.push(events.slice(start, end))
      start = end
    }
    await Promise.all(batches.map((batch) => indexer.applyWith({})(batch)))
    if (random() < 0.3) await purge()
    if (random() < 0.3) await indexer.settle()
  }
  await purge()
  await indexer.settle()
}

/** Purges the accounts that are said to be gone; their hosts confirm it. */
async function purge(): Promise<void> {
  const due = await indexer.sql.unsafe('select did, state, attempts from account_purge')
  const options = {
    apply: indexer.options,
    identity: {
      resolve: async (did: string) => ({ did, pds: null, handle: null, signingKey: null }),
    },
    fetch: () => Promise.reject(new Error('no host is asked')),
    timeoutMs: 1_000,
    log: pino({ level: 'silent' }),
  }
  for (const account of due) {
    const { signal } = new AbortController()
    await purgeOne(
      options as unknown as Parameters<typeof purgeOne>[0],
      account as unknown as Parameters<typeof purgeOne>[1],
      signal,
    )
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

test(`${histories} histories end in the same tables in any order, with repeats, in any batches, by 1 to 4 indexers`, {
  timeout: 3_600_000,
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
        const { prelude, events, present } = historyOf(steps, run)
        await indexer.apply(prelude)
        const indexers = copy === 'p' ? 1 : 1 + Math.floor(random() * 4)
        await play(copy === 'p' ? events : shuffled(events, random), random, indexers)
        const lines = await dump(indexer.sql, run)
        const records = await indexer.sql.unsafe('select uri from record where did like $1', [
          `%${run}%`,
        ])
        expect(records.map((row) => row['uri']).sort()).toEqual([...present.keys()].sort())
        const ends = events.flatMap((event) => (event.type === 'account' ? [event.did] : []))
        const isTold = (line: string) => ends.some((did) => line.includes(`{"did":"${did}"`))
        // What an account was told before its end is gone with it, if it was told then.
        const kept = lines.filter((line) => !(line.startsWith('notification') && isTold(line)))
        results.push(kept.map((line) => withoutNames(line, run)).sort())
      }
      expect(results[1]).toEqual(results[0])
    },
  )
  // A race does not shrink.
  await fc.assert(property, { numRuns: histories, seed, endOnFailure: true })
  expect(await miscounts(indexer.sql)).toEqual([])
  expect(
    await indexer.sql.unsafe(`select * from reconcile where kind not in ('resync', 'letters')`),
  ).toEqual([])
})

/** Names of accounts hold no digit that base32 lacks. */
function digit(found: string): string {
  return { '0': 'a', '1': 'b', '8': 'c' }[found] ?? found
}

/** The CIDs hold the names of the accounts too, and are not compared. */
function withoutNames(line: string, run: string): string {
  return line.replaceAll(run, '').replaceAll(/bafyrei\w+/g, 'cid')
}
