/** The collections under app.bsky.feed. */
import { blobCid } from '../blob.ts'
import { type Child, defineCollection, type Subject } from '../collection.ts'
import { earlier, normaliseTime } from '../timestamp.ts'
import { authorOf, partsOf } from '../uri.ts'

interface StrongRef {
  uri: string
  cid: string
}

interface Image {
  image: unknown
  alt: string
}

interface Embed {
  $type: string
  images?: readonly Image[]
  items?: readonly (Image & { $type: string })[]
  external?: { uri: string; title: string; description: string; thumb?: unknown }
  /** Of an `embed.record` the reference itself, of a `recordWithMedia` another embed. */
  record?: StrongRef | { record: StrongRef }
  media?: Embed
  video?: unknown
  alt?: string
}

interface Post {
  text: string
  createdAt: string
  reply?: { root: StrongRef; parent: StrongRef }
  embed?: Embed
  langs?: readonly string[]
  tags?: readonly string[]
}

interface Reaction {
  subject: StrongRef
  via?: StrongRef
  createdAt: string
}

interface Gate {
  post: string
  createdAt: string
}

interface Generator {
  did: string
  displayName: string
  description?: string
  descriptionFacets?: unknown
  avatar?: unknown
  createdAt: string
}

const postNsid = 'app.bsky.feed.post'

const mediaOf = ({ embed }: Post): Embed | undefined =>
  embed?.$type === 'app.bsky.embed.recordWithMedia' ? embed.media : embed

function mediaOfType(post: Post, type: string): Embed | undefined {
  const media = mediaOf(post)
  return media?.$type === type ? media : undefined
}

function embeddedRecord({ embed }: Post): StrongRef | undefined {
  const record = embed?.record
  if (record === undefined) return undefined
  if (embed?.$type === 'app.bsky.embed.record' && 'uri' in record) return record
  if (embed?.$type === 'app.bsky.embed.recordWithMedia' && 'record' in record) return record.record
  return undefined
}

function quotedPost(post: Post): StrongRef | undefined {
  const record = embeddedRecord(post)
  return record && partsOf(record.uri).collection === postNsid ? record : undefined
}

const imageRow = (at: Subject, { image, alt }: Image, position: number) => ({
  postUri: at.uri,
  position,
  imageCid: blobCid(image),
  alt,
})

const embeds: readonly Child<Post>[] = [
  {
    table: 'post_embed_image',
    key: 'postUri',
    rows: (post, at) =>
      (mediaOfType(post, 'app.bsky.embed.images')?.images ?? []).map((image, position) =>
        imageRow(at, image, position),
      ),
  },
  {
    table: 'post_embed_gallery_image',
    key: 'postUri',
    // The position counts every item, so that a later kind of item leaves a gap.
    rows: (post, at) =>
      (mediaOfType(post, 'app.bsky.embed.gallery')?.items ?? []).flatMap((item, position) =>
        item.$type === 'app.bsky.embed.gallery#image' ? [imageRow(at, item, position)] : [],
      ),
  },
  {
    table: 'post_embed_external',
    key: 'postUri',
    rows: (post, at) => {
      const external = mediaOfType(post, 'app.bsky.embed.external')?.external
      if (external === undefined) return []
      const { uri, title, description, thumb } = external
      return [{ postUri: at.uri, uri, title, description, thumbCid: blobCid(thumb) }]
    },
  },
  {
    table: 'post_embed_video',
    key: 'postUri',
    rows: (post, at) => {
      const embed = mediaOfType(post, 'app.bsky.embed.video')
      if (embed === undefined) return []
      return [{ postUri: at.uri, videoCid: blobCid(embed.video), alt: embed.alt ?? null }]
    },
  },
  {
    table: 'post_embed_record',
    key: 'postUri',
    rows: (post, at) => {
      const record = embeddedRecord(post)
      return record ? [{ postUri: at.uri, embedUri: record.uri, embedCid: record.cid }] : []
    },
  },
]

export const post = defineCollection<Post>()({
  nsid: postNsid,
  rows: {
    table: 'post',
    columns: ({ text, reply, langs, tags, createdAt }) => ({
      text,
      replyRoot: reply?.root.uri ?? null,
      replyRootCid: reply?.root.cid ?? null,
      replyParent: reply?.parent.uri ?? null,
      replyParentCid: reply?.parent.cid ?? null,
      langs: langs?.length ? langs : null,
      tags: tags?.length ? tags : null,
      createdAt: normaliseTime(createdAt),
    }),
    json: ['langs', 'tags'],
    counts: [
      {
        table: 'post_agg',
        column: 'replyCount',
        key: 'replyParent',
        unless: 'violatesThreadGate',
      },
      { table: 'profile_agg', column: 'postsCount', key: 'creator' },
    ],
    // Whom a post tells depends on gates and on the thread: see rules/notices.ts.
    touches: { kind: 'post', key: 'uri', when: 'came' },
    children: [
      ...embeds,
      {
        table: 'quote',
        key: 'uri',
        rows: (record, { uri, cid, indexedAt }) => {
          const quoted = quotedPost(record)
          if (quoted === undefined) return []
          const { uri: subject, cid: subjectCid } = quoted
          return [
            {
              uri,
              cid,
              subject,
              subjectCid,
              createdAt: normaliseTime(record.createdAt),
              indexedAt,
            },
          ]
        },
        counts: [{ table: 'post_agg', column: 'quoteCount', key: 'subject' }],
      },
      {
        table: 'feed_item',
        key: 'uri',
        rows: ({ createdAt }, at) => [feedItem('post', at, at.uri, createdAt)],
      },
      {
        table: 'op_thread_reply',
        key: 'uri',
        // A thread is walked through deleted replies too.
        softDelete: { column: 'deletedAt', key: { rootUri: 'replyRoot', uri: 'uri' } },
        rows: ({ reply }, { uri, did }) =>
          reply && authorOf(reply.root.uri) === did
            ? [{ rootUri: reply.root.uri, uri, parentUri: reply.parent.uri }]
            : [],
      },
    ],
  },
})

const reactionColumns = ({ subject, via, createdAt }: Reaction) => ({
  subject: subject.uri,
  subjectCid: subject.cid,
  via: via?.uri ?? null,
  viaCid: via?.cid ?? null,
  createdAt: normaliseTime(createdAt),
})

export const like = defineCollection<Reaction>()({
  nsid: 'app.bsky.feed.like',
  rows: {
    table: 'like',
    columns: reactionColumns,
    unique: ['subject', 'creator'],
    counts: [{ table: 'post_agg', column: 'likeCount', key: 'subject' }],
    notify: [
      { reason: 'like', authorOf: 'subject' },
      { reason: 'like-via-repost', authorOf: 'via', unlessBy: 'subject' },
    ],
  },
})

export const repost = defineCollection<Reaction>()({
  nsid: 'app.bsky.feed.repost',
  rows: {
    table: 'repost',
    columns: reactionColumns,
    unique: ['creator', 'subject'],
    counts: [{ table: 'post_agg', column: 'repostCount', key: 'subject' }],
    notify: [
      { reason: 'repost', authorOf: 'subject' },
      { reason: 'repost-via-repost', authorOf: 'via', unlessBy: 'subject' },
    ],
    children: [
      {
        table: 'feed_item',
        key: 'uri',
        rows: ({ subject, createdAt }, at) => [feedItem('repost', at, subject.uri, createdAt)],
      },
    ],
  },
})

function feedItem(type: 'post' | 'repost', at: Subject, postUri: string, createdAt: string) {
  const { uri, cid, did, indexedAt } = at
  const sortAt = earlier(normaliseTime(createdAt), indexedAt)
  return { uri, cid, type, postUri, originatorDid: did, sortAt }
}

/** A gate belongs to the post of its own account and key. */
const refuseForeignPost = ({ post }: Gate, { did, rkey }: Subject): string | null => {
  const parts = partsOf(post)
  return parts.authority === did && parts.rkey === rkey ? null : 'foreign-post'
}

const gateColumns = ({ post, createdAt }: Gate) => ({
  postUri: post,
  createdAt: normaliseTime(createdAt),
})

export const threadgate = defineCollection<Gate>()({
  nsid: 'app.bsky.feed.threadgate',
  refuse: refuseForeignPost,
  rows: {
    table: 'thread_gate',
    columns: gateColumns,
    unique: ['postUri'],
    touches: { kind: 'thread', key: 'postUri', when: 'changed' },
  },
})

export const postgate = defineCollection<Gate>()({
  nsid: 'app.bsky.feed.postgate',
  refuse: refuseForeignPost,
  rows: {
    table: 'post_gate',
    columns: gateColumns,
    unique: ['postUri'],
    touches: { kind: 'quotes', key: 'postUri', when: 'changed' },
  },
})

export const generator = defineCollection<Generator>()({
  nsid: 'app.bsky.feed.generator',
  rows: {
    table: 'feed_generator',
    columns: ({ did, displayName, description, descriptionFacets, avatar, createdAt }) => ({
      feedDid: did,
      displayName: displayName,
      description: description ?? null,
      descriptionFacets: descriptionFacets ? JSON.stringify(descriptionFacets) : null,
      avatarCid: blobCid(avatar),
      createdAt: normaliseTime(createdAt),
    }),
  },
})
