/** A mix of events like the network's, for benchmarks of the indexer: likes, posts, follows, reposts, deletions. */
import type { Event, PutEvent } from '../shared/events.ts'

export const cid = 'bafyreiakjysges5gqcg5yc2btbqyglrekv4ikboapvljxzv5pvm77zrnxi'
export const base32 = '234567abcdefghijklmnopqrstuvwxyz'
const began = Date.parse('2026-01-01T00:00:00.000Z')

/** When event n was made: a hundred a second. */
export function timeOf(n: number): string {
  return new Date(began + n * 10).toISOString()
}

/** How large the network is that the events speak of. */
/** So many posts, and accounts, are famous. */
export const famous = 20

export interface World {
  accounts: number
  /** Posts that likes, reposts and replies are about; the first 20 of them are famous. */
  posts: number
  /** The share of likes, reposts, replies and follows that are about the famous. */
  fame: number
}

export const smallWorld: World = { accounts: 2_000, posts: 50_000, fame: 0.1 }

export function tid(n: number): string {
  let text = ''
  for (let rest = n; text.length < 10; rest = Math.floor(rest / 32)) text = base32[rest % 32] + text
  return `3kz${text}`
}

export const did = (n: number) => `did:plc:${tid(n).padEnd(24, 'a')}`

/** Likes 55 %, posts 16, follows 12, reposts 9, deletions 8: as the firehose has it; a few posts are famous. */
export function* history(
  count: number,
  offset: number,
  { accounts, posts, fame }: World = smallWorld,
): Generator<Event> {
  let state = 42 + offset
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return ((state >>> 0) / 2 ** 32) * below
  }
  const whole = (below: number) => Math.floor(random(below))
  const recent: PutEvent[] = []
  const one = (of: number) => whole(random(1) < fame ? famous : of)
  const subject = () => {
    const n = one(posts)
    return { uri: `at://${did(n % accounts)}/app.bsky.feed.post/${tid(n)}`, cid }
  }
  for (let i = offset; i < offset + count; i += 1) {
    const draw = random(1)
    const by = did(whole(accounts))
    const head = { seq: i, time: timeOf(i), did: by, commit: cid, rev: tid(i) }
    const old = draw > 0.92 ? recent.splice(whole(recent.length), 1)[0] : undefined
    if (old !== undefined) {
      const { did, collection, rkey } = old
      yield { ...head, type: 'delete', did, collection, rkey }
      continue
    }
    const [collection, record] = recordOf(draw, i, subject, () => did(one(accounts)))
    const event: PutEvent = {
      ...head,
      type: 'create',
      collection,
      rkey: tid(i),
      cid,
      record: { $type: collection, ...record, createdAt: timeOf(i) },
    }
    if (recent.length < 5_000) recent.push(event)
    yield event
  }
}

function recordOf(
  draw: number,
  i: number,
  subject: () => { uri: string; cid: string },
  account: () => string,
): [string, Record<string, unknown>] {
  if (draw < 0.12) return ['app.bsky.graph.follow', { subject: account() }]
  if (draw < 0.21) return ['app.bsky.feed.repost', { subject: subject() }]
  if (draw > 0.37) return ['app.bsky.feed.like', { subject: subject() }]
  const text = `post number ${i} says something of about the usual length, as people do on the network`
  if (i % 3 > 0) return ['app.bsky.feed.post', { text, langs: ['en'] }]
  const parent = subject()
  return ['app.bsky.feed.post', { text, langs: ['en'], reply: { root: parent, parent } }]
}
