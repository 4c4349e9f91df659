/** The table of collections: all that the indexer knows by name. */
import type { Collection } from '../collection.ts'
import {
  chatDeclaration,
  germDeclaration,
  labeler,
  notificationDeclaration,
  profile,
  status,
} from './actor.ts'
import { generator, like, post, postgate, repost, threadgate } from './feed.ts'
import {
  block,
  follow,
  list,
  listblock,
  listitem,
  referencelistoptout,
  starterpack,
  verification,
} from './graph.ts'

export const collections: readonly Collection[] = [
  post,
  like,
  repost,
  threadgate,
  postgate,
  generator,
  follow,
  block,
  list,
  listitem,
  listblock,
  referencelistoptout,
  starterpack,
  verification,
  profile,
  labeler,
  status,
  notificationDeclaration,
  chatDeclaration,
  germDeclaration,
]
