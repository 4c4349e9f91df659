/** A network that lives: accounts that write, change and delete records, change themselves, come and go. */
import type { Account, ExpectedRecord, JsonRecord, Ref, Write } from './account.ts'
import { formatTid } from './clock.ts'
import type { LabelClaim } from './labeler.ts'
import type { Network } from './network.ts'
import { createPlan, type Deed, type PlanOptions } from './plan.ts'
import {
  editedRecord,
  generatorRecord,
  listItemRecord,
  listRecord,
  personRecord,
  postGateRecord,
  postRecord,
  profileRecord,
  replyRecord,
  selfRecord,
  starterPackRecord,
  subjectRecord,
  threadGateRecord,
  verificationRecord,
} from './records.ts'
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
  /** Steps a second. */
  rate: number
  signal: AbortSignal
  /** Ends after this many steps; default never. */
  commits?: number
}

export interface WorldOptions extends PlanOptions {
  /** Every twelfth account is a did:web, whose port the seed does not decide; default true. */
  web?: boolean
  /**
   * Awaited before a signing key changes or an account ends or rests: until then what it wrote can
   * be verified, and a host asked for its repo gives it.
   */
  beforeChange?: (deed: Deed) => Promise<void>
}

/** What a step was. */
export interface Step {
  deed: Deed
  /** The account, or the labeler. */
  did: string
}

export interface World {
  /** Makes the older accounts with their histories, then the others; the relay hears of the latter. */
  populate(population: Population): Promise<void>
  /** Does the next deed of the plan, or where it can't be done another one; answers what it was. */
  step(): Promise<Step>
  /** Steps at the given rate until the signal or the number of steps ends it. */
  live(life: Life): Promise<void>
}

interface Post extends Ref {
  root: Ref
}

const feed = {
  post: 'app.bsky.feed.post',
  like: 'app.bsky.feed.like',
  repost: 'app.bsky.feed.repost',
  threadGate: 'app.bsky.feed.threadgate',
  postGate: 'app.bsky.feed.postgate',
  generator: 'app.bsky.feed.generator',
}
const graph = {
  follow: 'app.bsky.graph.follow',
  block: 'app.bsky.graph.block',
  list: 'app.bsky.graph.list',
  listItem: 'app.bsky.graph.listitem',
  listBlock: 'app.bsky.graph.listblock',
  starterPack: 'app.bsky.graph.starterpack',
  verification: 'app.bsky.graph.verification',
}
const profile = 'app.bsky.actor.profile'
const names = 'ada bo cleo dov edda femi gus hana ivo juno kofi lin'.split(' ')
const labelValues = ['spam', 'porn', 'rude', '!hide', '!warn']
/** Posts that may still be answered, liked or quoted; the oldest are forgotten. */
const remembered = 2000
/** An account with more records deletes its oldest: an endless run needs no endless memory. */
const mostRecords = 400
const day = 86_400_000

/** What happens is decided by the network's seed. */
export function createWorld(network: Network, options: WorldOptions = {}): World {
  const { clock } = network
  const { web = true, beforeChange = async () => {} } = options
  const random = network.random.fork('world')
  const next = createPlan(network.random.fork('plan'), options)
  const posts: Post[] = []
  const people: Account[] = []
  /** Not active, and may return. */
  const resting: Account[] = []
  const deleted: ExpectedRecord[] = []
  const labels: LabelClaim[] = []
  let joined = 0
  let renames = 0
  let selves = 0
  const now = () => clock.iso()
  const renamed = (handle: string) => `${handle.split(/[-.]/)[0]}-${++renames}.test`

  const join = async (quiet: boolean): Promise<Account> => {
    const number = joined++
    const account = await network.account({
      handle: `${names[number % names.length]}${number === 0 ? '' : number}.test`,
      curve: random.chance(0.2) ? 'p256' : 'k256',
      method: web && number % 12 === 11 ? 'web' : 'plc',
      pds: random.pick(network.pds),
      quiet,
    })
    people.push(account)
    return account
  }

  const introduce = (account: Account) =>
    account.create(profile, profileRecord(random, account.handle, now()), 'self')

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
            ? [graph.follow, personRecord(other.did, createdAt)]
            : [feed.post, writePost(createdAt)]
      writes.push({ action: 'create', collection, rkey, record })
    }
    return writes
  }

  const settle = async (account: Account, size: number) => {
    await introduce(account)
    const writes = history(account, size)
    for (let at = 0; at < writes.length; at += 100) {
      for (const written of await account.applyWrites(writes.slice(at, at + 100))) {
        if (written.uri.includes(feed.post)) remember(posts, { ...written, root: written })
      }
    }
  }

  const publish = async (account: Account, record: JsonRecord, root?: Ref) => {
    const written = await account.create(feed.post, record)
    remember(posts, { ...written, root: root ?? written })
    return true
  }

  const remove = async (account: Account, record: ExpectedRecord) => {
    const { collection, rkey } = record
    await account.delete(collection, rkey)
    remember(deleted, record)
    return true
  }

  const put = async (account: Account, collection: string, rkey: string, record: JsonRecord) => {
    const known = account.records().has(`at://${account.did}/${collection}/${rkey}`)
    const action = known ? 'update' : 'create'
    await account.applyWrites([{ action, collection, rkey, record }])
    return true
  }

  const create = async (account: Account, collection: string, record: JsonRecord) => {
    await account.create(collection, record)
    return true
  }

  const label = async (claim: LabelClaim) => {
    await network.labeler.label(claim)
    remember(labels, claim)
    return true
  }

  /** A gate is named as the post that it guards. */
  const gate = async (
    account: Account,
    collection: string,
    record: (post: string) => JsonRecord,
  ) => {
    const post = pickOf(account, [feed.post])
    return post !== null && put(account, collection, post.rkey, record(uriOf(post)))
  }

  const pickOf = (account: Account, collections: readonly string[]): ExpectedRecord | null => {
    const own = [...account.records().values()]
    const found = own.filter(({ collection }) => collections.includes(collection))
    return found.length === 0 ? null : random.pick(found)
  }
  /** One of its lists, which is made when there is none. */
  const ownList = async (account: Account): Promise<string> => {
    const list = pickOf(account, [graph.list])
    if (list !== null) return uriOf(list)
    return (await account.create(graph.list, listRecord(random, now()))).uri
  }
  const urisOf = (account: Account, collection: string): string[] =>
    [...account.records()].flatMap(([uri, record]) =>
      record.collection === collection ? [uri] : [],
    )

  /** Does it, or answers false when this account can't now. */
  const act = async (deed: Deed, account: Account): Promise<boolean> => {
    const createdAt = now()
    const { did } = account
    const post = posts.length > 0 ? random.pick(posts.slice(-200)) : null
    const other = random.pick(people)
    const isSelf = other === account
    switch (deed) {
      case 'post':
        return publish(account, writePost(createdAt))
      case 'reply': {
        if (post === null) return false
        const { root } = post
        return publish(account, replyRecord(random, { createdAt, root, parent: post }), root)
      }
      case 'like':
        return post !== null && create(account, feed.like, subjectRecord(post, createdAt))
      case 'repost':
        return post !== null && create(account, feed.repost, subjectRecord(post, createdAt))
      case 'follow':
        return !isSelf && create(account, graph.follow, personRecord(other.did, createdAt))
      case 'block':
        return !isSelf && create(account, graph.block, personRecord(other.did, createdAt))
      case 'profile':
        return put(account, profile, 'self', profileRecord(random, account.handle, createdAt))
      case 'edit': {
        const { post, generator } = feed
        const found = pickOf(account, [post, generator, graph.list, graph.starterPack])
        if (found === null) return false
        return put(account, found.collection, found.rkey, editedRecord(random, found.record))
      }
      case 'delete': {
        const found = pickOf(account, [...Object.values(feed), ...Object.values(graph)])
        return found !== null && remove(account, found)
      }
      case 'recreate':
        return recreate(account)
      case 'several':
        return several(account)
      case 'list':
        return create(account, graph.list, listRecord(random, createdAt))
      case 'listItem': {
        const list = await ownList(account)
        return create(account, graph.listItem, listItemRecord(list, other.did, createdAt))
      }
      case 'listBlock': {
        const [list] = urisOf(other, graph.list)
        return list !== undefined && create(account, graph.listBlock, { subject: list, createdAt })
      }
      case 'threadGate': {
        const lists = urisOf(account, graph.list)
        const hidden = posts.filter(({ root }) => root.uri.includes(did)).map(({ uri }) => uri)
        return gate(account, feed.threadGate, (post) =>
          threadGateRecord(random, { post, lists, hidden: hidden.slice(0, 2), createdAt }),
        )
      }
      case 'postGate': {
        const detached = random.chance(0.5) && post !== null ? [post.uri] : []
        return gate(account, feed.postGate, (post) =>
          postGateRecord(random, { post, detached, createdAt }),
        )
      }
      case 'starterPack': {
        const list = await ownList(account)
        const feeds = people.flatMap((person) => urisOf(person, feed.generator))
        const pack = starterPackRecord(random, { list, feeds, createdAt })
        return create(account, graph.starterPack, pack)
      }
      case 'generator':
        return create(account, feed.generator, generatorRecord(random, other.did, createdAt))
      case 'verification':
        return !isSelf && create(account, graph.verification, verificationRecord(other, createdAt))
      case 'self': {
        const [collection, record] = selfRecord(random, selves++, createdAt)
        return put(account, collection, 'self', record)
      }
      case 'label': {
        const val = random.pick(labelValues)
        if (post === null || random.chance(0.3)) return label({ uri: other.did, val })
        return label({ uri: post.uri, val, ...(random.chance(0.5) && { cid: post.cid }) })
      }
      case 'expiringLabel': {
        const exp = new Date(clock.now() / 1000 + random.below(2 * day) - day).toISOString()
        return label({ uri: post?.uri ?? other.did, val: random.pick(labelValues), exp })
      }
      case 'negation': {
        const found = labels.findLast(({ neg }) => neg !== true)
        if (found === undefined) return false
        const { exp: _, ...claim } = found
        labels.splice(labels.indexOf(found), 1)
        return label({ ...claim, neg: true })
      }
      case 'sync':
        await network.emitSync(did)
        return true
      case 'handle':
        await network.changeIdentity(did, { handle: renamed(account.handle) })
        return true
      case 'signingKey':
        await network.changeIdentity(did, { curve: random.chance(0.5) ? 'k256' : 'p256' })
        return true
      case 'rotationKey':
        await network.changeIdentity(did, { rotation: true })
        return true
      case 'migration': {
        const here = network.states().get(did)?.pds
        const elsewhere = network.pds.filter(({ url }) => url !== here)
        if (elsewhere.length === 0) return false
        await network.migrate(did, random.pick(elsewhere))
        return true
      }
      case 'deactivation': {
        if (resting.length >= people.length / 4) return false
        const status = random.pick(['deactivated', 'deactivated', 'suspended', 'takendown'])
        network.emitAccount(did, { active: false, status })
        take(people, account)
        resting.push(account)
        return true
      }
      case 'deletion':
        if (people.length < 4) return false
        await network.deleteAccount(did, { identity: random.chance(0.5) })
        take(people, account)
        return true
      case 'return':
      case 'joining':
        return false
    }
  }

  /** The same key is used again: for what was there before, worded anew. */
  const recreate = async (account: Account): Promise<boolean> => {
    const before = deleted.findLast(({ did, collection, rkey }) => {
      return did === account.did && !account.records().has(`at://${did}/${collection}/${rkey}`)
    })
    if (before !== undefined && random.chance(0.5)) {
      const record = { ...editedRecord(random, before.record), createdAt: now() }
      return put(account, before.collection, before.rkey, record)
    }
    const found = pickOf(account, [feed.post, feed.like, graph.follow])
    if (found === null) return false
    const { collection, rkey, record } = found
    await remove(account, found)
    return put(account, collection, rkey, { ...editedRecord(random, record), createdAt: now() })
  }

  /** One commit of several writes. */
  const several = async (account: Account): Promise<boolean> => {
    const createdAt = now()
    const writes: Write[] = []
    for (let count = 2 + random.below(5); count > 0; count--) {
      const post = random.chance(0.6) && posts.length > 0 ? random.pick(posts) : null
      const [collection, record] =
        post === null
          ? [feed.post, writePost(createdAt)]
          : [feed.like, subjectRecord(post, createdAt)]
      writes.push({ action: 'create', collection, record })
    }
    const gone = pickOf(account, [feed.like, graph.follow])
    if (gone !== null)
      writes.push({ action: 'delete', collection: gone.collection, rkey: gone.rkey })
    await account.applyWrites(writes)
    return true
  }

  /** Mostly one whom the relay knows; now and then an older account speaks for the first time. */
  const speaker = (): Account => {
    const known = random.chance(0.99) ? people.filter(({ quiet }) => !quiet) : people
    return random.pick(known.length > 0 ? known : people)
  }

  const step = async (): Promise<Step> => {
    const deed = next()
    if (changing.includes(deed)) await beforeChange(deed)
    if (deed === 'joining' || people.length === 0) {
      const account = await join(false)
      await introduce(account)
      return { deed: 'joining', did: account.did }
    }
    const returning = deed === 'return' && resting.length > 0 ? random.pick(resting) : null
    if (returning !== null) {
      await network.reactivate(returning.did)
      take(resting, returning)
      people.push(returning)
      return { deed, did: returning.did }
    }
    const account = speaker()
    account.quiet = false
    const oldest = account.records().size > mostRecords && firstOf(account)
    if (oldest && (await remove(account, oldest))) return { deed: 'delete', did: account.did }
    if (await act(deed, account)) {
      const labels = ['label', 'expiringLabel', 'negation'].includes(deed)
      return { deed, did: labels ? network.labeler.did : account.did }
    }
    await publish(account, writePost(now()))
    return { deed: 'post', did: account.did }
  }

  return {
    async populate({ accounts, older, history: size }) {
      for (let count = 0; count < older; count++) {
        await settle(await join(true), Math.floor(size / 2) + random.below(size))
      }
      for (let count = 0; count < accounts; count++) await introduce(await join(false))
    },
    step,
    async live({ rate, signal, commits = Number.POSITIVE_INFINITY }) {
      const pace = paced(rate, signal)
      for (let count = 0; count < commits; count++) {
        await pace()
        if (signal.aborted) return
        await step()
      }
    },
  }
}

const changing: readonly Deed[] = ['signingKey', 'migration', 'deactivation', 'deletion']

function remember<T>(values: T[], value: T): void {
  values.push(value)
  if (values.length > remembered) values.splice(0, remembered / 10)
}

function take<T>(values: T[], value: T): void {
  const index = values.indexOf(value)
  if (index >= 0) values.splice(index, 1)
}

function uriOf({ did, collection, rkey }: ExpectedRecord): string {
  return `at://${did}/${collection}/${rkey}`
}

function firstOf(account: Account): ExpectedRecord | undefined {
  for (const record of account.records().values()) if (record.rkey !== 'self') return record
  return undefined
}
