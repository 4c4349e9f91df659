/** The collections under app.bsky.graph. */
import { blobCid } from '../blob.ts'
import { defineCollection } from '../collection.ts'
import { normaliseTime } from '../timestamp.ts'
import { authorOf, partsOf } from '../uri.ts'

interface ToSubject {
  subject: string
  createdAt: string
}

interface List {
  name: string
  purpose: string
  description?: string
  descriptionFacets?: unknown
  avatar?: unknown
  createdAt: string
}

interface StarterPack {
  name: string
  createdAt: string
}

interface Verification extends ToSubject {
  handle: string
  displayName: string
}

const toAccount = ({ subject, createdAt }: ToSubject) => ({
  subjectDid: subject,
  createdAt: normaliseTime(createdAt),
})

const toList = ({ subject, createdAt }: ToSubject) => ({
  subjectUri: subject,
  createdAt: normaliseTime(createdAt),
})

export const follow = defineCollection<ToSubject>()({
  nsid: 'app.bsky.graph.follow',
  rows: {
    table: 'follow',
    columns: toAccount,
    unique: ['creator', 'subjectDid'],
    counts: [
      { table: 'profile_agg', column: 'followersCount', key: 'subjectDid' },
      { table: 'profile_agg', column: 'followsCount', key: 'creator' },
    ],
    notify: [{ reason: 'follow', account: 'subjectDid' }],
  },
})

export const block = defineCollection<ToSubject>()({
  nsid: 'app.bsky.graph.block',
  rows: { table: 'actor_block', columns: toAccount, unique: ['creator', 'subjectDid'] },
})

export const list = defineCollection<List>()({
  nsid: 'app.bsky.graph.list',
  rows: {
    table: 'list',
    columns: ({ name, purpose, description, descriptionFacets, avatar, createdAt }) => ({
      name,
      purpose,
      description: description ?? null,
      descriptionFacets: descriptionFacets ? JSON.stringify(descriptionFacets) : null,
      avatarCid: blobCid(avatar),
      createdAt: normaliseTime(createdAt),
    }),
  },
})

export const listitem = defineCollection<ToSubject & { list: string }>()({
  nsid: 'app.bsky.graph.listitem',
  refuse: ({ list }, { did }) => (authorOf(list) === did ? null : 'foreign-list'),
  rows: {
    table: 'list_item',
    columns: (record) => ({ ...toAccount(record), listUri: record.list }),
    unique: ['listUri', 'subjectDid'],
  },
})

export const listblock = defineCollection<ToSubject>()({
  nsid: 'app.bsky.graph.listblock',
  rows: { table: 'list_block', columns: toList, unique: ['creator', 'subjectUri'] },
})

export const referencelistoptout = defineCollection<ToSubject>()({
  nsid: 'app.bsky.graph.referencelistoptout',
  rows: {
    table: 'reference_list_opt_out',
    // Opting out of anything but a list, named by its account's DID, says nothing.
    columns: (record) => (isListUri(record.subject) ? toList(record) : null),
    unique: ['creator', 'subjectUri'],
  },
})

function isListUri(uri: string): boolean {
  const { authority, collection, rkey } = partsOf(uri)
  if (collection !== list.nsid || !authority.startsWith('did:') || rkey === '') return false
  return uri === `at://${authority}/${collection}/${rkey}`
}

export const starterpack = defineCollection<StarterPack>()({
  nsid: 'app.bsky.graph.starterpack',
  rows: {
    table: 'starter_pack',
    columns: ({ name, createdAt }) => ({ name, createdAt: normaliseTime(createdAt) }),
  },
})

export const verification = defineCollection<Verification>()({
  nsid: 'app.bsky.graph.verification',
  rows: {
    table: 'verification',
    columns: ({ subject, handle, displayName, createdAt }, { rkey }) => ({
      rkey,
      subject,
      handle,
      displayName,
      createdAt: normaliseTime(createdAt),
    }),
    unique: ['subject', 'creator'],
    notify: [{ reason: 'verified', account: 'subject' }],
    notifyGone: [{ reason: 'unverified', account: 'subject' }],
  },
})
