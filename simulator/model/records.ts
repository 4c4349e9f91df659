/** What one record becomes in the tables, told collection by collection as the contract tells it. */
import { jsonToLex, lexicons } from '@atproto/api'
import type { ExpectedRecord, JsonRecord } from '../account.ts'

export type Row = Record<string, unknown>
/** A row and the table that it belongs to. */
export type TableRow = [table: string, row: Row]

/** Every collection of which something is stored; of others nothing is. */
export const storedCollections: ReadonlySet<string> = new Set([
  'app.bsky.feed.post',
  'app.bsky.feed.like',
  'app.bsky.feed.repost',
  'app.bsky.feed.threadgate',
  'app.bsky.feed.postgate',
  'app.bsky.feed.generator',
  'app.bsky.graph.follow',
  'app.bsky.graph.block',
  'app.bsky.graph.list',
  'app.bsky.graph.listitem',
  'app.bsky.graph.listblock',
  'app.bsky.graph.referencelistoptout',
  'app.bsky.graph.starterpack',
  'app.bsky.graph.verification',
  'app.bsky.actor.profile',
  'app.bsky.labeler.service',
  'app.bsky.actor.status',
  'app.bsky.notification.declaration',
  'chat.bsky.actor.declaration',
  'com.germnetwork.declaration',
])

/** Of the rows of such a table with equal values here only one is there: that of the lowest URI. */
export const oneRowOf: Readonly<Record<string, readonly string[]>> = {
  like: ['creator', 'subject'],
  repost: ['creator', 'subject'],
  follow: ['creator', 'subjectDid'],
  actor_block: ['creator', 'subjectDid'],
  list_item: ['listUri', 'subjectDid'],
  list_block: ['creator', 'subjectUri'],
  reference_list_opt_out: ['creator', 'subjectUri'],
  thread_gate: ['postUri'],
  post_gate: ['postUri'],
  verification: ['creator', 'subject'],
}

/** Whether a record of a stored collection is stored at all. */
export function isStored({ did, collection, rkey, record }: ExpectedRecord): boolean {
  if (!isValid(collection, record)) return false
  switch (collection) {
    case 'app.bsky.graph.listitem':
      return hostOf(at(record, 'list')) === did
    case 'app.bsky.feed.threadgate':
    case 'app.bsky.feed.postgate': {
      const post = at(record, 'post')
      return hostOf(post) === did && String(post).split('/')[4] === rkey
    }
    default:
      return true
  }
}

function isValid(collection: string, record: JsonRecord): boolean {
  if (collection === 'chat.bsky.actor.declaration') return true
  try {
    lexicons.assertValidRecord(collection, jsonToLex(record))
    return true
  } catch {
    return false
  }
}

/**
 * The rows of a record beside the one in `record`; they depend on the record alone. The reference
 * takes away the quotes of a deleted post and the feed items of its reposts, but only of those that
 * it met before the deletion: here they stay for as long as their own record.
 *
 * The first is that of its collection's table: when a duplicate holds its place, none of them is there.
 */
export function rowsOf(fact: ExpectedRecord, indexedAt: string): TableRow[] {
  const { did, collection, rkey, cid, record } = fact
  const uri = `at://${did}/${collection}/${rkey}`
  const base = { uri, cid, creator: did, indexedAt }
  const createdAt = timeOf(at(record, 'createdAt'))
  const sortAt = createdAt < indexedAt ? createdAt : indexedAt
  const dated = { ...base, createdAt, sortAt }

  switch (collection) {
    case 'app.bsky.feed.post':
      return [['post', { ...dated, ...postColumns(record) }], ...partsOfPost(fact, dated)]
    case 'app.bsky.feed.like':
      return [['like', { ...dated, ...reactionColumns(record) }]]
    case 'app.bsky.feed.repost': {
      const postUri = at(record, 'subject.uri')
      return [
        ['repost', { ...dated, ...reactionColumns(record) }],
        ['feed_item', { uri, cid, type: 'repost', postUri, originatorDid: did, sortAt }],
      ]
    }
    case 'app.bsky.feed.threadgate':
      return [['thread_gate', { ...base, createdAt, postUri: at(record, 'post') }]]
    case 'app.bsky.feed.postgate':
      return [['post_gate', { ...base, createdAt, postUri: at(record, 'post') }]]
    case 'app.bsky.feed.generator':
      return [
        [
          'feed_generator',
          {
            ...dated,
            feedDid: at(record, 'did'),
            displayName: at(record, 'displayName'),
            description: at(record, 'description'),
            descriptionFacets: textOf(at(record, 'descriptionFacets')),
            avatarCid: blobOf(at(record, 'avatar')),
          },
        ],
      ]
    case 'app.bsky.graph.follow':
      return [['follow', { ...dated, subjectDid: at(record, 'subject') }]]
    case 'app.bsky.graph.block':
      return [['actor_block', { ...dated, subjectDid: at(record, 'subject') }]]
    case 'app.bsky.graph.list':
      return [
        [
          'list',
          {
            ...dated,
            name: at(record, 'name'),
            purpose: at(record, 'purpose'),
            description: at(record, 'description'),
            descriptionFacets: textOf(at(record, 'descriptionFacets')),
            avatarCid: blobOf(at(record, 'avatar')),
          },
        ],
      ]
    case 'app.bsky.graph.listitem': {
      const columns = { subjectDid: at(record, 'subject'), listUri: at(record, 'list') }
      return [['list_item', { ...dated, ...columns }]]
    }
    case 'app.bsky.graph.listblock':
      return [['list_block', { ...dated, subjectUri: at(record, 'subject') }]]
    case 'app.bsky.graph.referencelistoptout': {
      const subjectUri = at(record, 'subject')
      const isList = /^at:\/\/did:[^/]+\/app\.bsky\.graph\.list\/[^/?#]+$/.test(String(subjectUri))
      return isList ? [['reference_list_opt_out', { ...dated, subjectUri }]] : []
    }
    case 'app.bsky.graph.starterpack':
      return [['starter_pack', { ...dated, name: at(record, 'name') }]]
    case 'app.bsky.graph.verification':
      return [
        [
          'verification',
          {
            ...base,
            createdAt,
            sortedAt: sortAt,
            rkey,
            subject: at(record, 'subject'),
            handle: at(record, 'handle'),
            displayName: at(record, 'displayName'),
          },
        ],
      ]
    case 'app.bsky.actor.profile':
      if (rkey !== 'self') return []
      return [
        [
          'profile',
          {
            ...base,
            displayName: at(record, 'displayName'),
            description: at(record, 'description'),
            avatarCid: blobOf(at(record, 'avatar')),
            bannerCid: blobOf(at(record, 'banner')),
            joinedViaStarterPackUri: at(record, 'joinedViaStarterPack.uri'),
            // As it stands in the record; of one that does not tell, when it was indexed.
            createdAt: at(record, 'createdAt') ?? indexedAt,
          },
        ],
      ]
    case 'app.bsky.labeler.service':
      return rkey === 'self' ? [['labeler', dated]] : []
    default:
      return []
  }
}

function postColumns(record: JsonRecord): Row {
  return {
    text: at(record, 'text'),
    replyRoot: at(record, 'reply.root.uri'),
    replyRootCid: at(record, 'reply.root.cid'),
    replyParent: at(record, 'reply.parent.uri'),
    replyParentCid: at(record, 'reply.parent.cid'),
    langs: unlessEmpty(at(record, 'langs')),
    tags: unlessEmpty(at(record, 'tags')),
  }
}

function reactionColumns(record: JsonRecord): Row {
  return {
    subject: at(record, 'subject.uri'),
    subjectCid: at(record, 'subject.cid'),
    via: at(record, 'via.uri'),
    viaCid: at(record, 'via.cid'),
  }
}

/** The rows of a post in other tables. */
function partsOfPost({ did, record }: ExpectedRecord, post: Row): TableRow[] {
  const { uri, cid, createdAt, indexedAt, sortAt } = post
  const rows: TableRow[] = [
    ['feed_item', { uri, cid, type: 'post', postUri: uri, originatorDid: did, sortAt }],
  ]
  const rootUri = at(record, 'reply.root.uri')
  if (rootUri !== null && hostOf(rootUri) === did) {
    const parentUri = at(record, 'reply.parent.uri')
    rows.push(['op_thread_reply', { rootUri, uri, parentUri, deletedAt: null }])
  }
  const embed = at(record, 'embed')
  const isBoth = at(embed, '$type') === 'app.bsky.embed.recordWithMedia'
  const quoted = { $type: 'app.bsky.embed.record', record: at(embed, 'record.record') }
  for (const part of isBoth ? [at(embed, 'media'), quoted] : [embed]) {
    switch (at(part, '$type')) {
      case 'app.bsky.embed.images':
        for (const [position, image] of listOf(at(part, 'images')).entries())
          rows.push(['post_embed_image', imageRow(uri, position, image)])
        break
      case 'app.bsky.embed.gallery':
        for (const [position, item] of listOf(at(part, 'items')).entries()) {
          if (at(item, '$type') !== 'app.bsky.embed.gallery#image') continue
          rows.push(['post_embed_gallery_image', imageRow(uri, position, item)])
        }
        break
      case 'app.bsky.embed.external': {
        const external = {
          uri: at(part, 'external.uri'),
          title: at(part, 'external.title'),
          description: at(part, 'external.description'),
          thumbCid: blobOf(at(part, 'external.thumb')),
        }
        rows.push(['post_embed_external', { postUri: uri, ...external }])
        break
      }
      case 'app.bsky.embed.video': {
        const video = { videoCid: blobOf(at(part, 'video')), alt: at(part, 'alt') }
        rows.push(['post_embed_video', { postUri: uri, ...video }])
        break
      }
      case 'app.bsky.embed.record': {
        const subject = at(part, 'record.uri')
        const subjectCid = at(part, 'record.cid')
        const embedded = { postUri: uri, embedUri: subject, embedCid: subjectCid }
        rows.push(['post_embed_record', embedded])
        if (String(subject).split('/')[3] === 'app.bsky.feed.post')
          rows.push(['quote', { uri, cid, subject, subjectCid, createdAt, indexedAt, sortAt }])
      }
    }
  }
  return rows
}

function imageRow(postUri: unknown, position: number, image: unknown): Row {
  const imageCid = blobOf(at(image, 'image'))
  return { postUri, position: String(position), imageCid, alt: at(image, 'alt') }
}

/** The text of a record as `record.json` has it: keys in the order of DAG-CBOR, no white space. */
export function jsonOf(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(jsonOf).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(clean(value))
  const entries = Object.entries(value)
    .map(([key, item]) => [Buffer.from(key), item] as const)
    .sort(([a], [b]) => a.length - b.length || Buffer.compare(a, b))
    .map(([key, item]) => `${JSON.stringify(clean(key.toString()))}:${jsonOf(item)}`)
  return `{${entries.join(',')}}`
}

/** The value at a path of keys as `reply.root.uri`, as Postgres can hold it; null without one. */
export function at(value: unknown, path: string): unknown {
  let found = value
  for (const key of path.split('.')) {
    if (typeof found !== 'object' || found === null) return null
    found = Reflect.get(found, key)
  }
  return clean(found ?? null)
}

/** Postgres holds no NUL in text, and nobody holds half a character. */
function clean(value: unknown): unknown {
  return typeof value === 'string' ? value.toWellFormed().replaceAll('\0', '') : value
}

/** A readable time in ISO form with milliseconds; of another the epoch. */
function timeOf(text: unknown): string {
  const time = new Date(String(text))
  return Number.isNaN(time.getTime()) ? '1970-01-01T00:00:00.000Z' : time.toISOString()
}

/** The account in an AT URI. */
export function hostOf(uri: unknown): string {
  return String(uri).split('/')[2] ?? ''
}

/** The CID of a blob; of one in the form of 2022 as well. */
function blobOf(blob: unknown): unknown {
  return at(blob, 'ref.$link') ?? at(blob, 'cid')
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}

function unlessEmpty(value: unknown): unknown {
  return listOf(value).length > 0 ? value : null
}

function textOf(value: unknown): string | null {
  return value === null ? null : jsonOf(value)
}
