/**
 * Relays, directory and identities fail under a living ingester: nothing is lost, nothing is there
 * twice, each repo keeps its order, and no position is ahead. The judge is in `room.ts`.
 */
import { expect, test } from 'vitest'
import type { RunningIngester } from '../../ingester/testing.ts'
import { type GapReason, readGaps } from '../../shared/streams/gaps.ts'
import { messageFrame } from '../../simulator/frames.ts'
import type { NetworkOptions } from '../../simulator/network.ts'
import { expectFired, type Fault } from '../../simulator/switches.ts'
import { testRedis } from '../servers/redis.ts'
import { type FaultRoom, type FaultRoomOptions, openFaultRoom, patience } from './room.ts'
import { forgedTime } from './told.ts'

interface Case {
  fault: string
  network?: NetworkOptions
  room?: Partial<FaultRoomOptions>
  env?: Record<string, string>
  /** Switched on before the ingester starts; each must have fired. */
  faults?: (room: FaultRoom) => Fault[]
  /** Done in the middle of the network's life. */
  during?: (room: FaultRoom, ingester: RunningIngester) => Promise<void>
  /** Repos may have to be read whole; by default none has. */
  resyncs?: true
  /** Why stretches stand in the ledger of gaps, and why others may. */
  gaps?: GapReason[]
  mayOpen?: GapReason[]
  /** What the ingester must have told of it: of these metrics at least so much. */
  told?: Record<string, number>
}

const commits = { type: '#commit' }

const cases: readonly Case[] = [
  {
    fault: 'a socket cut within a frame',
    faults: ({ network: { relay } }) => [
      relay.frameFault(commits, { kind: 'disconnect' }, { times: 2, chance: 0.05 }),
    ],
    told: { ingester_disconnects_total: 2 },
  },
  {
    fault: 'frames cut short',
    faults: ({ network: { relay } }) => [
      relay.frameFault(commits, { kind: 'truncate' }, { times: 2, chance: 0.05 }),
    ],
    told: { ingester_broken_frames_total: 1 },
  },
  {
    fault: 'frames that are spoilt where they begin',
    faults: ({ network: { relay } }) => [
      relay.frameFault(commits, { kind: 'corrupt', atByte: 0 }, { times: 2, chance: 0.05 }),
    ],
    told: { ingester_broken_frames_total: 1 },
  },
  {
    fault: 'frames above every size',
    faults: ({ network: { relay } }) => [
      relay.frameFault(commits, { kind: 'oversize' }, { times: 2, chance: 0.05 }),
    ],
    told: { ingester_broken_frames_total: 1 },
  },
  {
    fault: 'every frame twice',
    faults: ({ network: { relay } }) => [
      relay.frameFault({}, { kind: 'duplicate' }, { chance: 0.5, always: true }),
    ],
    told: { ingester_refused_total: 50 },
  },
  {
    fault: 'a relay that is silent but for pings',
    env: { INGESTER_IDLE_TIMEOUT_MS: '400' },
    faults: ({ network: { relay } }) => [
      relay.frameFault({}, { kind: 'silence', ms: 1_000 }, { times: 1, after: 60 }),
    ],
    during: async (_, ingester) =>
      expect(await ingester.metric('ingester_disconnects_total')).toBe(0),
  },
  {
    fault: 'a relay that is silent altogether',
    env: { INGESTER_IDLE_TIMEOUT_MS: '400' },
    faults: ({ network: { relay } }) => [
      relay.frameFault({}, { kind: 'silence', pings: false }, { times: 1, after: 60 }),
    ],
    told: { ingester_disconnects_total: 1 },
  },
  {
    fault: 'a directory that is away for a while, waited for',
    faults: ({ network: { plc } }) => [plc.fault({}, { kind: 'drop' }, { times: 6 })],
    told: { ingester_commits_verified_total: 100 },
  },
  {
    fault: 'a directory that stays away, not waited for',
    env: { INGESTER_VERIFY_UNAVAILABLE: 'pass' },
    faults: ({ network: { plc } }) => [plc.fault({}, { kind: 'hang' })],
    told: { ingester_commits_unverified_total: 100 },
  },
  {
    fault: 'keys that change in the middle, of which one relay says nothing',
    network: { relays: [{}, { lagMs: 200 }] },
    room: { honest: [1] },
    faults: ({ network: { relay } }) => [
      relay.frameFault({ type: '#identity' }, { kind: 'drop' }, { after: 12, always: true }),
    ],
    during: async (room) => {
      const { network } = room
      const [account] = [...network.accounts.values()]
      if (account === undefined) throw new Error('there are no accounts')
      for (const curve of ['p256', 'k256', 'p256'] as const) {
        await room.caughtUp([network.relay])
        await network.changeIdentity(account.did, { curve })
        await account.create('app.bsky.feed.post', { text: curve, createdAt: network.clock.iso() })
      }
    },
    resyncs: true,
    told: { ingester_identity_refreshes_total: 1 },
  },
  {
    fault: 'three relays, each later than the one before',
    network: { relays: [{}, { lagMs: 60 }, { lagMs: 250 }] },
    during: async ({ network }) => network.relays[0].disconnect(),
    told: { ingester_chain_links_total: 300 },
  },
  {
    fault:
      'three relays of which one forges, lies, tells the old as new, and knows nothing of accounts',
    network: { relays: [{}, { lagMs: 60 }, { lagMs: 150 }] },
    room: { honest: [1, 2] },
    faults: ({ network: { relay } }) => {
      const often = { chance: 0.12, always: true }
      return [
        relay.frameFault(commits, { kind: 'lie', about: 'signature' }, often),
        relay.frameFault(commits, { kind: 'lie', about: 'cid' }, often),
        relay.frameFault(commits, { kind: 'lie', about: 'rev' }, often),
        relay.frameFault(commits, { kind: 'lie', about: 'ops' }, often),
        relay.frameFault(commits, { kind: 'drop' }, often),
        relay.frameFault({}, { kind: 'reorder' }, { chance: 0.05 }),
        relay.frameFault(commits, { kind: 'corrupt' }, often),
      ]
    },
    during: async ({ network }) => {
      const { relay } = network
      for (const did of network.accounts.keys()) {
        const seq = relay.lastSeq + 1
        const forged = { seq, time: forgedTime, did, active: false, status: 'deleted' }
        await relay.play([messageFrame('#account', forged)])
      }
    },
    mayOpen: ['position', 'frame'],
    resyncs: true,
    told: { ingester_refused_total: 10 },
  },
  {
    fault: 'commits that the only relay leaves out',
    faults: ({ network: { relay } }) => [
      relay.frameFault(commits, { kind: 'drop' }, { times: 6, chance: 0.1, after: 20 }),
    ],
    room: { honest: [] },
    during: async ({ redis }) =>
      expect.poll(() => redis.xlen('repo_backfill'), patience).toBeGreaterThan(0),
    resyncs: true,
    told: { ingester_resyncs_requested_total: 1 },
  },
  {
    fault: 'a relay that comes back with lower positions, and nothing of before',
    network: { relays: [{}, { lagMs: 100 }] },
    room: { honest: [1] },
    during: async (room) => {
      await room.caughtUp([room.network.relay])
      room.network.relay.restart(3)
    },
    told: { ingester_future_cursors_total: 1 },
  },
  {
    fault: 'frames in another order',
    room: { honest: [] },
    gaps: ['position'],
    faults: ({ network: { relay } }) => [
      relay.frameFault({}, { kind: 'reorder' }, { times: 3, chance: 0.1 }),
    ],
    resyncs: true,
  },
  {
    fault: 'a frame that nobody can ever read',
    during: async ({ network }) => network.relay.play([Buffer.from('no frame')]),
    told: { ingester_dead_frames_total: 1 },
    gaps: ['frame'],
  },
  {
    fault: 'accounts that move to another host',
    network: { pds: 2 },
    // A commit on its way is judged by the key that its account has when nobody remembers the one before:
    // that is asked for anew only when the move itself is announced.
    room: {
      world: { without: ['signingKey', 'migration', 'deletion', 'deactivation', 'handle'] },
    },
    during: async (room) => {
      const { network } = room
      await room.caughtUp()
      for (const { did, pds } of [...network.states().values()].filter(({ active }) => active)) {
        const to = network.pds.find(({ url }) => url !== pds)
        if (to !== undefined) await network.migrate(did, to)
      }
    },
  },
]

test.each(cases)('$fault', { timeout: 120_000 }, async (one) => {
  await using redis = await testRedis()
  const network = { seed: one.fault, ...one.network }
  await using room = await openFaultRoom({ redisUrl: redis.url, network, ...one.room })
  const faults = one.faults?.(room) ?? []
  const ingester = room.start(one.env)
  await room.live(60)
  await room.liveDuring(async () => one.during?.(room, ingester))
  const resyncs = await room.judge()
  if (one.resyncs !== true) expect(resyncs).toEqual([])
  expectFired(...faults)
  const reasons = new Set((await readGaps(room.redis)).map(({ reason }) => reason))
  const { gaps = [], mayOpen = [] } = one
  expect([...reasons].filter((reason) => !mayOpen.includes(reason))).toEqual(gaps)
  for (const [metric, least] of Object.entries(one.told ?? {})) {
    await expect.poll(() => ingester.metric(metric), patience).toBeGreaterThanOrEqual(least)
  }
})
