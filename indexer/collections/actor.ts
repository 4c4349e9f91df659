/** The collections that describe an account: one record each, its key `self`. */
import { blobCid } from '../blob.ts'
import { defineCollection } from '../collection.ts'
import { normaliseTime } from '../timestamp.ts'

interface Profile {
  displayName?: string
  description?: string
  avatar?: unknown
  banner?: unknown
  joinedViaStarterPack?: { uri: string }
  createdAt?: string
}

export const profile = defineCollection<Profile>()({
  nsid: 'app.bsky.actor.profile',
  rkey: 'self',
  rows: {
    table: 'profile',
    columns: (record, { indexedAt }) => ({
      displayName: record.displayName ?? null,
      description: record.description ?? null,
      avatarCid: blobCid(record.avatar),
      bannerCid: blobCid(record.banner),
      joinedViaStarterPackUri: record.joinedViaStarterPack?.uri ?? null,
      // As it stands in the record: readers of this column expect no more.
      createdAt: record.createdAt ?? indexedAt,
    }),
    notify: [
      {
        reason: 'starterpack-joined',
        authorOf: 'joinedViaStarterPackUri',
        self: true,
        since: 'indexedAt',
      },
    ],
  },
})

export const labeler = defineCollection<{ createdAt: string }>()({
  nsid: 'app.bsky.labeler.service',
  rkey: 'self',
  rows: {
    table: 'labeler',
    columns: ({ createdAt }) => ({ createdAt: normaliseTime(createdAt) }),
  },
})

export const status = defineCollection()({ nsid: 'app.bsky.actor.status', rkey: 'self' })

export const notificationDeclaration = defineCollection()({
  nsid: 'app.bsky.notification.declaration',
  rkey: 'self',
})

export const chatDeclaration = defineCollection()({
  nsid: 'chat.bsky.actor.declaration',
  rkey: 'self',
  validated: false,
})

export const germDeclaration = defineCollection()({
  nsid: 'com.germnetwork.declaration',
  rkey: 'self',
})
