/** A consumer's place in its group: that the group is there, and that nobody else has our name. */
import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import { redisCode } from '../redis.ts'
import { sleep } from '../retry.ts'
import { consumerKey, ledgerKey } from './names.ts'
import { script } from './script.ts'

const group = script('group.lua')
const leave = script('leave.lua')

/** How long after its last command a consumer counts as active. */
const activeMs = 10_000
const pollMs = 250
const markSeconds = 30 * 24 * 3_600

/** Another process under the same consumer name is at work. */
export class DuplicateConsumerError extends Error {
  override name = 'DuplicateConsumerError'
}

/** Creates the group at the stream's beginning unless it is there; true when it was created. */
export async function ensureGroup(redis: Redis, stream: string, name: string): Promise<boolean> {
  return (await group(redis, [stream, ledgerKey(stream, name)], [name])) === 1
}

export interface Seat {
  stream: string
  group: string
  name: string
}

/** The name of a consumer's blocking connection in CLIENT LIST. No white space is allowed there. */
export function connectionName({ stream, group, name }: Seat): string {
  return `sluice/${stream}/${group}/${name}`.replaceAll(/[^\x21-\x7e]/g, '_')
}

/**
 * Takes the consumer's seat, or throws `DuplicateConsumerError` when another process sits there. A
 * predecessor of ours that died frees it at once, for its connection is gone. Whether one of another
 * kind is alive shows only by its next command: then this waits until it has been silent for 10 s.
 * `reader` is the connection that bears the seat's name.
 */
export async function takeSeat(
  redis: Redis,
  reader: Redis,
  seat: Seat,
  signal: AbortSignal,
): Promise<void> {
  const mark = consumerKey(seat.stream, seat.group, seat.name)
  const connected = await connectionIdleMs(redis, reader, seat)
  let idle = await idleMs(redis, seat)
  const sitting = connected !== null && connected < Number.POSITIVE_INFINITY
  if (sitting && Math.min(connected, idle) < activeMs) throw duplicate(seat)
  const ours = connected !== null && !sitting && (await redis.exists(mark)) === 1
  while (!ours && idle < activeMs && !signal.aborted) {
    await sleep(pollMs, signal)
    const now = await idleMs(redis, seat)
    if (now < idle) throw duplicate(seat)
    idle = now
  }
  await markSeat(redis, mark)
}

/** Leaves the seat, so that a worker of any kind may take it at once; not while something is pending. */
export async function leaveSeat(redis: Redis, { stream, group, name }: Seat): Promise<void> {
  await leave(redis, [stream, consumerKey(stream, group, name)], [group, name])
}

function duplicate({ stream, group, name }: Seat): DuplicateConsumerError {
  return new DuplicateConsumerError(
    `another process reads ${stream} as ${name} in ${group}: give each its own name`,
  )
}

async function markSeat(redis: Redis, mark: string): Promise<void> {
  try {
    await redis.set(mark, randomUUID(), 'EX', markSeconds)
  } catch (error) {
    // On a full Redis the mark is missing, and a later start waits 10 s.
    if (redisCode(error) !== 'OOM') throw error
  }
}

/**
 * Milliseconds since the last command of another connection that bears the seat's name: infinite
 * when there is none, null when this user may not look. Redis 7.0 does not count a read that found
 * nothing as a sign of the consumer's life; the connection shows it.
 */
async function connectionIdleMs(redis: Redis, reader: Redis, seat: Seat): Promise<number | null> {
  const own = await reader.client('ID')
  let clients: string
  try {
    clients = String(await redis.client('LIST'))
  } catch (error) {
    if (redisCode(error) !== 'NOPERM') throw error
    return null
  }
  const name = `name=${connectionName(seat)}`
  const database = `db=${reader.options.db ?? 0}`
  let least = Number.POSITIVE_INFINITY
  for (const line of clients.split('\n')) {
    const words = line.split(' ')
    if (!words.includes(name) || !words.includes(database) || words.includes(`id=${own}`)) continue
    const seconds = Number(words.find((word) => word.startsWith('idle='))?.slice('idle='.length))
    least = Math.min(least, seconds * 1_000)
  }
  return least
}

/** Milliseconds since the consumer's last command; infinite when it is not there. */
async function idleMs(redis: Redis, { stream, group, name }: Seat): Promise<number> {
  const consumers = (await redis.xinfo('CONSUMERS', stream, group)) as (string | number)[][]
  for (const flat of consumers) {
    if (flat[flat.indexOf('name') + 1] === name) return Number(flat[flat.indexOf('idle') + 1])
  }
  return Number.POSITIVE_INFINITY
}
