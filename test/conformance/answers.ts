/** Two AppViews asked the same: the calls, and where the answers differ. */
import type { Marks } from './cases.ts'
import type { ReferenceNetwork } from './network.ts'

type Params = Readonly<Record<string, string | number | readonly string[]>>

export interface Call {
  method: string
  params: Params
  /** The name in the marks of the account that asks; null for nobody. */
  viewer: string | null
  /** The declared difference that the answers show. */
  because?: string
}

export interface CallDifference {
  kind: 'answer'
  call: Call
  ours: Answer
  theirs: Answer
}

export interface Answers {
  asked: number
  /** Calls that the reference answers with 200. */
  ok: number
  differences: readonly CallDifference[]
}

interface Answer {
  status: number
  body: string
}

/** What a reader of the AppView asks for, about what the seeds and the cases have left: the same from both. */
export function callsAlike(marks: Marks): Call[] {
  const at = (name: string) => markOf(marks, name)
  const actors = ['basic:alice', 'likes:bob', 'gina', 'ines', 'hugo', 'follows:alice'].map(at)
  const posts = ['gate:nobody', 'gate:followed', 'gate:listed', 'gate:either', 'postgate:closed']
  const threads = [...posts, 'gate:hidden', 'thread:root', 'thread:leaf', 'thread:below-gone'].map(
    at,
  )
  const about: Omit<Call, 'viewer'>[] = [
    ...actors.flatMap((actor) => [
      { method: 'app.bsky.actor.getProfile', params: { actor } },
      { method: 'app.bsky.feed.getAuthorFeed', params: { actor, limit: 50 } },
      { method: 'app.bsky.graph.getFollows', params: { actor } },
      { method: 'app.bsky.graph.getFollowers', params: { actor } },
      { method: 'app.bsky.graph.getLists', params: { actor } },
      { method: 'app.bsky.graph.getActorStarterPacks', params: { actor } },
      { method: 'app.bsky.feed.getActorFeeds', params: { actor } },
    ]),
    ...threads.flatMap((uri) => [
      { method: 'app.bsky.feed.getPostThread', params: { uri } },
      { method: 'app.bsky.unspecced.getPostThreadV2', params: { anchor: uri } },
    ]),
    { method: 'app.bsky.actor.getProfiles', params: { actors } },
    ...['status:rests', 'status:rested', 'status:suspended', 'renamed', 'inherited'].map(
      (name) => ({
        method: 'app.bsky.actor.getProfile',
        params: { actor: at(name) },
      }),
    ),
    { method: 'app.bsky.actor.getProfile', params: { actor: 'lena.test' } },
    { method: 'app.bsky.feed.getPosts', params: { uris: [...posts.map(at), at('labelled')] } },
    { method: 'app.bsky.feed.getPosts', params: { uris: [at('taken-down'), at('bookmarked')] } },
    ...['notify:root', 'thread:root'].flatMap((name) => [
      { method: 'app.bsky.feed.getLikes', params: { uri: at(name) } },
      { method: 'app.bsky.feed.getRepostedBy', params: { uri: at(name) } },
      { method: 'app.bsky.feed.getQuotes', params: { uri: at(name) } },
    ]),
    { method: 'app.bsky.feed.getQuotes', params: { uri: at('postgate:closed') } },
    { method: 'app.bsky.feed.getQuotes', params: { uri: at('postgate:open') } },
    { method: 'app.bsky.graph.getList', params: { list: at('gate:list') } },
    { method: 'app.bsky.graph.getStarterPack', params: { starterPack: at('starterpack') } },
    { method: 'app.bsky.graph.getStarterPacks', params: { uris: [at('starterpack')] } },
    { method: 'app.bsky.feed.getFeedGenerators', params: { feeds: [at('feed')] } },
    {
      method: 'app.bsky.labeler.getServices',
      params: { dids: [at('moderation')] },
    },
    { method: 'app.bsky.actor.searchActors', params: { q: 'cases' } },
    { method: 'app.bsky.actor.searchActorsTypeahead', params: { q: 'ali' } },
    { method: 'app.bsky.feed.searchPosts', params: { q: 'gate', sort: 'latest' } },
  ]
  const own: Omit<Call, 'viewer'>[] = [
    { method: 'app.bsky.feed.getTimeline', params: { limit: 100 } },
    { method: 'app.bsky.notification.listNotifications', params: { limit: 100 } },
    { method: 'app.bsky.notification.getUnreadCount', params: {} },
    { method: 'app.bsky.graph.getBlocks', params: {} },
    { method: 'app.bsky.graph.getMutes', params: {} },
    { method: 'app.bsky.graph.getListBlocks', params: {} },
    { method: 'app.bsky.graph.getListMutes', params: {} },
    { method: 'app.bsky.graph.getKnownFollowers', params: { actor: at('gina') } },
    {
      method: 'app.bsky.graph.getRelationships',
      params: { actor: at('hugo'), others: [at('gina'), at('ines')] },
    },
  ]
  return [
    ...about.map((call) => ({ ...call, viewer: null })),
    ...about.map((call) => ({ ...call, viewer: 'gina' })),
    ...['gina', 'jona', 'hugo', 'basic:alice', 'quotes:bob'].flatMap((viewer) =>
      own.map((call) => ({ ...call, viewer })),
    ),
  ]
}

/** What they are asked that have to answer otherwise, on purpose. */
export function callsApart(marks: Marks): Call[] {
  const thread = 'app.bsky.feed.getPostThread'
  const call = (because: string, method: string, params: Params, viewer: string | null = null) => ({
    ...{ method, params, viewer, because },
  })
  const at = (name: string) => markOf(marks, name)
  return [
    call('all-muted', thread, { uri: at('mute:root') }),
    call('gates-in-any-order', thread, { uri: at('gate:late') }),
    call('sync-repairs', 'app.bsky.feed.getAuthorFeed', { actor: at('imported') }),
    call('nul-in-text', 'app.bsky.feed.getPosts', { uris: [at('every:nul')] }),
    call('update-to-invalid', 'app.bsky.feed.getPosts', { uris: [at('every:was-valid')] }),
    call('deleted-account-leaves-nothing', 'app.bsky.actor.getProfile', { actor: at('gina') }),
  ]
}

function markOf(marks: Marks, name: string): string {
  const mark = marks[name]
  if (mark === undefined) throw new Error(`nothing is marked ${name}`)
  return mark
}

/** Asks both; the answers are compared as text, but for the address of who answers. */
export async function compareAnswers(
  network: ReferenceNetwork,
  marks: Marks,
  asked: readonly Call[],
): Promise<Answers> {
  const differences: CallDifference[] = []
  let ok = 0
  for (const call of asked) {
    const viewer = call.viewer === null ? null : (marks[call.viewer] ?? null)
    const auth = viewer === null ? null : await network.serviceAuth(viewer, call.method)
    const [ours, theirs] = await Promise.all([
      ask(network.peer, call, auth, network.labelers),
      ask(network.bsky, call, auth, network.labelers),
    ])
    if (theirs.status === 200) ok++
    if (ours.status !== theirs.status || ours.body !== theirs.body) {
      differences.push({ kind: 'answer', call, ours, theirs })
    }
  }
  return { asked: asked.length, ok, differences }
}

async function ask(
  view: string,
  { method, params }: Call,
  auth: string | null,
  labelers: readonly string[],
): Promise<Answer> {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(params)) {
    for (const each of [value].flat()) query.append(name, String(each))
  }
  const response = await fetch(`${view}/xrpc/${method}?${query}`, {
    headers: {
      'atproto-accept-labelers': labelers.join(','),
      ...(auth !== null && { authorization: auth }),
    },
  })
  return { status: response.status, body: (await response.text()).replaceAll(view, '') }
}
