/** What each collection's records become: real ones, and made ones where the recordings hold none. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { PutEvent } from '../shared/events.ts'
import { sharedJsonLines } from '../test/data.ts'
import { collections } from './collections/index.ts'
import {
  type At,
  aPost,
  aRecord,
  did,
  refTo,
  someTime,
  type TestIndexer,
  tables,
  testIndexer,
  uri,
} from './testing.ts'

interface Mined {
  did: string
  path: string
  cid: string
  record: Record<string, unknown>
}

const alice = did('alice')
const bob = did('bob')
const blobCid = 'bafkreibpjlal3phb4p7di3xyhmffvrazdnnw56cl4iqk74x637crmyyaxe'
const blob = { $type: 'blob', ref: { $link: blobCid }, mimeType: 'image/jpeg', size: 34205 }
const video = { ...blob, mimeType: 'video/mp4' }
const createdAt = '2026-01-01T00:00:00Z'
const normalised = '2026-01-01T00:00:00.000Z'
const at: At = { by: alice, rev: 1 }

const mined = [
  ...sharedJsonLines<Mined>('records/mined/by-collection.jsonl'),
  ...sharedJsonLines<Mined>('records/mined/odd.jsonl'),
].map(
  ({ did, path, cid, record }, index): PutEvent => ({
    ...aRecord(
      path.split('/')[0] ?? '',
      {},
      { by: did, rev: index, rkey: path.split('/')[1] ?? '' },
    ),
    cid,
    record,
  }),
)

/** The recorded record whose URI ends so. */
function recorded(path: string): PutEvent {
  const found = mined.find((event) => uri(event).endsWith(path))
  if (found === undefined) throw new Error(`no record ${path}`)
  return found
}

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
beforeEach(async () => {
  await indexer.sql.unsafe(`truncate ${tables.map((name) => `"${name}"`).join(', ')}`)
})

async function rowOf(table: string, event: PutEvent, key = 'uri') {
  await indexer.apply([event])
  const rows = await indexer.sql.unsafe(`select * from "${table}" where "${key}" = $1`, [
    uri(event),
  ])
  expect(rows.length).toBeLessThan(2)
  return rows[0]
}

/** What every row holds. */
const head = (event: PutEvent) => ({
  uri: uri(event),
  cid: event.cid,
  creator: event.did,
  indexedAt: someTime,
})

test('every recorded record ends as its rows, or is refused by name', async () => {
  const { outcomes } = await indexer.apply(mined)
  const bad = mined.flatMap((event, index) => {
    const outcome = outcomes[index]
    if (outcome === 'applied' || outcome === 'stale' || outcome === 'refused:collection') return []
    return [`${outcome} ${event.collection}`]
  })
  expect([...new Set(bad)].sort()).toEqual([
    'refused:foreign-post app.bsky.feed.threadgate',
    'refused:lexicon app.bsky.actor.profile',
    'refused:lexicon app.bsky.feed.post',
  ])
})

test('every table that the collections name is in the migrations, with the columns that they name and the keys in the order of their indexes', async () => {
  const columns = await indexer.sql<{ name: string }[]>`
    select table_name || '.' || column_name as name from information_schema.columns
    where table_schema = 'bsky'`
  const known = new Set(columns.map(({ name }) => name))
  const indexes = await indexer.sql<{ key: string }[]>`
    select c.relname || ' ' || string_agg(a.attname, ' ' order by k.at) as key
    from pg_index i join pg_class c on c.oid = i.indrelid, unnest(i.indkey) with ordinality k(attnum, at)
    join pg_attribute a on a.attnum = k.attnum
    where i.indisunique and a.attrelid = i.indrelid and c.relnamespace = 'bsky'::regnamespace
    group by c.relname, i.indexrelid`
  const keys = new Set(indexes.map(({ key }) => key))
  for (const { rows } of collections) {
    if (rows === undefined) continue
    const named = [
      `${rows.table}.uri`,
      ...(rows.counts ?? []).flatMap((count) => [
        `${rows.table}.${count.key}`,
        `${count.table}.${count.column}`,
      ]),
      ...(rows.children ?? []).flatMap(({ table, key }) => [`${table}.${key}`]),
    ]
    expect(named.filter((name) => !known.has(name))).toEqual([])
    if (rows.unique) expect(keys).toContain([rows.table, ...rows.unique].join(' '))
    for (const { table, softDelete } of rows.children ?? []) {
      if (softDelete) expect(keys).toContain([table, ...Object.keys(softDelete.key)].join(' '))
    }
  }
})

describe('posts', () => {
  test('a reply keeps its root and its parent, of which nobody knows', async () => {
    const reply = recorded('app.bsky.feed.post/3lza5nzg47c2l')
    expect(await rowOf('post', reply)).toMatchObject({
      ...head(reply),
      text: '🚀🚀🚀',
      replyRoot: 'at://did:plc:dzmqinfp7efnofbqg5npjmth/app.bsky.feed.post/3lza4no27is2h',
      replyRootCid: 'bafyreifkq7wcuvjb5qpckbz53n43vgp5u2l6rb6dspnirbayl4hxrthg4e',
      replyParent: 'at://did:plc:dzmqinfp7efnofbqg5npjmth/app.bsky.feed.post/3lza4no27is2h',
      replyParentCid: 'bafyreifkq7wcuvjb5qpckbz53n43vgp5u2l6rb6dspnirbayl4hxrthg4e',
      langs: ['en'],
      tags: null,
      createdAt: '2025-09-20T00:45:42.905Z',
      sortAt: '2025-09-20T00:45:42.905Z',
      invalidReplyRoot: true,
      hasThreadGate: null,
    })
  })

  test('tags are kept, empty lists are not, and the feed item has the earlier of both times', async () => {
    const post = aPost(at, {
      tags: ['one', 'two'],
      langs: [],
      createdAt: '2027-01-01T01:00:00+01:00',
    })
    expect(await rowOf('post', post)).toMatchObject({
      tags: ['one', 'two'],
      langs: null,
      createdAt: '2027-01-01T00:00:00.000Z',
      sortAt: someTime,
    })
    expect(await rowOf('feed_item', post)).toEqual({
      uri: uri(post),
      cid: post.cid,
      type: 'post',
      postUri: uri(post),
      originatorDid: alice,
      sortAt: someTime,
    })
  })

  test('images have their position, their CID as text and their description', async () => {
    const images = [
      { image: blob, alt: 'first' },
      { image: blob, alt: '' },
    ]
    const post = aPost(at, { embed: { $type: 'app.bsky.embed.images', images } })
    await indexer.apply([post])
    expect(await indexer.sql.unsafe('select * from post_embed_image order by position')).toEqual([
      { postUri: uri(post), position: '0', imageCid: blobCid, alt: 'first' },
      { postUri: uri(post), position: '1', imageCid: blobCid, alt: '' },
    ])
  })

  test('a gallery has its images at their positions', async () => {
    const image = {
      $type: 'app.bsky.embed.gallery#image',
      image: blob,
      alt: 'a',
      aspectRatio: { width: 1, height: 1 },
    }
    const items = [image, { $type: 'com.example.other' }, image]
    const post = aPost(at, { embed: { $type: 'app.bsky.embed.gallery', items } })
    await indexer.apply([post])
    const rows = await indexer.sql.unsafe(
      'select * from post_embed_gallery_image order by position',
    )
    expect(rows).toEqual([
      { postUri: uri(post), position: '0', imageCid: blobCid, alt: 'a' },
      { postUri: uri(post), position: '2', imageCid: blobCid, alt: 'a' },
    ])
  })

  test('a link has its card, the CID of its picture as text', async () => {
    const external = { uri: 'https://a.example/', title: 'A', description: 'b', thumb: blob }
    const post = aPost(at, { embed: { $type: 'app.bsky.embed.external', external } })
    expect(await rowOf('post_embed_external', post, 'postUri')).toEqual({
      postUri: uri(post),
      uri: 'https://a.example/',
      title: 'A',
      description: 'b',
      thumbCid: blobCid,
    })
  })

  test('a video has its CID', async () => {
    const post = aPost(at, { embed: { $type: 'app.bsky.embed.video', video, alt: 'moves' } })
    expect(await rowOf('post_embed_video', post, 'postUri')).toEqual({
      postUri: uri(post),
      videoCid: blobCid,
      alt: 'moves',
    })
  })

  test('a record with media is both, and a quote', async () => {
    const post = recorded('app.bsky.feed.post/3jzl46mrrnw2f')
    const quoted = {
      uri: 'at://did:plc:4ef2ghnzd77ob5rsocu3tlb4/app.bsky.feed.post/3jzkubhejz222',
      cid: 'bafyreia4k7vlaoinburqj2wnwy5gp27jbcj3t75dupva2d2sv6groqeb3i',
    }
    expect(await rowOf('post_embed_image', post, 'postUri')).toMatchObject({
      imageCid: 'bafkreifck2hi7aqmemslxjttarxcpeiw33uurpugku6etlwdt7rbm7kcie',
    })
    expect(await rowOf('post_embed_record', post, 'postUri')).toMatchObject({
      embedUri: quoted.uri,
      embedCid: quoted.cid,
    })
    expect(await rowOf('quote', post)).toMatchObject({
      cid: post.cid,
      subject: quoted.uri,
      subjectCid: quoted.cid,
      createdAt: '2023-07-02T22:26:05.202Z',
      indexedAt: someTime,
    })
    expect(await indexer.sql.unsafe('select uri, "quoteCount" from post_agg')).toEqual([
      { uri: quoted.uri, quoteCount: '1' },
    ])
  })

  test('an embedded list is no quote', async () => {
    const list = { uri: `at://${bob}/app.bsky.graph.list/3kz2222222222`, cid: aPost(at).cid }
    const post = aPost(at, { embed: { $type: 'app.bsky.embed.record', record: list } })
    expect(await rowOf('post_embed_record', post, 'postUri')).toMatchObject({ embedUri: list.uri })
    expect(await rowOf('quote', post)).toBeUndefined()
  })

  test('an author who answers in his own thread is on its walk', async () => {
    const root = refTo(aPost(at))
    const own = aPost({ by: alice, rev: 2 }, { reply: { root, parent: root } })
    const other = aPost({ by: bob, rev: 3 }, { reply: { root, parent: root } })
    expect(await rowOf('op_thread_reply', own)).toEqual({
      rootUri: root.uri,
      uri: uri(own),
      parentUri: root.uri,
      deletedAt: null,
    })
    expect(await rowOf('op_thread_reply', other)).toBeUndefined()
  })

  test('a picture in the form of before 2023 is refused, as by the reference', async () => {
    const image = { cid: blobCid, mimeType: 'image/jpeg' }
    const images = [{ image, alt: '' }]
    const post = aPost(at, { embed: { $type: 'app.bsky.embed.images', images } })
    expect((await indexer.apply([post])).outcomes).toEqual(['refused:lexicon'])
  })
})

test('a like and a repost know their subject and what they came by', async () => {
  const like = recorded('app.bsky.feed.like/3lqdkdjpy6t2e')
  expect(await rowOf('like', like)).toEqual({
    ...head(like),
    subject: 'at://did:plc:p2cp5gopk7mgjegy6wadk3ep/app.bsky.feed.post/3lprhqcd5ox2h',
    subjectCid: 'bafyreidlgvzdjo75kafjtgrdg7abz37eadzdlb5jtzyqinphkizncuqmje',
    via: 'at://did:plc:4uz2445cjiw7w4nobfgnu35f/app.bsky.feed.repost/3lprht7lyij2d',
    viaCid: 'bafyreidc2fv7sogr7qxxcdfb5hddxi2tqr2ojvyrrdwg3f4ihinr4547qy',
    createdAt: '2025-05-29T20:23:43.961Z',
    sortAt: '2025-05-29T20:23:43.961Z',
  })
  const repost = recorded('app.bsky.feed.repost/3jqfgts4r7k2w')
  const subject = 'at://did:plc:oc6vwdlmk2kqyida5i74d3p5/app.bsky.feed.post/3jna4zsfq5c2f'
  expect(await rowOf('repost', repost)).toMatchObject({ ...head(repost), subject, via: null })
  expect(await rowOf('feed_item', repost)).toMatchObject({
    type: 'repost',
    postUri: subject,
    originatorDid: repost.did,
    sortAt: '2023-03-08T03:34:09.749Z',
  })
})

test('follows and blocks name an account', async () => {
  const follow = recorded('app.bsky.graph.follow/3l2dwxdp22d2q')
  expect(await rowOf('follow', follow)).toMatchObject({
    ...head(follow),
    subjectDid: 'did:plc:z72i7hdynmk6r22z27h6tvur',
    createdAt: '2024-08-23T00:55:17.972Z',
  })
  const block = recorded('app.bsky.graph.block/3keqbxafmm42l')
  expect(await rowOf('actor_block', block)).toMatchObject({
    ...head(block),
    subjectDid: 'did:plc:4lrj435q4tnkk523zozlwci3',
  })
})

test('lists, their items and blocks', async () => {
  const facets = [
    {
      index: { byteStart: 0, byteEnd: 1 },
      features: [{ $type: 'app.bsky.richtext.facet#link', uri: 'https://a.example/' }],
    },
  ]
  const list = aRecord(
    'app.bsky.graph.list',
    {
      name: 'n',
      purpose: 'app.bsky.graph.defs#modlist',
      description: 'd',
      descriptionFacets: facets,
      avatar: blob,
      createdAt,
    },
    at,
  )
  expect(await rowOf('list', list)).toMatchObject({
    ...head(list),
    name: 'n',
    purpose: 'app.bsky.graph.defs#modlist',
    description: 'd',
    descriptionFacets: JSON.stringify(facets),
    avatarCid: blobCid,
    createdAt: normalised,
  })
  const item = recorded('app.bsky.graph.listitem/3m53iz75e2t2c')
  expect(await rowOf('list_item', item)).toMatchObject({
    ...head(item),
    subjectDid: 'did:plc:nuo7h6sdvbtv25pklgor6mwc',
    listUri: 'at://did:plc:4uz2445cjiw7w4nobfgnu35f/app.bsky.graph.list/3m53iyxq2f52l',
  })
  const listblock = recorded('app.bsky.graph.listblock/3kcxcsgkfrh2i')
  expect(await rowOf('list_block', listblock)).toMatchObject({
    ...head(listblock),
    subjectUri: 'at://did:plc:iijrtk7ocored6zuziwmqq3c/app.bsky.graph.list/3kca2p5rz7623',
  })
})

test('an item of the list of another account is refused', async () => {
  const list = `at://${bob}/app.bsky.graph.list/3kz2222222222`
  const item = aRecord('app.bsky.graph.listitem', { subject: bob, list, createdAt }, at)
  expect((await indexer.apply([item])).outcomes).toEqual(['refused:foreign-list'])
  expect(await indexer.sql.unsafe('select uri from record')).toEqual([])
})

test('opting out of a list is a row, of anything else a record alone', async () => {
  const nsid = 'app.bsky.graph.referencelistoptout'
  const list = `at://${bob}/app.bsky.graph.list/3kz2222222222`
  const optOut = aRecord(nsid, { subject: list, createdAt }, at)
  expect(await rowOf('reference_list_opt_out', optOut)).toMatchObject({
    ...head(optOut),
    subjectUri: list,
  })
  const other = aRecord(
    nsid,
    { subject: `at://${bob}/app.bsky.feed.post/1`, createdAt },
    { ...at, rev: 2 },
  )
  expect(await rowOf('reference_list_opt_out', other)).toBeUndefined()
  expect(await indexer.sql.unsafe('select uri from record')).toHaveLength(2)
})

test('gates belong to the post of their account and key', async () => {
  const gate = recorded('app.bsky.feed.postgate/3l7yza7q4ib2w')
  expect(await rowOf('post_gate', gate)).toEqual({
    ...head(gate),
    postUri: 'at://did:plc:iijrtk7ocored6zuziwmqq3c/app.bsky.feed.post/3l7yza7q4ib2w',
    createdAt: '2024-11-03T01:06:56.655Z',
  })
  const post = `at://${alice}/app.bsky.feed.post/3kz2222222222`
  const nsid = 'app.bsky.feed.threadgate'
  const own = aRecord(nsid, { post, createdAt }, { ...at, rkey: '3kz2222222222' })
  expect(await rowOf('thread_gate', own)).toMatchObject({ ...head(own), postUri: post })
  const foreign = aRecord(nsid, { post, createdAt }, { ...at, rkey: '3kz2222222223' })
  expect((await indexer.apply([foreign])).outcomes).toEqual(['refused:foreign-post'])
})

test('feed generators, starter packs and verifications', async () => {
  const feed = recorded('app.bsky.feed.generator/jcalabro-debug-feed-1')
  expect(await rowOf('feed_generator', feed)).toMatchObject({
    ...head(feed),
    feedDid: 'did:plc:4uz2445cjiw7w4nobfgnu35f',
    displayName: 'jcalabro-debug-feed-1',
    description: '',
    avatarCid: null,
  })
  const list = `at://${alice}/app.bsky.graph.list/3kz2222222222`
  const pack = aRecord('app.bsky.graph.starterpack', { name: 'pack', list, createdAt }, at)
  expect(await rowOf('starter_pack', pack)).toMatchObject({ ...head(pack), name: 'pack' })
  const verification = aRecord(
    'app.bsky.graph.verification',
    { subject: bob, handle: 'bob.example', displayName: 'Bob', createdAt },
    { ...at, rev: 2 },
  )
  expect(await rowOf('verification', verification)).toEqual({
    ...head(verification),
    rkey: verification.rkey,
    subject: bob,
    handle: 'bob.example',
    displayName: 'Bob',
    createdAt: normalised,
    sortedAt: normalised,
  })
})

describe('what an account says of itself', () => {
  test('a profile has its pictures as CIDs and its creation as it stands', async () => {
    const profile = aRecord(
      'app.bsky.actor.profile',
      {
        displayName: 'A',
        description: 'd',
        avatar: blob,
        banner: blob,
        joinedViaStarterPack: {
          uri: `at://${bob}/app.bsky.graph.starterpack/1`,
          cid: aPost(at).cid,
        },
        createdAt,
      },
      { ...at, rkey: 'self' },
    )
    expect(await rowOf('profile', profile)).toEqual({
      ...head(profile),
      displayName: 'A',
      description: 'd',
      avatarCid: blobCid,
      bannerCid: blobCid,
      joinedViaStarterPackUri: `at://${bob}/app.bsky.graph.starterpack/1`,
      pinnedPost: null,
      pinnedPostCid: null,
      createdAt,
    })
  })

  test('a profile that does not say when it was made was made when it was seen', async () => {
    const profile = aRecord('app.bsky.actor.profile', {}, { ...at, rkey: 'self' })
    expect(await rowOf('profile', profile)).toMatchObject({
      createdAt: someTime,
      displayName: null,
    })
  })

  test('a profile or labeler of another key is a record alone', async () => {
    const policies = { labelValues: [] }
    const labeler = aRecord(
      'app.bsky.labeler.service',
      { policies, createdAt },
      { ...at, rkey: 'self' },
    )
    const stray = aRecord(
      'app.bsky.labeler.service',
      { policies, createdAt },
      { ...at, rkey: 'other' },
    )
    expect(await rowOf('labeler', labeler)).toMatchObject({
      ...head(labeler),
      createdAt: normalised,
    })
    expect(await rowOf('labeler', stray)).toBeUndefined()
    expect(await indexer.sql.unsafe('select uri from record')).toHaveLength(2)
  })

  test('a status and the declarations are records alone', async () => {
    const events = [
      recorded('app.bsky.actor.status/self'),
      recorded('app.bsky.notification.declaration/self'),
      recorded('chat.bsky.actor.declaration/self'),
      recorded('com.germnetwork.declaration/self'),
    ]
    expect((await indexer.apply(events)).outcomes).toEqual(Array(4).fill('applied'))
    expect(await indexer.sql.unsafe('select uri from record')).toHaveLength(4)
  })

  test('a chat declaration may hold anything', async () => {
    const odd = aRecord(
      'chat.bsky.actor.declaration',
      { allowIncoming: 7 },
      { ...at, rkey: 'self' },
    )
    expect((await indexer.apply([odd])).outcomes).toEqual(['applied'])
  })
})
