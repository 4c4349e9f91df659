/** Marks: at which entry of a stream each host's position was reached (law 9, "Position"). */
import type { Redis } from 'ioredis'
import { crashPoint } from '../crash-point.ts'
import { redisFailure } from '../redis.ts'
import { sleep } from '../retry.ts'
import { marksKey } from './names.ts'
import { script } from './script.ts'

const mark = script('mark.lua')

/** One a second for a day: some 5 MB. */
const marksKept = 86_400
const markEveryMs = 1_000

export interface MarkedHost {
  host: string
  /** Where its cursor is stored. */
  key: string
}

export interface Mark {
  /** The stream's last entry when the mark was made. */
  id: string
  /** By host: every event up to it stands at or below that entry. */
  positions: Record<string, string>
}

/** Marks now; null when nothing was appended since the last mark. */
export async function writeMark(
  redis: Redis,
  stream: string,
  hosts: readonly MarkedHost[],
): Promise<string | null> {
  const keys = [stream, marksKey(stream), ...hosts.map(({ key }) => key)]
  const reply = await mark(redis, keys, [marksKept, ...hosts.map(({ host }) => host)])
  return reply === null ? null : String(reply)
}

/** Marks every second until the signal aborts. A mark that Redis can't take is not missed. */
export async function keepMarking(options: {
  redis: Redis
  stream: string
  hosts: readonly MarkedHost[]
  signal: AbortSignal
}): Promise<void> {
  const { redis, stream, hosts, signal } = options
  while (!signal.aborted) {
    await sleep(markEveryMs, signal)
    try {
      crashPoint('ingester.before-mark')
      const marked = await writeMark(redis, stream, hosts)
      if (marked !== null) crashPoint('ingester.marked')
    } catch (error) {
      if (redisFailure(error) === 'fault') throw error
    }
  }
}

/**
 * The newest mark that a group has passed: nothing at or below it is left to acknowledge. Null when
 * there is none.
 */
export async function passedMark(
  redis: Redis,
  stream: string,
  group: { oldestPending: string | null; lastDelivered: string },
): Promise<Mark | null> {
  const { oldestPending, lastDelivered } = group
  const end = oldestPending === null ? lastDelivered : `(${oldestPending}`
  if (end === '(0-0') return null
  const [found] = await redis.xrevrange(marksKey(stream), end, '-', 'COUNT', 1)
  if (found === undefined) return null
  const [id, fields] = found
  const positions: Record<string, string> = {}
  for (let i = 0; i < fields.length; i += 2) positions[fields[i] ?? ''] = fields[i + 1] ?? ''
  return { id, positions }
}
