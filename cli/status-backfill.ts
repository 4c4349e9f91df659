/** What `sluice status` tells of the backfill: the queue of repos, the backfillers, their hosts. */
import type { Redis } from 'ioredis'
import {
  consumersOf,
  readBoards,
  type ShownBoard,
  type ShownHost,
} from '../shared/streams/boards.ts'
import { ledgerBalance } from '../shared/streams/ledger.ts'
import { firstStream } from '../shared/streams/names.ts'
import { readState } from '../shared/streams/state.ts'
import { type Section, spoken } from './output.ts'

/** The queue of repos and who reads it. */
export interface Queue {
  stream: string
  group: string
}

export type Backfill = Awaited<ReturnType<typeof readBackfill>>

const hostsShown = 20

export async function readBackfill(redis: Redis, { stream, group }: Queue) {
  const boards = await boardsOf(redis, { stream, group })
  const queues = await Promise.all(
    [stream, firstStream(stream)].map(async (name) => {
      const { length, groups } = await readState(redis, name)
      const state = groups.find((one) => one.name === group)
      const inHand = state?.pending ?? 0
      return { stream: name, waiting: state?.lag ?? length - inHand, inHand }
    }),
  )
  const remaining = queues.reduce((sum, { waiting, inHand }) => sum + waiting + inHand, 0)
  const ledger = await ledgerBalance(redis, stream, group)
  const perSecond = boards.reduce((sum, { began, tally }) => {
    const seconds = Math.max(1, (Date.now() - Date.parse(began)) / 1_000)
    return sum + (tally.done + tally.ended + tally.deadLettered) / seconds
  }, 0)
  const { requeued: _, ...ended } = ledger?.refused ?? {}
  return {
    queues,
    remaining,
    done: ledger?.applied ?? 0,
    ended,
    deadLettered: ledger?.dead ?? {},
    reposPerSecond: Number(perSecond.toFixed(2)),
    secondsLeft: perSecond > 0 ? Math.round(remaining / perSecond) : null,
    backfillers: boards.map(({ consumer, began, tally, repos }) => {
      return { consumer, began, running: repos.length, ...tally }
    }),
    hosts: hostsOf(boards),
  }
}

/** The same for people. */
export function backfillSections(found: Backfill): Section[] {
  const { remaining, done, ended, deadLettered, reposPerSecond, secondsLeft } = found
  const left = secondsLeft === null ? null : spoken(secondsLeft)
  const sums = { remaining, done, ended: total(ended), set_aside: total(deadLettered) }
  return [
    {
      title: 'repos',
      rows: [{ ...sums, repos_per_second: reposPerSecond, left }],
      none: '',
    },
    {
      title: 'backfillers',
      rows: found.backfillers.map((one) => ({
        ...{ consumer: one.consumer, at_work: one.running, done: one.done, failed: one.failed },
        ...{ ended: one.ended, set_aside: one.deadLettered, records: one.records },
        since: one.began,
      })),
      none: 'none shows itself',
    },
    {
      title: 'hosts',
      rows: found.hosts.map(({ host, running, waiting, asked, failed, slow, left_alone_until }) => {
        const until = left_alone_until ?? null
        return { host, running, waiting, asked, failed, slow, left_alone_until: until }
      }),
      none: 'none is asked',
    },
  ]
}

export async function boardsOf(redis: Redis, { stream, group }: Queue): Promise<ShownBoard[]> {
  return readBoards(redis, stream, await consumersOf(redis, stream, group))
}

/** Of all backfillers together, the busiest first. */
function hostsOf(boards: readonly ShownBoard[]): ShownHost[] {
  const sums = new Map<string, ShownHost>()
  for (const shown of boards.flatMap(({ hosts }) => hosts)) {
    const sum = sums.get(shown.host)
    sums.set(shown.host, sum === undefined ? shown : added(sum, shown))
  }
  const busy = ({ running, waiting, asked }: ShownHost) => (running + waiting) * 1e9 + asked
  return [...sums.values()].sort((a, b) => busy(b) - busy(a)).slice(0, hostsShown)
}

function added(a: ShownHost, b: ShownHost): ShownHost {
  return {
    ...a,
    ...b,
    running: a.running + b.running,
    waiting: a.waiting + b.waiting,
    asked: a.asked + b.asked,
    failed: a.failed + b.failed,
    slow: a.slow || b.slow,
  }
}

/** A sum and what it is made of. */
function total(counts: Readonly<Record<string, number>>): string {
  const sum = Object.values(counts).reduce((all, count) => all + count, 0)
  const parts = Object.entries(counts).map(([name, count]) => `${name} ${count}`)
  return parts.length === 0 ? '0' : `${sum} (${parts.join(', ')})`
}
