/** What backfillers show of themselves, read back: only what is in Redis right now. */
import type { Redis } from 'ioredis'
import { boardKey } from './names.ts'

export interface ShownRepo {
  did: string
  consumer: string
  host: string
  since: string
  attempt: number
}

export interface ShownHost {
  host: string
  running: number
  waiting: number
  asked: number
  failed: number
  slow: boolean
  left_alone_until?: string
}

export interface ShownBoard {
  consumer: string
  /** When the process began. */
  began: string
  tally: Readonly<Record<'done' | 'records' | 'failed' | 'ended' | 'deadLettered', number>>
  hosts: readonly ShownHost[]
  repos: readonly ShownRepo[]
}

/** The boards of the group's consumers; a backfiller that is gone has none. */
export async function readBoards(
  redis: Redis,
  stream: string,
  consumers: readonly string[],
): Promise<ShownBoard[]> {
  const boards: ShownBoard[] = []
  for (const consumer of consumers) {
    const fields = await redis.hgetall(boardKey(stream, consumer))
    const { began, tally, hosts, ...repos } = fields
    if (began === undefined) continue
    boards.push({
      consumer,
      began,
      tally: JSON.parse(tally ?? '{}'),
      hosts: JSON.parse(hosts ?? '[]'),
      repos: Object.entries(repos).map(([did, text]) => ({ did, consumer, ...JSON.parse(text) })),
    })
  }
  return boards
}

/** The names of a group's consumers; none where there is no group. */
export async function consumersOf(redis: Redis, stream: string, group: string): Promise<string[]> {
  const reply = (await redis.xinfo('CONSUMERS', stream, group).catch(() => [])) as unknown[][]
  return reply.map((flat) => String(flat[flat.indexOf('name') + 1]))
}
