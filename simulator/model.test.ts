/** The model against rows that were written out by hand from the contract. */
import { expect, test } from 'vitest'
import type { ExpectedRecord, JsonRecord } from './account.ts'
import { anything } from './model/threads.ts'
import { type Facts, modelOf, type Observed, type Tables } from './model.ts'

const ada = 'did:plc:adaaaaaaaaaaaaaaaaaaaaaa'
const bo = 'did:plc:booooooooooooooooooooooo'
const cid = 'bafyreif44uaqxfjv44erb3u6ony3heknzdqe5za6q5zzgc4pl3gbpsbswi'
const createdAt = '2026-01-01T01:00:00+01:00'
const subject = { uri: `at://${ada}/app.bsky.feed.post/3kaaaaaaaaaa2`, cid }
const time = '2026-01-02T00:00:00.000Z'

function record(path: string, content: JsonRecord, rev = 'r1'): ExpectedRecord {
  const [did = '', collection = '', rkey = ''] = path.split('/')
  return { did, collection, rkey, cid, rev, record: { $type: collection, ...content } }
}

/** What the model makes of records whose commits were all heard. */
function tablesOf(
  records: readonly ExpectedRecord[],
  more: Partial<Omit<Facts, 'records' | 'heard'>> & { heard?: Partial<Facts['heard']> } = {},
  observed: Partial<Observed> = {},
): Tables {
  const { heard, ...rest } = more
  const commits = new Map(records.map(({ did, rev }) => [`${did} ${rev}`, 'commit']))
  const silence = { revs: new Map(), deletions: new Map(), accounts: new Map() }
  const facts: Facts = {
    records,
    accounts: [],
    heard: { commits, ...silence, identities: new Set(), ...heard },
    fetched: null,
    labels: [],
    ...rest,
  }
  const uriOf = ({ did, collection, rkey }: ExpectedRecord) => `at://${did}/${collection}/${rkey}`
  const indexedAt = new Map(records.map((fact) => [uriOf(fact), time]))
  return modelOf(facts).tables({ indexedAt, snapshotRev: new Map(), ...observed })
}

const like = (rkey: string) => record(`${bo}/app.bsky.feed.like/${rkey}`, { subject, createdAt })

test('a reply is a row of post, feed_item, quote and counts, and its text is in the order of its block', () => {
  const embed = { $type: 'app.bsky.embed.record', record: subject }
  const reply = { root: subject, parent: subject }
  const post = { text: 'a\0b', createdAt, langs: ['en'], tags: [], reply, embed }
  const uri = `at://${ada}/app.bsky.feed.post/3kbbbbbbbbbb2`
  const tables = tablesOf([record(`${ada}/app.bsky.feed.post/3kbbbbbbbbbb2`, post)])
  const utc = '2026-01-01T00:00:00.000Z'
  const [stored] = tables.get('record') ?? []
  expect(stored).toMatchObject({ uri, cid, did: ada, indexedAt: time, rev: 'r1' })
  expect(Object.keys(JSON.parse(String(stored?.['json'])))).toEqual(
    'tags text $type embed langs reply createdAt'.split(' '),
  )
  expect(tables.get('post')).toEqual([
    {
      uri,
      cid,
      creator: ada,
      indexedAt: time,
      createdAt: utc,
      sortAt: utc,
      text: 'ab',
      langs: ['en'],
      tags: null,
      replyRoot: subject.uri,
      replyRootCid: cid,
      replyParent: subject.uri,
      replyParentCid: cid,
      // Its parent is not there: what was judged while it was may stand there.
      invalidReplyRoot: anything,
      violatesThreadGate: anything,
      violatesEmbeddingRules: null,
      hasThreadGate: null,
      hasPostGate: null,
    },
  ])
  expect(tables.get('feed_item')).toEqual([
    { uri, cid, type: 'post', postUri: uri, originatorDid: ada, sortAt: utc },
  ])
  expect(tables.get('quote')).toEqual([
    {
      uri,
      cid,
      subject: subject.uri,
      subjectCid: cid,
      createdAt: utc,
      indexedAt: time,
      sortAt: utc,
    },
  ])
  expect(tables.get('post_embed_record')).toEqual([
    { postUri: uri, embedUri: subject.uri, embedCid: cid },
  ])
  expect(tables.get('op_thread_reply')).toEqual([
    { rootUri: subject.uri, uri, parentUri: subject.uri, deletedAt: null },
  ])
  expect(tables.get('post_agg')).toEqual([
    {
      uri: subject.uri,
      likeCount: 0,
      repostCount: 0,
      replyCount: 1,
      quoteCount: 1,
      bookmarkCount: 0,
    },
  ])
  expect(tables.get('profile_agg')).toEqual([
    { did: ada, followersCount: 0, followsCount: 0, postsCount: 1 },
  ])
})

const postOf = (by: string, rkey: string, content: JsonRecord = {}) =>
  record(`${by}/app.bsky.feed.post/${rkey}`, { text: '', createdAt, ...content })
const uriOfPost = (by: string, rkey: string) => `at://${by}/app.bsky.feed.post/${rkey}`

test('a reply is in its thread, and outside of it where its parent is or where its root is none', () => {
  const [root, answer] = [uriOfPost(ada, '3kaaaaaaaaaa2'), uriOfPost(bo, '3kbbbbbbbbbb2')]
  const to = (parent: string, of: string) => {
    return { reply: { root: { uri: of, cid }, parent: { uri: parent, cid } } }
  }
  const tables = tablesOf([
    postOf(ada, '3kaaaaaaaaaa2'),
    postOf(bo, '3kbbbbbbbbbb2', to(root, root)),
    postOf(ada, '3kcccccccccc2', to(answer, answer)),
    postOf(bo, '3kdddddddddd2', to(uriOfPost(ada, '3kcccccccccc2'), answer)),
  ])
  const flags = tables
    .get('post')
    ?.map((row) => [row['invalidReplyRoot'], row['violatesThreadGate']])
  const none = [null, null]
  expect(flags).toEqual([none, [true, false], none, [true, false]])
  const told = tables.get('notification')?.map(({ did, author, reason, reasonSubject }) => {
    return { did, author, reason, reasonSubject }
  })
  expect(told).toHaveLength(3)
  expect(told).toContainEqual({ did: ada, author: bo, reason: 'reply', reasonSubject: root })
})

test('a gate keeps out whom it does not name, and a reply that is kept out does not count or tell', () => {
  const root = { uri: uriOfPost(ada, '3kaaaaaaaaaa2'), cid }
  const reply = postOf(bo, '3kbbbbbbbbbb2', { reply: { root, parent: root } })
  const gateOf = (...allow: JsonRecord[]) =>
    record(`${ada}/app.bsky.feed.threadgate/3kaaaaaaaaaa2`, { post: root.uri, allow, createdAt })
  const flagsWith = (...facts: ExpectedRecord[]) => {
    const tables = tablesOf([...facts, reply])
    const row = tables.get('post')?.find(({ creator }) => creator === bo)
    const count = tables.get('post_agg')?.[0]?.['replyCount']
    return [row?.['violatesThreadGate'], count, tables.get('notification')?.length]
  }
  const rule = (name: string) => ({ $type: `app.bsky.feed.threadgate#${name}` })
  const features = [{ $type: 'app.bsky.richtext.facet#mention', did: bo }]
  const facets = [{ index: { byteStart: 0, byteEnd: 0 }, features }]
  const plain = postOf(ada, '3kaaaaaaaaaa2')
  expect(flagsWith(plain)).toEqual([null, 1, 1])
  expect(flagsWith(plain, gateOf())).toEqual([true, 0, 0])
  expect(flagsWith(plain, gateOf(rule('mentionRule')))).toEqual([true, 0, 0])
  expect(flagsWith(postOf(ada, '3kaaaaaaaaaa2', { facets }), gateOf(rule('mentionRule')))).toEqual([
    ...[null, 1, 2],
  ])
  // Who followed whom when it was decided is not told by what is there.
  expect(flagsWith(plain, gateOf(rule('followerRule')))).toEqual([anything, anything, 0])
})

test('a quote that is forbidden is marked and does not tell', () => {
  const embed = { $type: 'app.bsky.embed.record', record: subject }
  const quote = postOf(bo, '3kbbbbbbbbbb2', { embed })
  const rules = { embeddingRules: [{ $type: 'app.bsky.feed.postgate#disableRule' }] }
  const gate = record(`${ada}/app.bsky.feed.postgate/3kaaaaaaaaaa2`, {
    ...{ post: subject.uri, createdAt },
    ...rules,
  })
  const flagsOf = (tables: Tables) => tables.get('post')?.[0]?.['violatesEmbeddingRules']
  expect(flagsOf(tablesOf([quote]))).toBe(null)
  expect(tablesOf([quote]).get('notification')).toMatchObject([{ did: ada, reason: 'quote' }])
  expect(flagsOf(tablesOf([quote, gate]))).toBe(true)
  expect(tablesOf([quote, gate]).get('notification')).toEqual([])
})

test('what is dated in the future sorts by when it was indexed', () => {
  const future = { subject, createdAt: '2030-01-01T00:00:00.000Z' }
  const tables = tablesOf([record(`${bo}/app.bsky.feed.repost/3kbbbbbbbbbb2`, future)])
  expect(tables.get('repost')?.[0]).toMatchObject({ sortAt: time, createdAt: future.createdAt })
  expect(tables.get('feed_item')?.[0]).toMatchObject({ type: 'repost', sortAt: time })
})

test('of duplicates the lowest uri has the row; the others wait, point at it and do not count', () => {
  const tables = tablesOf([like('3kcccccccccc2'), like('3kaaaaaaaaaa2'), like('3kbbbbbbbbbb2')])
  const uri = `at://${bo}/app.bsky.feed.like`
  expect(tables.get('record')).toHaveLength(3)
  expect(tables.get('like')?.map((row) => row['uri'])).toEqual([`${uri}/3kaaaaaaaaaa2`])
  expect(tables.get('duplicate_record')).toEqual(
    ['3kbbbbbbbbbb2', '3kcccccccccc2'].map((rkey) => ({
      uri: `${uri}/${rkey}`,
      cid,
      duplicateOf: `${uri}/3kaaaaaaaaaa2`,
      indexedAt: time,
    })),
  )
  expect(tables.get('post_agg')?.[0]).toMatchObject({ likeCount: 1 })
})

test('what is invalid, refused or of an unknown collection has no row', () => {
  const tables = tablesOf([
    record(`${ada}/app.bsky.feed.post/3kaaaaaaaaaa2`, { text: 'x'.repeat(3001), createdAt }),
    record(`${ada}/app.bsky.feed.threadgate/3kbbbbbbbbbb2`, { post: subject.uri, createdAt }),
    record(`${bo}/app.bsky.feed.postgate/3kaaaaaaaaaa2`, { post: subject.uri, createdAt }),
    record(`${ada}/com.example.thing/3kaaaaaaaaaa2`, { createdAt }),
  ])
  const filled = [...tables].filter(([, rows]) => rows.length > 0).map(([table]) => table)
  expect(filled).toEqual(['record_tombstone'])
  // An unknown collection leaves no trace; the others are, for the rows, deletions.
  expect(tables.get('record_tombstone')?.map((row) => row['uri'])).toHaveLength(3)
})

test('a snapshot confirms what it holds, and what was deleted before it need not be remembered', () => {
  const uri = (rkey: string) => `at://${bo}/app.bsky.feed.like/${rkey}`
  const deletions = new Map([
    [uri('3kbbbbbbbbbb2'), 'r2'],
    [uri('3kcccccccccc2'), 'r4'],
  ])
  const sources = { fetched: new Map([[bo, 'r3']]), heard: { deletions } }
  const tables = tablesOf([like('3kaaaaaaaaaa2')], sources, { snapshotRev: new Map([[bo, 'r3']]) })
  expect(tables.get('record')?.map((row) => row['rev'])).toEqual(['r3'])
  expect(tables.get('record_tombstone')).toEqual([
    { uri: uri('3kcccccccccc2'), did: bo, rev: 'r4' },
  ])
})

test('a repo that was asked for and not found as it was then is a difference', () => {
  const accounts = [{ did: bo, handle: null, rev: 'r3', head: 'head' }]
  const sources = { accounts, fetched: new Map([[bo, 'r3']]) }
  const syncOf = (rev: string) =>
    tablesOf([], sources, { snapshotRev: new Map([[bo, rev]]) }).get('repo_sync')
  expect(syncOf('r2')).toEqual([{ did: bo, rev: 'r2', snapshotRev: 'r3 or later', status: null }])
  expect(syncOf('r3')).toEqual([{ did: bo, rev: 'r3', snapshotRev: 'r3', status: null }])
})

test('an account is hidden while its host says that it is gone, not while its host is late', () => {
  const statusOf = (active: boolean, status: string | null) => {
    const heard = { accounts: new Map([[ada, { active, status }]]) }
    const accounts = [{ did: ada, handle: 'ada.test', rev: null, head: null }]
    return tablesOf([], { accounts, heard }).get('actor')?.[0]?.['upstreamStatus']
  }
  expect(statusOf(true, null)).toBe(null)
  expect(statusOf(true, 'takendown')).toBe(null)
  for (const status of ['deactivated', 'suspended', 'takendown'])
    expect(statusOf(false, status)).toBe(status)
  for (const status of ['desynchronized', 'throttled']) expect(statusOf(false, status)).toBe(null)
  for (const status of ['deleted', 'something new', null])
    expect(statusOf(false, status)).toBe('deactivated')
})

test('of statements about one value the newest counts, of equally old ones the negation', () => {
  const label = { ver: 1 as const, src: bo, uri: subject.uri, val: 'spam', cts: time }
  const later = '2026-01-03T00:00:00Z'
  const labels = [
    { ...label, val: 'rude', cts: later, exp: '2030-01-01T00:00:00Z' },
    { ...label, val: 'rude', neg: true },
    { ...label, neg: true },
    label,
    { ...label, cid },
  ]
  const base = { src: bo, uri: subject.uri }
  expect(tablesOf([], { labels }).get('label')).toEqual([
    {
      ...base,
      cid: '',
      val: 'rude',
      neg: false,
      cts: '2026-01-03T00:00:00.000Z',
      exp: '2030-01-01T00:00:00.000Z',
    },
    { ...base, cid: '', val: 'spam', neg: true, cts: time, exp: null },
    { ...base, cid, val: 'spam', neg: false, cts: time, exp: null },
  ])
})
