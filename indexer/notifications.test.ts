/** Who is told of what, and that nobody is told twice. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Event, PutEvent } from '../shared/events.ts'
import {
  aDeleteOf,
  aFollow,
  aLike,
  aPost,
  aPostGate,
  aProfile,
  aQuote,
  aRecord,
  aReply,
  aRepost,
  aSnapshot,
  aThreadGate,
  aVerification,
  did,
  mentioning,
  refTo,
  type TestIndexer,
  tables,
  testIndexer,
  uri,
} from './testing.ts'

const [ann, ben, cat, dan] = [did('ann'), did('ben'), did('cat'), did('dan')]
const createdAt = '2026-01-01T00:00:00.000Z'

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
const clear = () =>
  indexer.sql.unsafe(
    `truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile, thread_mute`,
  )
beforeEach(clear)

/** `reason → recipient subject` of every notification, or of those of one record. */
async function told(of?: PutEvent): Promise<string[]> {
  const found = await indexer.sql.unsafe(
    `select did, reason, "reasonSubject" as subject from notification
     where $1::text is null or "recordUri" = $1`,
    [of ? uri(of) : null],
  )
  return found.map(({ did, reason, subject }) => line(reason, did, subject)).sort()
}
const line = (reason: string, to: string, subject: string | null) =>
  `${reason} → ${to.slice(8, 11)} ${subject ?? '-'}`
const about = (reason: string, to: string, subject: PutEvent) => line(reason, to, uri(subject))

const post = aPost({ by: ann, rev: 1 })
const like = aLike({ by: ben, rev: 2, of: refTo(post) })
const repost = aRepost({ by: cat, rev: 2, of: refTo(post) })
const follow = aFollow({ by: ben, rev: 3, of: ann })
const verification = aVerification({ by: ben, rev: 4, of: ann })
const pack = `at://${ann}/app.bsky.graph.starterpack/3kz2222222222`
const joined = { joinedViaStarterPack: { uri: pack, cid: post.cid }, createdAt }
const via = (collection: string, by: string) =>
  aRecord(collection, { subject: refTo(post), via: refTo(repost), createdAt }, { by, rev: 5 })

describe('a record tells', () => {
  test.each<[string, PutEvent, string[]]>([
    ['a like: the author', like, [about('like', ann, post)]],
    ['a repost: the author', repost, [about('repost', ann, post)]],
    [
      'a like by way of a repost: both authors',
      via('app.bsky.feed.like', ben),
      [about('like', ann, post), about('like-via-repost', cat, repost)],
    ],
    [
      'a repost by way of a repost: both authors',
      via('app.bsky.feed.repost', ben),
      [about('repost', ann, post), about('repost-via-repost', cat, repost)],
    ],
    ['a like of oneself: nobody', aLike({ by: ann, rev: 2, of: refTo(post) }), []],
    [
      'a like by way of oneself: the author',
      via('app.bsky.feed.like', cat),
      [about('like', ann, post)],
    ],
    [
      'a like of oneself by way of a repost: nobody, as in the reference',
      via('app.bsky.feed.like', ann),
      [],
    ],
    [
      'a repost of oneself by way of a repost: nobody, as in the reference',
      via('app.bsky.feed.repost', ann),
      [],
    ],
    ['a follow: the followed', follow, [line('follow', ann, null)]],
    [
      'a follow of oneself: oneself',
      aFollow({ by: ann, rev: 2, of: ann }),
      [line('follow', ann, null)],
    ],
    ['a verification: the verified', verification, [line('verified', ann, null)]],
    [
      'a profile: the owner of the starter pack',
      aProfile({ by: ben, rev: 2 }, joined),
      [line('starterpack-joined', ann, pack)],
    ],
    ['a post: nobody', post, []],
  ])('%s', async (_, event, expected) => {
    await indexer.apply([event])
    expect(await told()).toEqual(expected)
  })

  test('its author, its own cid, and the earlier of its times', async () => {
    await indexer.apply([like])
    expect(await indexer.sql.unsafe('select * from notification')).toEqual([
      {
        id: expect.anything(),
        did: ann,
        author: ben,
        reason: 'like',
        reasonSubject: uri(post),
        recordUri: uri(like),
        recordCid: like.cid,
        sortAt: createdAt,
      },
    ])
  })
})

describe('nobody is told', () => {
  test('of what a backfill found, unless that is asked for', async () => {
    const found = [post, like, follow, aReply({ by: ben, rev: 6, to: post }, mentioning(cat))]
    const backfilled = found.map((event) => ({ ...event, seq: -1 }))
    await indexer.apply(backfilled)
    expect(await told()).toEqual([])
    await clear()
    await indexer.applyWith({ notifyBackfilled: true })(backfilled)
    expect(await told()).toHaveLength(4)
  })

  test('of what a backfill found when a gate changes later', async () => {
    const reply = aReply({ by: ben, rev: 2, to: post })
    await indexer.apply([post, { ...reply, seq: -1 }])
    await indexer.apply([aThreadGate({ rev: 3, of: post, hidden: [] })])
    expect(await told()).toEqual([])
  })

  test('who has muted the thread', async () => {
    const reply = aReply({ by: ben, rev: 2, to: post })
    const liked = aLike({ by: cat, rev: 3, of: refTo(reply) })
    await indexer.apply([post])
    await indexer.sql.unsafe(
      `insert into thread_mute ("rootUri", "mutedByDid", "createdAt") values ($1, $2, ''), ($1, $3, '')`,
      [uri(post), ann, ben],
    )
    await indexer.applyEach([reply, liked, like, follow])
    expect(await told()).toEqual([line('follow', ann, null)])
    // All of them are stored.
    expect(await indexer.sql.unsafe('select uri from record')).toHaveLength(5)
  })

  test.each(['without a key', 'with a key'])('twice, in a database %s', async (which) => {
    if (which === 'with a key') {
      await indexer.sql.unsafe(
        'create unique index told_once on notification (did, "recordUri", reason)',
      )
    }
    const reply = aReply({ by: ben, rev: 6, to: post }, mentioning(cat))
    const events = [post, like, follow, verification, reply]
    const again = events.map((event): Event => ({ ...event, seq: event.seq + 1 }))
    await Promise.all([indexer.apply(events), indexer.apply(again), indexer.apply(events)])
    for (const event of events) {
      const newer = { ...event, type: 'update', rev: `${event.rev.slice(0, -1)}z`, cid: post.cid }
      await indexer.apply([newer as PutEvent])
    }
    await indexer.sql.unsafe(
      `insert into reconcile (kind, key, depth) values ('post', $1, 0), ('replies', $2, 4)`,
      [uri(reply), uri(post)],
    )
    await Promise.all([indexer.settle(), indexer.settle()])
    await indexer.sql.unsafe('drop index if exists told_once')
    expect(await told()).toEqual([
      line('follow', ann, null),
      about('like', ann, post),
      line('mention', cat, null),
      about('reply', ann, post),
      line('unverified', ann, null),
      line('verified', ann, null),
    ])
  })
})

describe('a notification', () => {
  test('goes with its record, but for that of a verification', async () => {
    const reply = aReply({ by: ben, rev: 6, to: post }, mentioning(cat))
    const profile = aProfile({ by: ben, rev: 7 }, joined)
    const events = [like, follow, reply, profile, verification]
    await indexer.apply([post, ...events])
    for (const event of events) await indexer.apply([aDeleteOf(event, 9)])
    expect(await told()).toEqual([line('unverified', ann, null), line('verified', ann, null)])
  })

  test('stays where it is when its record is written anew, and goes when that says another thing', async () => {
    const profile = aProfile({ by: ben, rev: 2, time: '2026-01-05T00:00:00.000Z' }, joined)
    const renamed = aProfile(
      { by: ben, rev: 3, update: true, time: '2026-01-06T00:00:00.000Z' },
      { ...joined, displayName: 'B' },
    )
    await indexer.applyEach([profile, renamed])
    const stored = await indexer.sql.unsafe('select "recordCid", "sortAt" from notification')
    expect(stored).toEqual([{ recordCid: renamed.cid, sortAt: '2026-01-05T00:00:00.000Z' }])
    await indexer.apply([aProfile({ by: ben, rev: 4, update: true }, { displayName: 'B' })])
    expect(await told()).toEqual([])
  })

  test('follows the row: when the holder of a key goes, that of the next one is there', async () => {
    const second = aLike({ by: ben, rev: 3, of: refTo(post) })
    await indexer.applyEach([second, like])
    expect(await told(second)).toEqual([])
    expect(await told(like)).toEqual([about('like', ann, post)])
    await indexer.apply([aDeleteOf(like, 9)])
    expect(await told(second)).toEqual([about('like', ann, post)])
    expect(await told()).toHaveLength(1)
  })

  test('of a snapshot that lacks its record goes too', async () => {
    await indexer.applyEach([post, like])
    await indexer.apply([aSnapshot(ben, 9, []).complete])
    expect(await told()).toEqual([])
  })
})

describe('a post tells', () => {
  const inEachOrder = async (events: readonly Event[], check: () => Promise<void>) => {
    for (const order of [events, events.toReversed()]) {
      await clear()
      await indexer.applyEach(order)
      await check()
    }
  }

  test('each account once: of a mention, else of a quote, else of a reply', async () => {
    const quoted = aPost({ by: ben, rev: 1 })
    const reply = aReply({ by: cat, rev: 2, to: post })
    const answer = aReply(
      { by: dan, rev: 3, to: reply, root: post },
      {
        ...mentioning(ann, dan, ann),
        embed: { $type: 'app.bsky.embed.record', record: refTo(quoted) },
      },
    )
    await inEachOrder([quoted, post, reply, answer], async () => {
      expect(await told(answer)).toEqual([
        line('mention', ann, null),
        about('quote', ben, quoted),
        about('reply', cat, reply),
      ])
    })
  })

  test('the four authors above it, also those who come after it, and not itself', async () => {
    const thread = [post]
    for (const [index, by] of [ben, cat, dan, did('eve'), did('fay')].entries())
      thread.push(aReply({ by, rev: index + 2, to: thread.at(-1) as PutEvent, root: post }))
    const last = thread.at(-1) as PutEvent
    await inEachOrder(thread, async () => {
      expect(await told(last)).toEqual(
        [ben, cat, dan, did('eve')].map((by, index) =>
          about('reply', by, thread[index + 1] as PutEvent),
        ),
      )
    })
    const self = aReply({ by: ann, rev: 9, to: post })
    await inEachOrder([post, self], async () => expect(await told(self)).toEqual([]))
  })

  test('whoever is the fourth above it and comes last, also when it has told nobody before', async () => {
    const thread = [post]
    for (let rev = 2; rev < 6; rev += 1)
      thread.push(aReply({ by: ben, rev, to: thread.at(-1) as PutEvent, root: post }))
    await inEachOrder([...thread.slice(1), post], async () => {
      expect(await told(thread.at(-1))).toEqual([about('reply', ann, post)])
    })
  })

  test('nobody above a reply that the owner hides', async () => {
    const hidden = aReply({ by: ben, rev: 2, to: post })
    const answer = aReply({ by: cat, rev: 3, to: hidden, root: post })
    const gate = aThreadGate({ rev: 4, of: post, hidden: [uri(hidden)] })
    await inEachOrder([post, hidden, answer, gate], async () => {
      expect(await told(answer)).toEqual([about('reply', ben, hidden)])
    })
  })

  test('nobody above it while the gate keeps it out, and them when it is let in', async () => {
    const gate = aThreadGate({ rev: 2, of: post, allow: [] })
    const reply = aReply({ by: ben, rev: 3, to: post }, mentioning(cat))
    await inEachOrder([post, gate, reply], async () => {
      expect(await told(reply)).toEqual([line('mention', cat, null)])
    })
    await indexer.apply([aDeleteOf(gate, 9)])
    expect(await told(reply)).toEqual([line('mention', cat, null), about('reply', ann, post)])
  })

  test('the author whom it quotes, unless he has forbidden that', async () => {
    const quote = aQuote({ by: ben, rev: 2, of: post })
    const gate = aPostGate({ rev: 3, of: post })
    await inEachOrder([post, quote], async () => {
      expect(await told(quote)).toEqual([about('quote', ann, post)])
    })
    await inEachOrder([post, quote, gate], async () => expect(await told(quote)).toEqual([]))
    await indexer.apply([aDeleteOf(gate, 9)])
    expect(await told(quote)).toEqual([about('quote', ann, post)])
  })

  test('whom it has told, also when those above it are gone', async () => {
    const reply = aReply({ by: ben, rev: 2, to: post })
    const answer = aReply({ by: cat, rev: 3, to: reply, root: post })
    await indexer.applyEach([post, reply, answer, aDeleteOf(reply, 5)])
    await indexer.apply([aThreadGate({ rev: 6, of: post, hidden: [] })])
    expect(await told(answer)).toEqual([about('reply', ann, post), about('reply', ben, reply)])
  })
})
