/** A history with every kind of record, and all that makes rows come, go, wait and return. */
import type { Account, JsonRecord, Ref } from '../simulator/account.ts'
import type { LabelClaim } from '../simulator/labeler.ts'

/** What an account of the history has to be able to do, on whatever network. */
export type Author = Pick<
  Account,
  'did' | 'handle' | 'create' | 'update' | 'delete' | 'applyWrites'
>

/** The network that the history is made on. */
export interface Stage<A extends Author> {
  account(options: { handle: string; curve?: 'k256' | 'p256' }): Promise<A>
  labeler: { label(...claims: LabelClaim[]): Promise<unknown> }
}

/** Records of which a test tells more than that they are as modelled. */
export interface EveryKind<A extends Author = Account> {
  ada: A
  bo: A
  /** Liked twice by Bo: `waiting` has the higher key. */
  doubled: { post: Ref; holding: Ref; waiting: Ref }
  /** Liked twice by Bo, who took back the like that held the row. */
  promoted: { post: Ref; like: Ref }
  /** Ada's post that is gone, which Bo had reposted and quoted. */
  orphaned: { repost: Ref; quote: Ref }
}

const createdAt = '2025-06-01T12:00:00.000Z'
/** Each use is an object of its own: a record in which one object stands twice is not taken. */
const blob = () => ({
  $type: 'blob',
  ref: { $link: 'bafkreibme22gw2h7y2h7tg2fhqotaqjucnbc24deqo72b6mkl2egezxhvy' },
  mimeType: 'image/jpeg',
  size: 1000,
})
const aspectRatio = { width: 4, height: 3 }

/** Makes two accounts and their history; every table of the model has a row of it. */
export async function makeEveryKind<A extends Author>(network: Stage<A>): Promise<EveryKind<A>> {
  const ada = await network.account({ handle: 'ada-every.test' })
  const bo = await network.account({ handle: 'bo-every.test', curve: 'p256' })
  const post = await makePosts(ada, bo)
  const lists = await makeLists(ada, bo)
  await makeAccountRecords(ada, bo, lists.starterPack)
  await makeGates(ada, bo, post)
  const doubles = await makeDoubles(ada, bo)
  await makeRefused(ada, bo)
  await makeLabels(network, ada, post)
  return { ada, bo, ...doubles, orphaned: await makeOrphans(ada, bo) }
}

const refOf = ({ uri, cid }: Ref): Ref => ({ uri, cid })

async function makePosts(ada: Author, bo: Author): Promise<Ref> {
  const write = (by: Author, more: JsonRecord) =>
    by.create('app.bsky.feed.post', { text: 'every kind', createdAt, ...more })
  const root = refOf(await write(ada, { langs: ['en', 'de'], tags: ['one', 'two'] }))
  const answer = { root, parent: { ...root } }
  const reply = refOf(
    await write(bo, { reply: answer, langs: [], createdAt: '2025-06-01T14:00:00+02:00' }),
  )
  await write(ada, { reply: { root, parent: reply } })
  // Dated in the future: it sorts by when it was indexed.
  await write(ada, { createdAt: '2027-01-01T00:00:00Z', text: 'nul \0 and more' })

  const images = [
    { image: blob(), alt: '' },
    { image: blob(), alt: 'a harbour' },
  ]
  const pictures = { $type: 'app.bsky.embed.images', images }
  const picture = {
    $type: 'app.bsky.embed.gallery#image',
    image: blob(),
    alt: 'a kite',
    aspectRatio,
  }
  const unknown = { $type: 'app.bsky.embed.gallery#hologram', alt: 'not yet' }
  const external = { uri: 'https://a.example/', title: 'A', description: 'B', thumb: blob() }
  const film = { ...blob(), mimeType: 'video/mp4' }
  const quote = { $type: 'app.bsky.embed.record', record: root }
  await write(bo, { embed: pictures })
  await write(bo, { embed: { $type: 'app.bsky.embed.gallery', items: [unknown, picture] } })
  await write(bo, { embed: { $type: 'app.bsky.embed.external', external } })
  await write(bo, { embed: { $type: 'app.bsky.embed.video', video: film, alt: 'waves' } })
  await write(bo, { embed: quote })
  await write(bo, { embed: { $type: 'app.bsky.embed.hologram', of: 'a ferry' } })
  const both = { $type: 'app.bsky.embed.recordWithMedia', record: quote, media: pictures }
  const changed = await write(bo, { embed: both, reply: answer })
  await bo.update('app.bsky.feed.post', changed.rkey, { text: 'no more', createdAt, embed: quote })
  const gone = await write(ada, {
    reply: answer,
    embed: { $type: 'app.bsky.embed.record', record: reply },
  })
  await ada.delete('app.bsky.feed.post', gone.rkey)

  const repost = refOf(await bo.create('app.bsky.feed.repost', { subject: root, createdAt }))
  await ada.create('app.bsky.feed.repost', { subject: root, via: repost, createdAt })
  await ada.create('app.bsky.feed.like', { subject: reply, via: repost, createdAt })
  return root
}

async function makeLists(ada: Author, bo: Author): Promise<{ starterPack: Ref }> {
  const purpose = 'app.bsky.graph.defs#curatelist'
  const feature = { $type: 'app.bsky.richtext.facet#tag', tag: 'tides' }
  const descriptionFacets = [{ index: { byteEnd: 2, byteStart: 0 }, features: [feature] }]
  const about = { description: 'of harbours', descriptionFacets, avatar: blob() }
  const list = await ada.create('app.bsky.graph.list', {
    name: 'Boats',
    purpose,
    createdAt,
    ...about,
  })
  const pack = { name: 'Sailors', list: list.uri, createdAt }
  const starterPack = refOf(await ada.create('app.bsky.graph.starterpack', pack))
  const member = { subject: bo.did, list: list.uri, createdAt }
  const first = await ada.create('app.bsky.graph.listitem', member)
  await ada.create('app.bsky.graph.listitem', member)
  // The other waits for this place, and then there is a place for each.
  await ada.update('app.bsky.graph.listitem', first.rkey, { ...member, subject: ada.did })
  await bo.create('app.bsky.graph.listblock', { subject: list.uri, createdAt })
  await bo.create('app.bsky.graph.listblock', { subject: list.uri, createdAt })
  await bo.create('app.bsky.graph.referencelistoptout', { subject: list.uri, createdAt })
  await bo.create('app.bsky.graph.referencelistoptout', { subject: starterPack.uri, createdAt })
  await ada.create('app.bsky.graph.follow', { subject: bo.did, createdAt })
  await ada.create('app.bsky.graph.follow', { subject: bo.did, createdAt })
  await bo.create('app.bsky.graph.block', { subject: ada.did, createdAt })
  const seal = { subject: bo.did, handle: 'bo-every.test', displayName: 'Bo', createdAt }
  await ada.create('app.bsky.graph.verification', seal)
  await ada.create('app.bsky.graph.verification', { ...seal, displayName: 'Bo again' })
  const feed = { did: 'did:web:feeds.example', displayName: 'Tides', createdAt, ...about }
  await ada.create('app.bsky.feed.generator', feed, 'tides')
  return { starterPack }
}

async function makeAccountRecords(ada: Author, bo: Author, starterPack: Ref): Promise<void> {
  const face = { displayName: 'Ada', description: 'Every kind', avatar: blob(), banner: blob() }
  const since = { joinedViaStarterPack: starterPack, createdAt: '2025-06-01T12:00:00+02:00' }
  await ada.create('app.bsky.actor.profile', { ...face, ...since }, 'self')
  await ada.create('app.bsky.actor.profile', face, 'other')
  await bo.create('app.bsky.actor.profile', { displayName: 'Bo' }, 'self')
  const policies = { labelValues: ['spam'] }
  await bo.create('app.bsky.labeler.service', { policies, createdAt }, 'self')
  const status = { status: 'app.bsky.actor.status#live', createdAt }
  await ada.create('app.bsky.actor.status', status, 'self')
  const allowSubscriptions = 'followers'
  await ada.create('app.bsky.notification.declaration', { allowSubscriptions }, 'self')
  await ada.create('chat.bsky.actor.declaration', { allowIncoming: 42 }, 'self')
  const germ = { version: '1.1.0', currentKey: { $bytes: 'AAEC' } }
  await ada.create('com.germnetwork.declaration', germ, 'self')
}

async function makeGates(ada: Author, bo: Author, { uri: post }: Ref): Promise<void> {
  const rkey = post.slice(post.lastIndexOf('/') + 1)
  await ada.create('app.bsky.feed.threadgate', { post, allow: [], createdAt }, rkey)
  const rule = { $type: 'app.bsky.feed.postgate#disableRule' }
  await ada.create('app.bsky.feed.postgate', { post, embeddingRules: [rule], createdAt }, rkey)
  // Of another's post, and under another key: refused.
  await bo.create('app.bsky.feed.threadgate', { post, createdAt }, rkey)
  await ada.create('app.bsky.feed.postgate', { post, createdAt }, '3kaaaaaaaaaaa')
}

/** Two likes of one post by one account are legal in its repo, and one in the rows. */
async function makeDoubles(
  ada: Author,
  bo: Author,
): Promise<Pick<EveryKind, 'doubled' | 'promoted'>> {
  const collection = 'app.bsky.feed.like'
  const posts: Ref[] = []
  for (const text of ['doubled', 'promoted', 'left', 'moved', 'again']) {
    posts.push(refOf(await ada.create('app.bsky.feed.post', { text, createdAt })))
  }
  const like = (subject: Ref, rkey: string) => bo.create(collection, { subject, createdAt }, rkey)
  const [doubled, promoted, left, moved, again] = posts as [Ref, Ref, Ref, Ref, Ref]

  // The higher key comes first, and has to make room.
  const waiting = await like(doubled, '3kzzzzzzzzzz2')
  const holding = await like(doubled, '3kaaaaaaaaaa2')
  await like(promoted, '3kaaaaaaaaaa3')
  const second = await like(promoted, '3kbbbbbbbbbb3')
  await like(promoted, '3kcccccccccc3')
  await bo.delete(collection, '3kaaaaaaaaaa3')
  await like(left, '3kaaaaaaaaaa4')
  await like(left, '3kbbbbbbbbbb4')
  await bo.delete(collection, '3kbbbbbbbbbb4')
  await like(moved, '3kaaaaaaaaaa5')
  await like(moved, '3kbbbbbbbbbb5')
  await bo.update(collection, '3kaaaaaaaaaa5', { subject: left, createdAt })
  await like(again, '3kaaaaaaaaaa6')
  await bo.delete(collection, '3kaaaaaaaaaa6')
  await like(again, '3kaaaaaaaaaa6')
  await like(again, '3kaaaaaaaaaa7')
  await bo.delete(collection, '3kaaaaaaaaaa7')
  await bo.applyWrites([
    { action: 'create', collection, rkey: '3kaaaaaaaaaa8', record: { subject: again, createdAt } },
    { action: 'delete', collection, rkey: '3kaaaaaaaaaa6' },
  ])
  return {
    doubled: { post: doubled, holding: refOf(holding), waiting: refOf(waiting) },
    promoted: { post: promoted, like: refOf(second) },
  }
}

async function makeOrphans(ada: Author, bo: Author): Promise<EveryKind['orphaned']> {
  const post = await ada.create('app.bsky.feed.post', { text: 'soon gone', createdAt })
  const repost = await bo.create('app.bsky.feed.repost', { subject: refOf(post), createdAt })
  const embed = { $type: 'app.bsky.embed.record', record: refOf(post) }
  const quote = await bo.create('app.bsky.feed.post', { text: 'so true', createdAt, embed })
  await ada.delete('app.bsky.feed.post', post.rkey)
  return { repost: refOf(repost), quote: refOf(quote) }
}

/** What is in the repo and yet not in the rows. */
async function makeRefused(ada: Author, bo: Author): Promise<void> {
  const collection = 'app.bsky.feed.post'
  await ada.create(collection, { text: 'x'.repeat(3001), createdAt })
  await ada.create(collection, { text: 'no time', createdAt: 'yesterday' })
  const was = await ada.create(collection, { text: 'was valid', createdAt })
  await ada.update(collection, was.rkey, { text: 'is not', createdAt, langs: ['not a language!'] })
  const willBe = await ada.create(collection, { text: 1, createdAt })
  await ada.update(collection, willBe.rkey, { text: 'is valid now', createdAt })
  const foreign = `at://${ada.did}/app.bsky.graph.list/3kaaaaaaaaaaa`
  await bo.create('app.bsky.graph.listitem', { subject: ada.did, list: foreign, createdAt })
  await ada.create('app.bsky.unheard.of', { createdAt })
  await ada.create('com.example.thing', { createdAt })
}

async function makeLabels(
  { labeler }: Stage<Author>,
  ada: Author,
  { uri, cid }: Ref,
): Promise<void> {
  await labeler.label(
    { uri, cid, val: 'spam' },
    { uri, val: 'rude' },
    { uri: ada.did, val: 'spam' },
  )
  await labeler.label({ uri, val: 'rude', neg: true })
  await labeler.label({ uri: ada.did, val: 'spam', exp: '2030-01-01T00:00:00Z' })
  // Told late: an older statement changes nothing.
  await labeler.label({ uri, val: 'rude', cts: '2025-01-01T00:00:00.000Z' })
}
