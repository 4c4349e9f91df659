/** The cases of the contract that neither the reference's seeds nor every kind of record bring about. */
import type { JsonRecord, Ref } from '../../simulator/account.ts'
import type { ReferenceNetwork } from './network.ts'
import { createPdsAccount, type PdsAccount, xrpc } from './pds.ts'

/** What a declared difference or a call has to name: URIs and DIDs, by what they are an example of. */
export type Marks = Record<string, string>

const post = 'app.bsky.feed.post'
const now = () => new Date().toISOString()
const refOf = ({ uri, cid }: Ref): Ref => ({ uri, cid })
const rkeyOf = (uri: string) => uri.slice(uri.lastIndexOf('/') + 1)

const write = async (by: PdsAccount, text: string, more: JsonRecord = {}): Promise<Ref> =>
  refOf(await by.create(post, { text, createdAt: now(), ...more }))

const answer = (by: PdsAccount, text: string, root: Ref, parent: Ref = root): Promise<Ref> =>
  write(by, text, { reply: { root, parent } })

const quote = (by: PdsAccount, text: string, record: Ref): Promise<Ref> =>
  write(by, text, { embed: { $type: 'app.bsky.embed.record', record } })

const follow = (by: PdsAccount, subject: string) =>
  by.create('app.bsky.graph.follow', { subject, createdAt: now() })

export interface Cast {
  gina: PdsAccount
  hugo: PdsAccount
  ines: PdsAccount
  jona: PdsAccount
}

/** Plays what ours and the reference take alike. */
export async function playAlike(network: ReferenceNetwork, marks: Marks): Promise<Cast> {
  const cast = await makeCast(network)
  for (const [name, { did }] of Object.entries(cast)) marks[name] = did
  await gates(cast, marks)
  await threads(cast, marks)
  await embeddingRules(cast, marks)
  await notifications(cast, marks, (handle) => createPdsAccount(network, handle))
  await privateData(cast, marks)
  await moderation(network, cast, marks)
  await handles(network, marks)
  await statuses(network, cast, marks)
  return cast
}

/** Plays what ours takes otherwise, on purpose. */
export async function playApart(network: ReferenceNetwork, cast: Cast, marks: Marks) {
  await laterGates(cast, marks)
  await laterNotifications(cast, marks)
  await threadMutes(cast, marks)
  await updates(cast, marks)
  await outOfScope(network, marks)
  await importedRepo(network, cast, marks)
  await deletion(network, cast, marks)
}

async function makeCast(network: ReferenceNetwork): Promise<Cast> {
  const gina = await createPdsAccount(network, 'gina.test')
  const hugo = await createPdsAccount(network, 'hugo.test')
  const ines = await createPdsAccount(network, 'ines.test')
  const jona = await createPdsAccount(network, 'jona.test')
  for (const account of [gina, hugo, ines, jona]) {
    const face = { displayName: `${account.handle} of the cases`, createdAt: now() }
    await account.create('app.bsky.actor.profile', face, 'self')
  }
  // Gina follows Hugo, and Ines follows Gina; Jona is on her list.
  await follow(gina, hugo.did)
  await follow(ines, gina.did)
  return { gina, hugo, ines, jona }
}

/** Every rule of a threadgate, with somebody it lets in and somebody it does not. */
async function gates({ gina, hugo, ines, jona }: Cast, marks: Marks): Promise<void> {
  const list = await gina.create('app.bsky.graph.list', {
    name: 'may answer',
    purpose: 'app.bsky.graph.defs#curatelist',
    createdAt: now(),
  })
  marks['gate:list'] = list.uri
  const member = { subject: jona.did, list: list.uri, createdAt: now() }
  await gina.create('app.bsky.graph.listitem', member)
  const rule = (name: string, more: JsonRecord = {}) => ({
    $type: `app.bsky.feed.threadgate#${name}Rule`,
    ...more,
  })
  const mention = {
    index: { byteStart: 0, byteEnd: 5 },
    features: [{ $type: 'app.bsky.richtext.facet#mention', did: ines.did }],
  }
  const rules: readonly [name: string, gate: JsonRecord, more?: JsonRecord][] = [
    ['nobody', { allow: [] }],
    ['everybody', {}],
    ['mentioned', { allow: [rule('mention')] }, { facets: [mention] }],
    ['followed', { allow: [rule('following')] }],
    ['follower', { allow: [rule('follower')] }],
    ['listed', { allow: [rule('list', { list: list.uri })] }],
    ['either', { allow: [rule('mention'), rule('following')] }],
  ]
  for (const [name, gate, more = {}] of rules) {
    const root = await write(gina, `gate: ${name}`, more)
    marks[`gate:${name}`] = root.uri
    const record = { post: root.uri, createdAt: now(), ...gate }
    await gina.create('app.bsky.feed.threadgate', record, rkeyOf(root.uri))
    const fromHugo = await answer(hugo, `hugo to ${name}`, root)
    const fromInes = await answer(ines, `ines to ${name}`, root)
    const fromJona = await answer(jona, `jona to ${name}`, root, fromHugo)
    marks[`gate:${name}:replies`] = [fromHugo, fromInes, fromJona].map(({ uri }) => uri).join(' ')
    await answer(gina, `gina to ${name}`, root, fromHugo)
  }
  // A reply that its root's gate hides: nobody above it hears of what is said below it.
  const root = await write(gina, 'gate: hidden')
  const hidden = await answer(hugo, 'to be hidden', root)
  await gina.create(
    'app.bsky.feed.threadgate',
    { post: root.uri, hiddenReplies: [hidden.uri], createdAt: now() },
    rkeyOf(root.uri),
  )
  await answer(ines, 'below what is hidden', root, hidden)
  marks['gate:hidden'] = root.uri
}

/** Replies of every depth, and those that do not belong where they say. */
async function threads({ gina, hugo, ines, jona }: Cast, marks: Marks): Promise<void> {
  const root = await write(gina, 'a long thread')
  marks['thread:root'] = root.uri
  let parent = root
  for (const [index, by] of [hugo, ines, jona, gina, hugo, ines, jona].entries()) {
    parent = await answer(by, `level ${index + 1}`, root, parent)
  }
  marks['thread:leaf'] = parent.uri
  const other = await write(hugo, 'another root')
  await answer(ines, 'root of another thread', other, parent)
  const nested = await answer(ines, 'a reply', root)
  await answer(jona, 'takes a reply for a root', nested, nested)
  const unknown = { uri: `at://${gina.did}/${post}/3kzzzzzzzzzz2`, cid: nested.cid }
  marks['thread:unknown'] = unknown.uri
  const orphan = await answer(jona, 'to what nobody knows', unknown)
  await answer(hugo, 'below an orphan', unknown, orphan)
  // The parent goes, its replies stay; the author's own reply leaves its mark.
  const own = await answer(gina, 'own reply, to go', root)
  await answer(hugo, 'to the own reply', root, own)
  await gina.delete(post, rkeyOf(own.uri))
  const below = await answer(hugo, 'to what is gone', root, own)
  marks['thread:below-gone'] = below.uri
}

async function embeddingRules({ gina, hugo, ines }: Cast, marks: Marks): Promise<void> {
  const closed = await write(gina, 'not to be quoted')
  marks['postgate:closed'] = closed.uri
  const disable = { $type: 'app.bsky.feed.postgate#disableRule' }
  const gate = { post: closed.uri, embeddingRules: [disable], createdAt: now() }
  await gina.create('app.bsky.feed.postgate', gate, rkeyOf(closed.uri))
  await quote(hugo, 'quoted all the same', closed)
  await quote(gina, 'my own', closed)
  const open = await write(gina, 'to be quoted')
  marks['postgate:open'] = open.uri
  const quoting = await quote(ines, 'how true', open)
  const detach = { post: open.uri, detachedEmbeddingUris: [quoting.uri], createdAt: now() }
  await gina.create('app.bsky.feed.postgate', detach, rkeyOf(open.uri))
  await quote(hugo, 'quoted and answered', open)
  const list = await ines.create('app.bsky.graph.list', {
    name: 'quoted',
    purpose: 'app.bsky.graph.defs#modlist',
    createdAt: now(),
  })
  await quote(hugo, 'a list', refOf(list))
}

async function notifications(
  { gina, hugo, ines, jona }: Cast,
  marks: Marks,
  arrive: (handle: string) => Promise<PdsAccount>,
): Promise<void> {
  const root = await write(gina, 'to be liked')
  marks['notify:root'] = root.uri
  const mention = (did: string) => ({
    index: { byteStart: 0, byteEnd: 1 },
    features: [{ $type: 'app.bsky.richtext.facet#mention', did }],
  })
  // Mention before quote before reply: one notification for each.
  await write(hugo, '@gina @ines @hugo', {
    facets: [mention(gina.did), mention(ines.did), mention(hugo.did), mention(gina.did)],
    embed: { $type: 'app.bsky.embed.record', record: root },
    reply: { root, parent: root },
  })
  const about = (subject: unknown, more: JsonRecord = {}) => ({
    subject,
    createdAt: now(),
    ...more,
  })
  const repost = refOf(await hugo.create('app.bsky.feed.repost', about(root)))
  await ines.create('app.bsky.feed.like', about(root, { via: repost }))
  await jona.create('app.bsky.feed.repost', about(root, { via: repost }))
  await gina.create('app.bsky.feed.like', about(root))
  await gina.create('app.bsky.feed.repost', about(root, { via: repost }))
  await follow(gina, gina.did)
  const liked = await ines.create('app.bsky.feed.like', about(repost))
  await ines.delete('app.bsky.feed.like', liked.rkey)
  // What is taken back takes its notification with it.
  const taken = await jona.create('app.bsky.feed.like', about(root))
  await jona.delete('app.bsky.feed.like', taken.rkey)
  const pack = refOf(
    await gina.create('app.bsky.graph.starterpack', {
      name: 'Begin here',
      list: (
        await gina.create('app.bsky.graph.list', {
          name: 'reference',
          purpose: 'app.bsky.graph.defs#referencelist',
          createdAt: now(),
        })
      ).uri,
      createdAt: now(),
    }),
  )
  marks['starterpack'] = pack.uri
  marks['starterpack:cid'] = pack.cid
  const kim = await arrive('kim.test')
  const joined = { displayName: 'joined', joinedViaStarterPack: pack, createdAt: now() }
  await kim.create('app.bsky.actor.profile', joined, 'self')
  const seal = { subject: ines.did, handle: ines.handle, displayName: 'I', createdAt: now() }
  const sealed = await gina.create('app.bsky.graph.verification', seal)
  await gina.delete('app.bsky.graph.verification', sealed.rkey)
  await gina.create('app.bsky.graph.verification', { ...seal, subject: hugo.did })
}

/** Gates that come after what they are about, change, and go. */
async function laterGates({ gina, hugo, jona }: Cast, marks: Marks): Promise<void> {
  const changed = await write(gina, 'gate: changed')
  const gate = { post: changed.uri, allow: [], createdAt: now() }
  await gina.create('app.bsky.feed.threadgate', gate, rkeyOf(changed.uri))
  const tooEarly = await answer(hugo, 'too early', changed)
  marks['gate:too-early'] = tooEarly.uri
  await gina.update('app.bsky.feed.threadgate', rkeyOf(changed.uri), {
    ...gate,
    allow: [{ $type: 'app.bsky.feed.threadgate#followingRule' }],
  })
  await answer(hugo, 'in time', changed)
  await gina.delete('app.bsky.feed.threadgate', rkeyOf(changed.uri))
  await answer(jona, 'to what has no gate', changed)
  marks['gate:changed'] = changed.uri
  const late = await write(gina, 'gate: late')
  marks['gate:late'] = late.uri
  const early = await answer(hugo, 'before the gate', late)
  marks['gate:early'] = early.uri
  const lateGate = { post: late.uri, allow: [], createdAt: now() }
  await gina.create('app.bsky.feed.threadgate', lateGate, rkeyOf(late.uri))
  const closed = await write(gina, 'postgate: taken away')
  marks['postgate:gone'] = closed.uri
  const gone = { post: closed.uri, createdAt: now() }
  await gina.create('app.bsky.feed.postgate', gone, rkeyOf(closed.uri))
  await gina.delete('app.bsky.feed.postgate', rkeyOf(closed.uri))
}

/** Records that change after they have been told of. */
async function laterNotifications({ gina, ines, jona }: Cast, marks: Marks): Promise<void> {
  const pack = { uri: marks['starterpack'], cid: marks['starterpack:cid'] }
  const joined = { displayName: 'joined', joinedViaStarterPack: pack, createdAt: now() }
  await jona.update('app.bsky.actor.profile', 'self', joined)
  marks['joined-later'] = `at://${jona.did}/app.bsky.actor.profile/self`
  const seal = { subject: ines.did, handle: ines.handle, displayName: 'I', createdAt: now() }
  const sealed = await gina.create('app.bsky.graph.verification', seal)
  marks['sealed-again'] = sealed.uri
  await gina.update('app.bsky.graph.verification', sealed.rkey, { ...seal, displayName: 'Ines' })
  await gina.delete('app.bsky.graph.verification', sealed.rkey)
}

/** Who has muted a thread hears nothing of it; the post is stored all the same. */
async function threadMutes({ gina, hugo, ines }: Cast, marks: Marks): Promise<void> {
  const root = await write(gina, 'a tiring thread')
  marks['mute:root'] = root.uri
  await gina.call('app.bsky.graph.muteThread', { root: root.uri })
  const alone = await answer(hugo, 'nobody is told', root)
  marks['mute:alone'] = alone.uri
  await answer(ines, 'Hugo is told, Gina is not', root, alone)
  const liked = await hugo.create('app.bsky.feed.like', { subject: root, createdAt: now() })
  marks['mute:like'] = liked.uri
  await gina.call('app.bsky.graph.unmuteThread', { root: root.uri })
  await answer(hugo, 'Gina is told again', root)
}

/** What the AppView keeps by itself beside our tables, and a feed. */
async function privateData({ gina, hugo, ines }: Cast, marks: Marks): Promise<void> {
  const feed = { did: 'did:web:feeds.example', displayName: 'Was', createdAt: now() }
  await ines.create('app.bsky.feed.generator', feed, 'feed')
  await ines.update('app.bsky.feed.generator', 'feed', { ...feed, displayName: 'Is' })
  marks['feed'] = `at://${ines.did}/app.bsky.feed.generator/feed`
  const saved = await write(hugo, 'to be kept')
  marks['bookmarked'] = saved.uri
  await gina.call('app.bsky.bookmark.createBookmark', { ...saved })
  await gina.create('app.bsky.feed.like', { subject: saved, createdAt: now() })
  await ines.call('app.bsky.graph.muteActor', { actor: hugo.did })
  const list = await ines.create('app.bsky.graph.list', {
    name: 'muted',
    purpose: 'app.bsky.graph.defs#modlist',
    createdAt: now(),
  })
  const member = { subject: gina.did, list: list.uri, createdAt: now() }
  await ines.create('app.bsky.graph.listitem', member)
  await ines.call('app.bsky.graph.muteActorList', { list: list.uri })
}

/** A record of each kind changes what it is about. */
async function updates({ gina, hugo, ines, jona }: Cast, marks: Marks): Promise<void> {
  const one = await write(gina, 'first subject')
  const two = await write(gina, 'second subject')
  marks['updates:one'] = one.uri
  marks['updates:two'] = two.uri
  const about = (subject: unknown) => ({ subject, createdAt: now() })
  const moves: readonly [collection: string, from: JsonRecord, to: JsonRecord][] = [
    ['app.bsky.feed.like', about(one), about(two)],
    ['app.bsky.feed.repost', about(one), about(two)],
    ['app.bsky.graph.follow', about(ines.did), about(jona.did)],
    ['app.bsky.graph.block', about(ines.did), about(jona.did)],
  ]
  for (const [collection, from, to] of moves) {
    const made = await hugo.create(collection, from)
    marks[`updates:${collection.split('.').at(-1)}`] = made.uri
    await hugo.update(collection, made.rkey, to)
  }
  const edited = await write(ines, 'before', {
    embed: { $type: 'app.bsky.embed.record', record: one },
  })
  marks['updates:edited'] = edited.uri
  await hugo.create('app.bsky.feed.like', about(edited))
  const external = { uri: 'https://b.example/', title: 'B', description: 'after' }
  await ines.update(post, rkeyOf(edited.uri), {
    text: 'after',
    tags: ['changed'],
    createdAt: now(),
    reply: { root: two, parent: two },
    embed: { $type: 'app.bsky.embed.external', external },
  })
  const list = await ines.create('app.bsky.graph.list', {
    name: 'was',
    purpose: 'app.bsky.graph.defs#curatelist',
    createdAt: now(),
  })
  marks['updates:list'] = list.uri
  await ines.update('app.bsky.graph.list', list.rkey, {
    name: 'is',
    purpose: 'app.bsky.graph.defs#modlist',
    description: 'changed',
    createdAt: now(),
  })
  await jona.create('app.bsky.graph.listblock', about(list.uri))
  await jona.create('app.bsky.graph.listblock', about(marks['updates:list']))
  await ines.create(
    'app.bsky.labeler.service',
    { policies: { labelValues: [] }, createdAt: now() },
    'self',
  )
  await ines.delete('app.bsky.labeler.service', 'self')
}

/** Labels by ozone, and takedowns by the operator of the AppView. */
async function moderation(network: ReferenceNetwork, { gina, hugo }: Cast, marks: Marks) {
  const labelled = await write(gina, 'to be labelled')
  marks['labelled'] = labelled.uri
  const label = (create: string[], negate: string[]) => ({
    $type: 'tools.ozone.moderation.defs#modEventLabel',
    createLabelVals: create,
    negateLabelVals: negate,
  })
  const strong = { $type: 'com.atproto.repo.strongRef', ...labelled } as const
  const account = { $type: 'com.atproto.admin.defs#repoRef', did: hugo.did } as const
  await network.moderate(label(['spam', 'rude'], []), strong)
  await network.moderate(label([], ['rude']), strong)
  await network.moderate(label(['misleading'], []), account)
  await network.moderate(label([], ['misleading']), account)
  await network.moderate(label(['misleading'], []), account)
  const removed = await write(gina, 'to be taken down')
  marks['taken-down'] = removed.uri
  const subject = { $type: 'com.atproto.repo.strongRef', ...removed }
  const body = { subject, takedown: { applied: true, ref: 'test' } }
  const headers = adminHeaders(network)
  for (const view of [network.bsky, network.peer]) {
    await xrpc(view, 'com.atproto.admin.updateSubjectStatus', { body, headers })
  }
}

/** Commits that hold nothing of what is indexed. */
async function outOfScope(network: ReferenceNetwork, marks: Marks): Promise<void> {
  const kurt = await createPdsAccount(network, 'kurt.test')
  marks['out-of-scope'] = kurt.did
  await write(kurt, 'in scope')
  await kurt.create('com.example.calendar.event', { name: 'not ours' })
}

async function handles(network: ReferenceNetwork, marks: Marks): Promise<void> {
  const lena = await createPdsAccount(network, 'lena.test')
  const moritz = await createPdsAccount(network, 'moritz.test')
  marks['renamed'] = lena.did
  marks['inherited'] = moritz.did
  await write(lena, 'under her first name')
  await lena.call('com.atproto.identity.updateHandle', { handle: 'Lena-Two.test' })
  // The name that she left goes to somebody else.
  await moritz.call('com.atproto.identity.updateHandle', { handle: 'lena.test' })
  await write(moritz, 'under her first name as well')
}

/** Accounts that rest, are suspended, and return. */
async function statuses(network: ReferenceNetwork, { gina }: Cast, marks: Marks): Promise<void> {
  const names = ['rests', 'rested', 'suspended', 'pardoned'] as const
  const accounts = {} as Record<(typeof names)[number], PdsAccount>
  for (const name of names) {
    const account = await createPdsAccount(network, `${name}.test`)
    accounts[name] = account
    marks[`status:${name}`] = account.did
    await write(account, `by one who ${name}`)
    await follow(account, gina.did)
  }
  const takedown = async (account: PdsAccount, applied: boolean) => {
    const subject = { $type: 'com.atproto.admin.defs#repoRef', did: account.did }
    const body = { subject, takedown: { applied, ref: 'test' } }
    const headers = adminHeaders(network)
    await xrpc(network.pds, 'com.atproto.admin.updateSubjectStatus', { body, headers })
    await network.settle()
  }
  await accounts.rests.call('com.atproto.server.deactivateAccount', {})
  await accounts.rested.call('com.atproto.server.deactivateAccount', {})
  await accounts.rested.call('com.atproto.server.activateAccount')
  await write(accounts.rested, 'back again')
  await takedown(accounts.suspended, true)
  await takedown(accounts.pardoned, true)
  await takedown(accounts.pardoned, false)
  await write(accounts.pardoned, 'and back')
}

/** A repo goes back to an older state while its account rests: no commit tells of it. */
async function importedRepo(network: ReferenceNetwork, { gina }: Cast, marks: Marks) {
  const nora = await createPdsAccount(network, 'nora.test')
  marks['imported'] = nora.did
  const kept = await write(nora, 'before the import')
  const lost = await write(nora, 'deleted, and brought back by the import')
  marks['imported:back'] = lost.uri
  const exported = await fetch(`${network.pds}/xrpc/com.atproto.sync.getRepo?did=${nora.did}`)
  const car = new Uint8Array(await exported.arrayBuffer())
  await nora.delete(post, rkeyOf(lost.uri))
  const late = await write(nora, 'written after the export, and gone with the import')
  marks['imported:gone'] = late.uri
  await gina.create('app.bsky.feed.like', { subject: late, createdAt: now() })
  await gina.create('app.bsky.feed.like', { subject: kept, createdAt: now() })
  await nora.call('com.atproto.server.deactivateAccount', {})
  await nora.send('com.atproto.repo.importRepo', car, 'application/vnd.ipld.car')
  await nora.call('com.atproto.server.activateAccount')
  // What the PDS says of the import has the older rev, and is refused; this shows that the chain is broken.
  await write(nora, 'after the import')
}

/** An account with a record of every kind goes, and others had to do with it. */
async function deletion(network: ReferenceNetwork, { gina, hugo, ines }: Cast, marks: Marks) {
  const olga = await createPdsAccount(network, 'olga.test')
  marks['deleted'] = olga.did
  const root = await write(gina, 'to the one who leaves')
  marks['deleted:liked'] = root.uri
  const about = (subject: unknown) => ({ subject, createdAt: now() })
  await olga.create('app.bsky.actor.profile', { displayName: 'Olga', createdAt: now() }, 'self')
  const own = await write(olga, 'soon gone')
  marks['deleted:post'] = own.uri
  const images = [{ image: { $type: 'blob', mimeType: 'image/jpeg' }, alt: '' }]
  await write(olga, 'a picture', { embed: { $type: 'app.bsky.embed.images', images } })
  await answer(olga, 'a reply', root)
  await answer(olga, 'my own thread', own)
  await quote(olga, 'a quote', root)
  await olga.create('app.bsky.feed.like', about(root))
  await olga.create('app.bsky.feed.repost', about(root))
  await follow(olga, gina.did)
  await follow(hugo, olga.did)
  await ines.create('app.bsky.feed.like', about(own))
  await hugo.create('app.bsky.feed.repost', about(own))
  await answer(hugo, 'to one who leaves', own)
  await quote(ines, 'of one who leaves', own)
  await olga.create('app.bsky.graph.block', about(ines.did))
  const list = await olga.create('app.bsky.graph.list', {
    name: 'hers',
    purpose: 'app.bsky.graph.defs#modlist',
    createdAt: now(),
  })
  const member = { subject: hugo.did, list: list.uri, createdAt: now() }
  await olga.create('app.bsky.graph.listitem', member)
  await olga.create('app.bsky.graph.listblock', about(list.uri))
  const pack = { name: 'hers', list: list.uri, createdAt: now() }
  await olga.create('app.bsky.graph.starterpack', pack)
  const seal = { subject: hugo.did, handle: hugo.handle, displayName: 'H', createdAt: now() }
  await olga.create('app.bsky.graph.verification', seal)
  const feed = { did: 'did:web:feeds.example', displayName: 'Hers', createdAt: now() }
  await olga.create('app.bsky.feed.generator', feed, 'hers')
  await olga.create(
    'app.bsky.feed.threadgate',
    { post: own.uri, createdAt: now() },
    rkeyOf(own.uri),
  )
  await olga.create('app.bsky.feed.postgate', { post: own.uri, createdAt: now() }, rkeyOf(own.uri))
  await xrpc(network.pds, 'com.atproto.admin.deleteAccount', {
    body: { did: olga.did },
    headers: adminHeaders(network),
  })
  await network.settle()
}

export function adminHeaders({ adminPassword }: ReferenceNetwork): Record<string, string> {
  const basic = Buffer.from(`admin:${adminPassword}`).toString('base64')
  return { authorization: `Basic ${basic}` }
}
