/** Deleted accounts, asked for at real PDSes on loopback, and removed from a real database. */
import { pino } from 'pino'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { AccountEvent, Event } from '../shared/events.ts'
import { createIdentity, type Identity } from '../shared/identity.ts'
import { createFetch } from '../shared/identity-fetch.ts'
import { tidTime } from '../shared/repo/tid.ts'
import { type Network, startNetwork } from '../simulator/network.ts'
import type { Hosted } from './hosted.ts'
import { keepPurging, type PurgeOptions, type PurgePoint, purgeOne } from './purge.ts'
import {
  aBlock,
  aDeleteOf,
  aFollow,
  aLike,
  aListItem,
  aPost,
  aProfile,
  aRecord,
  aRepost,
  aSnapshot,
  did,
  dump,
  miscounts,
  refTo,
  type TestIndexer,
  tables,
  testIndexer,
  tid,
  uri,
} from './testing.ts'

const bob = did('bob')
const raw = 'bafkreicn3dv6rhcbyrwmoycxrbodx6yb6fypbp5clhdlgzzx4peiz5yp6m'
const createdAt = '2026-01-01T00:00:00.000Z'
/** After the revs of the events below, and before those of a return. */
const ended = '2026-02-01T00:00:00.000Z'
const returned = '2026-03-01T00:00:00.000Z'

let indexer: TestIndexer
let network: Network
let identity: Identity
let fetches: ReturnType<typeof createFetch>
const closing = new AbortController()

beforeAll(async () => {
  indexer = await testIndexer()
  network = await startNetwork()
  const limits = { timeoutMs: 2_000, maxEntries: 100, ttlMs: 60_000 }
  identity = createIdentity({ plcUrl: network.plc.url, allowPrivateHosts: true, ...limits })
  fetches = createFetch({ trusted: [], allowPrivateHosts: true, signal: closing.signal })
})
afterAll(async () => {
  closing.abort()
  fetches.close()
  identity.close()
  await network.close()
  await indexer[Symbol.asyncDispose]()
})
const clear = () =>
  indexer.sql.unsafe(
    `truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile, account_purge, notification`,
  )
beforeEach(clear)

const anAccount = (of: string, time: string, status: string | null): AccountEvent => {
  return { type: 'account', seq: 1, time, did: of, active: status === null, status }
}
const rows = (query: string) => indexer.sql.unsafe(query)
const never = new AbortController().signal

function options(more: Partial<PurgeOptions> = {}): PurgeOptions {
  return {
    apply: indexer.options,
    identity,
    fetch: fetches.fetch,
    timeoutMs: 2_000,
    log: pino({ level: 'silent' }),
    ...more,
  }
}

/** Asks for every account that is due, once; tells what came of it. */
async function purgeAll(more: Partial<PurgeOptions> = {}): Promise<(Hosted | 'purged')[]> {
  const results: (Hosted | 'purged')[] = []
  const due = await rows('select did, state, attempts from account_purge order by did')
  for (const account of due) {
    const all = options({ onResult: (result) => results.push(result), ...more })
    await purgeOne(all, account as unknown as Parameters<typeof purgeOne>[1], never)
  }
  return results
}

/** An account whose PDS does not know it any more. */
async function aDeletedAccount(): Promise<string> {
  const { did: gone } = await network.account()
  network.emitAccount(gone, { active: false, status: 'deleted' })
  return gone
}

/** One record of every kind that has rows, and what others did to them. */
function everythingOf(by: string): { own: Event[]; others: Event[] } {
  const post = aPost({ by: bob, rev: 1 })
  const own = aPost({ by, rev: 2 })
  const blob = (mimeType: string) => ({ $type: 'blob', ref: { $link: raw }, mimeType, size: 1 })
  const image = blob('image/png')
  const picture = { image, alt: '', aspectRatio: { width: 1, height: 1 } }
  const external = { uri: 'https://a.test', title: 't', description: 'd', thumb: image }
  const record = (nsid: string, rev: number, value: Record<string, unknown>, rkey?: string) =>
    aRecord(nsid, { createdAt, ...value }, rkey ? { by, rev, rkey } : { by, rev })
  const list = record('app.bsky.graph.list', 10, {
    name: 'l',
    purpose: 'app.bsky.graph.defs#curatelist',
  })
  const starter = record('app.bsky.graph.starterpack', 16, { name: 's', list: uri(list) })
  return {
    own: [
      own,
      aPost({ by, rev: 3 }, { reply: { root: refTo(post), parent: refTo(post) } }),
      aPost({ by, rev: 4 }, { reply: { root: refTo(own), parent: refTo(own) } }),
      aPost({ by, rev: 5 }, { embed: { $type: 'app.bsky.embed.record', record: refTo(post) } }),
      ...[
        { $type: 'app.bsky.embed.external', external },
        { $type: 'app.bsky.embed.images', images: [picture] },
        { $type: 'app.bsky.embed.video', video: blob('video/mp4') },
        {
          $type: 'app.bsky.embed.gallery',
          items: [{ $type: 'app.bsky.embed.gallery#image', ...picture }],
        },
      ].map((embed, index) => aPost({ by, rev: 50 + index }, { embed })),
      aLike({ by, rev: 8, of: refTo(post) }),
      aLike({ by, rev: 9, of: refTo(post) }),
      list,
      aListItem({ by, rev: 11, of: bob, list: uri(list) }),
      aRepost({ by, rev: 12, of: refTo(post) }),
      aFollow({ by, rev: 13, of: bob }),
      aBlock({ by, rev: 14, of: bob }),
      record('app.bsky.graph.listblock', 15, { subject: uri(list) }),
      starter,
      record('app.bsky.graph.verification', 17, {
        subject: bob,
        handle: 'b.test',
        displayName: 'b',
      }),
      record('app.bsky.graph.referencelistoptout', 18, { subject: uri(list) }),
      record('app.bsky.feed.generator', 19, { did: 'did:web:a.test', displayName: 'g' }),
      record('app.bsky.feed.threadgate', 20, { post: uri(own) }, own.rkey),
      record('app.bsky.feed.postgate', 21, { post: uri(own) }, own.rkey),
      record('app.bsky.labeler.service', 22, { policies: { labelValues: [] } }, 'self'),
      record('app.bsky.actor.status', 23, { status: 'app.bsky.actor.status#live' }, 'self'),
      aProfile({ by, rev: 24 }, { displayName: 'me' }),
      aDeleteOf(aPost({ by, rev: 25 }), 26),
    ],
    others: [
      post,
      aLike({ by: bob, rev: 40, of: refTo(own) }),
      aPost({ by: bob, rev: 41 }, { reply: { root: refTo(own), parent: refTo(own) } }),
      aFollow({ by: bob, rev: 42, of: by }),
    ],
  }
}

/** Every row of every table of the schema that names the account as its own. */
async function mentions(of: string): Promise<string[]> {
  const names = await rows(
    `select table_name as name from information_schema.tables
     where table_schema = 'bsky' and table_type = 'BASE TABLE'`,
  )
  const found: string[] = []
  for (const { name } of names) {
    const [row] = await rows(
      `select count(*) from "${name}" t where to_jsonb(t)::text like '%at://${of}/%'
         or to_jsonb(t) ->> 'did' = '${of}' or to_jsonb(t) ->> 'creator' = '${of}'`,
    )
    if (Number(row?.['count']) > 0) found.push(String(name))
  }
  return found.sort()
}

describe('an account whose PDS confirms that it is deleted', () => {
  test('leaves nothing in any table, and the counters of others are right', async () => {
    const gone = await aDeletedAccount()
    const { own, others } = everythingOf(gone)
    await indexer.apply([...own, ...others])
    await rows(
      `insert into label (src, uri, cid, val, neg, cts)
       values ('${did('labeler')}', 'at://${gone}/app.bsky.feed.post/x', '', 'spam', false, '${ended}')`,
    )
    const written = await mentions(gone)
    expect(tables.filter((name) => !written.includes(name))).toEqual(['account_event'])
    await indexer.apply([anAccount(gone, ended, 'deleted')])
    expect(await purgeAll()).toEqual(['gone', 'purged'])
    await indexer.settle()
    expect(await rows(`select key from reconcile where kind = 'letters'`)).toEqual([{ key: gone }])
    // What others said about it stays, as it would have been if they had said it later.
    expect(await mentions(gone)).toEqual([
      ...[
        'account_event',
        'label',
        'like',
        'post',
        'post_agg',
        'profile_agg',
        'record',
        'repo_sync',
      ],
    ])
    expect(await rows(`select uri from record where did = '${gone}'`)).toEqual([])
    expect(await rows('select "likeCount", "replyCount" from post_agg order by uri')).toHaveLength(
      2,
    )
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('is not brought back by older events, in any order', async () => {
    const gone = await aDeletedAccount()
    const { own, others } = everythingOf(gone)
    await indexer.apply([...own, ...others, anAccount(gone, ended, 'deleted')])
    await purgeAll()
    await indexer.settle()
    // Nobody reads what the account is told after its end.
    const remains = async () =>
      (await dump(indexer.sql)).filter((line) => !line.startsWith(`notification {"did":"${gone}"`))
    const expected = await remains()
    await indexer.apply([...own, ...others])
    expect(await remains()).toEqual(expected)
    await clear()
    await indexer.apply([anAccount(gone, ended, 'deleted')])
    await purgeAll()
    await indexer.apply([...others, ...own])
    expect(await remains()).toEqual(expected)
  })

  test('wishes for no handle when an older event of it comes', async () => {
    const gone = await aDeletedAccount()
    const old = aPost({ by: gone, rev: 1 })
    await indexer.apply([anAccount(gone, ended, 'deleted')])
    await purgeAll()
    const apply = indexer.applyWith({ handles: true })
    expect((await apply([old])).handlesWanted).toEqual([])
  })

  test('may come back with newer records, and with its old ones', async () => {
    const gone = await aDeletedAccount()
    const old = aPost({ by: gone, rev: 1 })
    await indexer.apply([old, anAccount(gone, ended, 'deleted')])
    await purgeAll()
    await indexer.apply([anAccount(gone, returned, null)])
    expect(await rows('select kind, key from reconcile')).toEqual([{ kind: 'resync', key: gone }])
    const { records, complete } = aSnapshot(gone, 1, [old])
    await indexer.applyEach([...records, complete])
    expect(await rows('select uri from post')).toEqual([{ uri: uri(old) }])
    expect(await rows('select did, "upstreamStatus" from actor')).toEqual([
      { did: gone, upstreamStatus: null },
    ])
    expect(await rows('select "repoRev" from actor_sync')).toEqual([{ repoRev: tid(1) }])
  })

  test('is not shut out for years by a deletion that is dated in the future', async () => {
    const gone = await aDeletedAccount()
    await indexer.apply([anAccount(gone, '2999-01-01T00:00:00.000Z', 'deleted')])
    await purgeAll()
    const [row] = await rows('select "purgedRev" from repo_sync')
    expect(tidTime(String(row?.['purgedRev']))).toBeLessThanOrEqual(Date.now())
  })

  test('keeps what is newer than its deletion', async () => {
    const gone = await aDeletedAccount()
    await indexer.apply([aPost({ by: gone, rev: 1 }), anAccount(gone, ended, 'deleted')])
    await purgeAll()
    const later = { ...aPost({ by: gone, rev: 2, rkey: tid(2) }), rev: '3mzzzzzzzzzzz' }
    await indexer.apply([later])
    expect(await rows('select uri from post')).toEqual([{ uri: uri(later) }])
    expect(await rows('select did from actor')).toEqual([{ did: gone }])
  })

  test('is purged whole also where older workers left rows without records', async () => {
    const gone = await aDeletedAccount()
    const { own, others } = everythingOf(gone)
    await indexer.apply([...own, ...others, anAccount(gone, ended, 'deleted')])
    await rows(`delete from record where did = '${gone}'`)
    await purgeAll()
    expect(await rows(`select uri from post where creator = '${gone}'`)).toEqual([])
    expect(await rows(`select uri from feed_item where "originatorDid" = '${gone}'`)).toEqual([])
    expect(await miscounts(indexer.sql)).toEqual([])
  })
})

describe('an account that is said to be deleted', () => {
  test('is only hidden while its PDS or the directory is away, and asked for again later', async () => {
    const gone = await aDeletedAccount()
    await indexer.apply([aPost({ by: gone, rev: 1 }), anAccount(gone, ended, 'deleted')])
    const pds = network.pds[0].fault({ did: gone }, { kind: 'status', status: 502 }, 1)
    expect(await purgeAll()).toEqual(['unsure'])
    expect(pds.fired).toBe(1)
    network.plc.fault({ did: gone }, { kind: 'status', status: 503 }, 1)
    expect(await purgeAll()).toEqual(['unsure'])
    expect(await rows('select uri from post')).toHaveLength(1)
    expect(await rows('select "upstreamStatus" from actor')).toEqual([
      { upstreamStatus: 'deactivated' },
    ])
    expect(await rows('select attempts, state from account_purge')).toEqual([
      { attempts: 2, state: 'asked' },
    ])
    expect(await purgeAll()).toEqual(['gone', 'purged'])
  })

  test('is shown again when its PDS has it', async () => {
    const { did: alive } = await network.account()
    await indexer.apply([aPost({ by: alive, rev: 1 }), anAccount(alive, ended, 'deleted')])
    expect(await purgeAll()).toEqual(['hosted'])
    expect(await rows('select "upstreamStatus" from actor')).toEqual([{ upstreamStatus: null }])
    expect(await rows('select * from account_purge')).toEqual([])
    expect(await rows('select uri from post')).toHaveLength(1)
  })

  test('is not deleted when its PDS says that it is only deactivated', async () => {
    const { did: resting } = await network.account()
    network.emitAccount(resting, { active: false, status: 'deactivated' })
    await indexer.apply([aPost({ by: resting, rev: 1 }), anAccount(resting, ended, 'deleted')])
    expect(await purgeAll()).toEqual(['unsure'])
  })

  test('is deleted when its DID was given up', async () => {
    const { did: gone } = await network.account()
    await network.deleteAccount(gone, { identity: true })
    await indexer.apply([aPost({ by: gone, rev: 1 }), anAccount(gone, ended, 'deleted')])
    expect(await purgeAll()).toEqual(['gone', 'purged'])
  })

  test('and returns before its PDS is asked is left alone', async () => {
    const gone = await aDeletedAccount()
    await indexer.apply([aPost({ by: gone, rev: 1 }), anAccount(gone, ended, 'deleted')])
    await indexer.apply([anAccount(gone, returned, null)])
    expect(await rows('select * from account_purge')).toEqual([])
    expect(await rows('select uri from post')).toHaveLength(1)
  })
})

describe('a purge', () => {
  test('that was interrupted anywhere is continued', async () => {
    const gone = await aDeletedAccount()
    const { own, others } = everythingOf(gone)
    await indexer.apply([...own, ...others, anAccount(gone, ended, 'deleted')])
    for (const at of ['confirmed', 'portion', 'finished'] as const) {
      const probe = async (point: PurgePoint) => {
        if (point === at) throw new Error(`interrupted when it has ${at}`)
      }
      await expect(purgeAll({ probe })).rejects.toThrow(/interrupted/)
    }
    expect(await purgeAll()).toEqual(['purged'])
    expect(await rows(`select uri from record where did = '${gone}'`)).toEqual([])
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test.each<PurgePoint>(['confirmed', 'portion', 'finished'])(
    'held when it has %s, and a create, end as one after the other',
    async (at) => {
      const gone = await aDeletedAccount()
      const { own, others } = everythingOf(gone)
      const late = aPost({ by: gone, rev: 30 })
      await indexer.apply([...own, ...others, anAccount(gone, ended, 'deleted')])
      const reached = Promise.withResolvers<void>()
      const release = Promise.withResolvers<void>()
      const probe = async (point: PurgePoint) => {
        if (point !== at) return
        reached.resolve()
        await release.promise
      }
      const purging = purgeAll({ probe })
      await reached.promise
      const applying = indexer.apply([late, aFollow({ by: gone, rev: 31, of: bob })])
      await expect.poll(waiting, { interval: 2 }).toBe(1)
      release.resolve()
      await Promise.all([purging, applying])
      expect(await rows(`select uri from record where did = '${gone}'`)).toEqual([])
      expect(await rows(`select did from actor where did = '${gone}'`)).toEqual([])
      expect(await rows(`select did from actor_sync where did = '${gone}'`)).toEqual([])
      expect(await miscounts(indexer.sql)).toEqual([])
    },
  )

  test('of many records goes in portions, between which others go ahead', async () => {
    const gone = await aDeletedAccount()
    const liked = aPost({ by: bob, rev: 1 })
    const likes = Array.from({ length: 1_100 }, (_, n) =>
      aLike({ by: gone, rev: n + 2, of: { ...refTo(liked), uri: `${uri(liked)}${n}` } }),
    )
    await indexer.apply([liked, ...likes, anAccount(gone, ended, 'deleted')])
    let portions = 0
    const probe = async (point: PurgePoint) => {
      if (point !== 'portion') return
      portions += 1
      // Another account is not held up by a portion, whatever it holds.
      await indexer.apply([aPost({ by: did(`p${portions}`), rev: 1 })])
    }
    expect(await purgeAll({ probe })).toEqual(['gone', 'purged'])
    expect(portions).toBe(4)
    expect(await miscounts(indexer.sql)).toEqual([])
  })

  test('of an account that returns meanwhile ends, and its repo is wished for', async () => {
    const gone = await aDeletedAccount()
    await indexer.apply([aPost({ by: gone, rev: 1 }), anAccount(gone, ended, 'deleted')])
    const probe = async (point: PurgePoint) => {
      if (point === 'portion') throw new Error('held')
    }
    await expect(purgeAll({ probe })).rejects.toThrow('held')
    await indexer.apply([anAccount(gone, returned, null)])
    expect(await purgeAll()).toEqual(['purged'])
    expect(await rows('select uri from post')).toEqual([])
    expect(await rows('select did, "upstreamStatus" from actor')).toEqual([
      { did: gone, upstreamStatus: null },
    ])
    expect(await rows(`select key from reconcile where kind = 'resync'`)).toEqual([{ key: gone }])
    expect(await rows('select "purgedRev", "snapshotScope" from repo_sync')).toEqual([
      { purgedRev: null, snapshotScope: {} },
    ])
  })

  test('is found and done by the loop beside the batches', async () => {
    const gone = await aDeletedAccount()
    await indexer.apply([aPost({ by: gone, rev: 1 }), anAccount(gone, ended, 'deleted')])
    const stop = new AbortController()
    const running = keepPurging(options({ everyMs: 10 }), stop.signal)
    await expect.poll(() => rows('select uri from record')).toEqual([])
    await expect.poll(() => rows('select * from account_purge')).toEqual([])
    stop.abort()
    await running
  })
})

async function waiting(): Promise<number> {
  const found = await rows(
    `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  return found.length
}
