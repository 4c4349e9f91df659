/**
 * What people say to each other, for benchmarks beside the reference: posts with replies and embeds, likes, reposts,
 * follows, deletions and updates, all about records that are there.
 */
import type { PutEvent, RecordEvent } from '../shared/events.ts'
import { cidOf } from '../shared/repo/cid.ts'
import { cid as commit, did, tid, timeOf } from './mix.ts'

const accounts = 2_000
const image = {
  $type: 'blob',
  ref: { $link: 'bafkreibme22gw2h7y2h7tg2fhqotaqjucnbc24deqo72b6mkl2egezxhvy' },
  mimeType: 'image/jpeg',
  size: 100_000,
}

interface Ref {
  uri: string
  cid: string
}

/** Likes 47 %, posts 25 (of which replies 40 %, with embeds 30), follows 10, reposts 8, deletions 6, updates 4. */
export function* conversation(count: number): Generator<RecordEvent> {
  let state = 7
  const draw = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return (state >>> 0) / 2 ** 32
  }
  const below = (n: number) => Math.floor(draw() * n)
  const posts: { ref: Ref; root: Ref }[] = []
  const written: PutEvent[] = []
  const somePost = () => posts[Math.max(0, posts.length - 1 - below(3_000))]
  const subject = () => somePost()?.ref

  const embed = () => {
    const kind = below(3)
    if (kind === 0) return { $type: 'app.bsky.embed.record', record: subject() }
    if (kind === 1) {
      const external = { uri: 'https://a.example/', title: 'A page', description: 'Of something' }
      return { $type: 'app.bsky.embed.external', external }
    }
    return { $type: 'app.bsky.embed.images', images: [{ image, alt: 'a harbour' }] }
  }
  const post = (i: number) => {
    const parent = posts.length > 50 && draw() < 0.4 ? somePost() : undefined
    return {
      text: `post number ${i} says something of about the usual length, as people do on the network`,
      langs: ['en'],
      ...(parent && { reply: { root: parent.root, parent: parent.ref } }),
      ...(posts.length > 50 && draw() < 0.3 && { embed: embed() }),
    }
  }
  const kinds: readonly [upTo: number, collection: string, make: (i: number) => object][] = [
    [0.1, 'app.bsky.graph.follow', () => ({ subject: did(below(accounts)) })],
    [0.18, 'app.bsky.feed.repost', () => ({ subject: subject() })],
    [0.65, 'app.bsky.feed.like', () => ({ subject: subject() })],
    [1, 'app.bsky.feed.post', post],
  ]

  for (let i = 0; i < count; i++) {
    const head = { seq: i, time: timeOf(i), commit, rev: tid(i) }
    const fate = draw()
    const old = fate < 0.1 && written.length > 500 ? written[below(written.length)] : undefined
    if (old !== undefined && fate < 0.06) {
      written.splice(written.indexOf(old), 1)
      const { did, collection, rkey } = old
      yield { ...head, type: 'delete', did, collection, rkey }
      continue
    }
    if (old?.collection === 'app.bsky.feed.post') {
      yield { ...old, ...head, type: 'update', record: { ...old.record, text: `${i}, rewritten` } }
      continue
    }
    const kind = posts.length < 50 ? 1 : draw()
    const [, collection, make] = kinds.find(([upTo]) => kind <= upTo) ?? kinds[3] ?? []
    if (collection === undefined || make === undefined) throw new Error('unreachable')
    const by = did(below(accounts))
    const record = { $type: collection, ...make(i), createdAt: timeOf(i) }
    const cid = cidOf(Buffer.from(`record ${i}`))
    const event: PutEvent = {
      ...{ ...head, type: 'create', did: by, collection, rkey: tid(i), cid, record },
    }
    if (collection === 'app.bsky.feed.post') {
      const uri = `at://${by}/${collection}/${tid(i)}`
      const { reply } = record as { reply?: { root: Ref } }
      posts.push({ ref: { uri, cid }, root: reply?.root ?? { uri, cid } })
    }
    if (written.length < 5_000) written.push(event)
    yield event
  }
}
