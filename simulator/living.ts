/** A network that lives: accounts that post, answer, like, repost, follow, block, change and delete. */
import type { Account, JsonRecord, Ref, Write } from './account.ts'
import { formatTid } from './clock.ts'
import type { Network } from './network.ts'
import type { Random } from './random.ts'
import { personRecord, postRecord, profileRecord, replyRecord, subjectRecord } from './records.ts'
import { paced } from './relay.ts'

export interface Population {
  /** Accounts that the relay hears of. */
  accounts: number
  /** Accounts with a history that only a backfill finds. */
  older: number
  /** Records of each older account, about. */
  history: number
}

export interface Life {
  /** Commits a second. */
  rate: number
  signal: AbortSignal
  /** Ends after this many commits; default never. */
  commits?: number
}

interface Post extends Ref {
  root: Ref
}

const feed = {
  post: 'app.bsky.feed.post',
  like: 'app.bsky.feed.like',
  repost: 'app.bsky.feed.repost',
  follow: 'app.bsky.graph.follow',
  block: 'app.bsky.graph.block',
  profile: 'app.bsky.actor.profile',
}
const names = [
  'ada',
  'bo',
  'cleo',
  'dov',
  'edda',
  'femi',
  'gus',
  'hana',
  'ivo',
  'juno',
  'kofi',
  'lin',
]
/** Posts that may still be answered, liked or quoted; the oldest are forgotten. */
const remembered = 2000
/** An account with more records deletes its oldest: an endless run needs no endless memory. */
const mostRecords = 400
const day = 86_400_000

export interface World {
  /** Makes the older accounts with their histories, then the others; the relay hears of the latter. */
  populate(population: Population): Promise<void>
  /** Commits at the given rate until the signal or the number of commits ends it. */
  live(life: Life): Promise<void>
}

/** What happens is decided by the network's seed. */
export function createWorld(network: Network): World {
  const { clock } = network
  const random = network.random.fork('world')
  const posts: Post[] = []
  const people: Account[] = []
  const now = () => clock.iso()

  const remember = (post: Post) => {
    posts.push(post)
    if (posts.length > remembered) posts.splice(0, remembered / 10)
  }

  const join = async (quiet: boolean): Promise<Account> => {
    const number = people.length
    const account = await network.account({
      handle: `${names[number % names.length]}${number === 0 ? '' : number}.test`,
      curve: random.chance(0.2) ? 'p256' : 'k256',
      method: number % 12 === 11 ? 'web' : 'plc',
      pds: random.pick(network.pds),
      quiet,
    })
    people.push(account)
    return account
  }

  const writePost = (createdAt: string) =>
    postRecord(random, { createdAt, people, quotable: posts.slice(-50) })

  /** Old records, with the rkeys and times of the days on which they were written. */
  const history = (account: Account, size: number): Write[] => {
    const writes: Write[] = []
    for (let count = 0; count < size; count++) {
      const at = clock.now() / 1000 - random.below(90 * day)
      const createdAt = new Date(at).toISOString()
      const rkey = formatTid(Math.floor(at * 1000), random.below(1024))
      const post = posts.length > 0 && random.chance(0.5) ? random.pick(posts) : null
      const other = random.pick(people)
      const [collection, record]: [string, JsonRecord] =
        post !== null && random.chance(0.7)
          ? [feed.like, subjectRecord(post, createdAt)]
          : other !== account && random.chance(0.3)
            ? [feed.follow, personRecord(other.did, createdAt)]
            : [feed.post, writePost(createdAt)]
      writes.push({ action: 'create', collection, rkey, record })
    }
    return writes
  }

  const settle = async (account: Account, size: number) => {
    await account.create(feed.profile, profileRecord(random, account.handle, now()), 'self')
    const writes = history(account, size)
    for (let at = 0; at < writes.length; at += 100) {
      for (const written of await account.applyWrites(writes.slice(at, at + 100))) {
        if (written.uri.includes(feed.post)) remember({ ...written, root: written })
      }
    }
  }

  /** One commit by one account. */
  const act = async (account: Account): Promise<void> => {
    const createdAt = now()
    const oldest = account.records().size > mostRecords && firstOf(account)
    if (oldest) return account.delete(oldest.collection, oldest.rkey)
    const post = posts.length > 0 ? random.pick(posts.slice(-200)) : null
    const other = random.pick(people)
    const drawn = random.below(100)
    if (post === null || drawn < 30) {
      const written = await account.create(feed.post, writePost(createdAt))
      return remember({ ...written, root: written })
    }
    if (drawn < 48) {
      const { root } = post
      const reply = replyRecord(random, { createdAt, root, parent: post })
      return remember({ ...(await account.create(feed.post, reply)), root })
    }
    if (drawn < 74) return create(account, feed.like, subjectRecord(post, createdAt))
    if (drawn < 82) return create(account, feed.repost, subjectRecord(post, createdAt))
    if (drawn < 91 && other !== account) {
      return create(account, feed.follow, personRecord(other.did, createdAt))
    }
    if (drawn < 92 && other !== account) {
      return create(account, feed.block, personRecord(other.did, createdAt))
    }
    if (drawn < 94) {
      const record = profileRecord(random, account.handle, createdAt)
      const known = account.records().has(`at://${account.did}/${feed.profile}/self`)
      const target = { collection: feed.profile, rkey: 'self', record }
      await account.applyWrites([{ action: known ? 'update' : 'create', ...target }])
      return
    }
    if (drawn < 95 && post !== null) {
      await network.labeler.label({ uri: post.uri, cid: post.cid, val: 'spam' })
    }
    const gone = anyOf(account, random)
    if (gone === undefined) return create(account, feed.post, writePost(createdAt))
    return account.delete(gone.collection, gone.rkey)
  }

  /** Mostly one whom the relay knows; now and then an older account speaks for the first time. */
  const speaker = (): Account => {
    const known = random.chance(0.99) ? people.filter(({ quiet }) => !quiet) : people
    return random.pick(known.length > 0 ? known : people)
  }

  return {
    async populate({ accounts, older, history: size }) {
      for (let count = 0; count < older; count++) {
        await settle(await join(true), Math.floor(size / 2) + random.below(size))
      }
      for (let count = 0; count < accounts; count++) {
        const account = await join(false)
        await account.create(feed.profile, profileRecord(random, account.handle, now()), 'self')
      }
    },
    async live({ rate, signal, commits = Number.POSITIVE_INFINITY }) {
      const pace = paced(rate, signal)
      for (let count = 0; count < commits; count++) {
        await pace()
        if (signal.aborted) return
        const account = speaker()
        account.quiet = false
        await act(account)
      }
    },
  }
}

async function create(account: Account, collection: string, record: JsonRecord): Promise<void> {
  await account.create(collection, record)
}

function firstOf(account: Account) {
  for (const record of account.records().values()) {
    if (record.rkey !== 'self') return record
  }
  return undefined
}

function anyOf(account: Account, random: Random) {
  const records = [...account.records().values()].filter(({ rkey }) => rkey !== 'self')
  return records.length > 0 ? random.pick(records) : undefined
}
