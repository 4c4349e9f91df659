/** Whom the records that are there tell: the rows of `notification`, as the contract tells them. */
import type { ExpectedRecord } from '../account.ts'
import { at, hostOf, type Row } from './records.ts'
import { anything, type Threads } from './threads.ts'

/** What a record tells whom; `row` is the one that it has in its collection's table. */
export function notificationsOf(fact: ExpectedRecord, row: Row, threads: Threads): Row[] {
  const { did, collection, cid, record } = fact
  const recordUri = String(row['uri'])
  const told = (to: string, reason: string, reasonSubject: unknown, sortAt = row['sortAt']) => {
    return { did: to, author: did, reason, reasonSubject, recordUri, recordCid: cid, sortAt }
  }
  const authorOf = (uri: unknown, reason: string) =>
    uri === null || hostOf(uri) === did ? [] : [told(hostOf(uri), reason, uri)]
  const [subject, via] = [at(record, 'subject.uri'), at(record, 'via.uri')]
  // Of what one does to one's own record nobody is told, however one came by it.
  const isOwn = subject !== null && hostOf(subject) === did

  switch (collection) {
    case 'app.bsky.feed.post':
      return [...threads.noticesOf(recordUri)]
    case 'app.bsky.feed.like':
      return isOwn ? [] : [...authorOf(subject, 'like'), ...authorOf(via, 'like-via-repost')]
    case 'app.bsky.feed.repost':
      return isOwn ? [] : [...authorOf(subject, 'repost'), ...authorOf(via, 'repost-via-repost')]
    case 'app.bsky.graph.follow':
      return [told(String(at(record, 'subject')), 'follow', null)]
    case 'app.bsky.actor.profile': {
      const pack = at(record, 'joinedViaStarterPack.uri')
      // When the first profile told it.
      return pack === null ? [] : [told(hostOf(pack), 'starterpack-joined', pack, anything)]
    }
    default:
      return []
  }
}
