/** What one consumer reads next: its own pending entries, stale ones of the group, new ones. */
import type { Redis } from 'ioredis'
import { ledgerKey } from './names.ts'
import { script } from './script.ts'

const own = script('own.lua')
const claim = script('claim.lua')

const blockMs = 1_000
/** A page of a reply is held in memory twice, by Redis and by us, and an entry may have a megabyte. */
const pageEntries = 250

export interface RawEntry {
  id: string
  /** Null where the payload was trimmed. */
  fields: string[] | null
  /** How often it was delivered, this time included. */
  deliveries: number
}

export interface Read {
  entries: RawEntry[]
  from: 'own' | 'claimed' | 'new'
  /** Entries that turned out to have no payload and are acknowledged and counted already. */
  gone: number
}

export interface Intake {
  /**
   * Reads at most `room` entries. Own pending entries come first, then by turns with new ones; a scan
   * for stale entries of the group comes every `claimEveryMs`. Waits up to 1 s for new ones; with
   * `onlyPending` new ones are not read, and nothing is waited for.
   */
  next(room: number, how?: { onlyPending: boolean }): Promise<Read>
  /** Begins again with the own pending entries: after an outage a reply may have been lost. */
  restart(): void
  /** Ends a wait for new entries early. At worst the wait takes its second. */
  wake(): Promise<void>
}

export function createIntake(options: {
  redis: Redis
  /** Held by blocking reads. */
  reader: Redis
  stream: string
  group: string
  name: string
  minIdleMs: number
  claimEveryMs: number
  now?: () => number
}): Intake {
  const { redis, reader, stream, group, name, minIdleMs, claimEveryMs, now = Date.now } = options
  let ownAfter: string | null = '0-0'
  let claimFrom = '0-0'
  let claimAt = now() + claimEveryMs
  let ownTurn = true
  let readerId: number | null = null

  const readOwn = async (after: string, room: number): Promise<Read> => {
    const reply = (await own(redis, [stream], [group, name, after, room])) as RawReply[]
    ownAfter = reply.at(-1)?.[0] ?? null
    return { entries: reply.map(rawEntry), from: 'own', gone: 0 }
  }

  const readClaimed = async (room: number): Promise<Read> => {
    const keys = [stream, ledgerKey(stream, group)]
    const [next, reply, gone] = (await claim(redis, keys, [
      ...[group, name, minIdleMs],
      ...[claimFrom, room],
    ])) as [string, RawReply[], number]
    claimFrom = next
    // A scan that is not through goes on with the next read.
    if (next === '0-0') claimAt = now() + claimEveryMs
    return { entries: reply.map(rawEntry), from: 'claimed', gone }
  }

  const readNew = async (room: number, block: boolean): Promise<Read> => {
    readerId ??= await reader.client('ID')
    const count = ['COUNT', room] as const
    const source = ['STREAMS', stream, '>'] as const
    const reply = block
      ? await reader.xreadgroup('GROUP', group, name, ...count, 'BLOCK', blockMs, ...source)
      : await reader.xreadgroup('GROUP', group, name, ...count, ...source)
    const entries = reply?.[0]?.[1] ?? []
    return {
      entries: entries.map(([id, fields]) => ({ id, fields, deliveries: 1 })),
      from: 'new',
      gone: 0,
    }
  }

  return {
    async next(room, { onlyPending } = { onlyPending: false }) {
      const most = Math.min(room, pageEntries)
      if (ownAfter !== null && ownTurn) {
        ownTurn = false
        return readOwn(ownAfter, most)
      }
      ownTurn = true
      if (now() >= claimAt) {
        const claimed = await readClaimed(most)
        if (claimed.entries.length > 0 || claimed.gone > 0) return claimed
      }
      if (onlyPending) return { entries: [], from: 'new', gone: 0 }
      return readNew(most, ownAfter === null && now() < claimAt)
    },
    async wake() {
      if (readerId !== null) await redis.client('UNBLOCK', readerId)
    },
    restart() {
      readerId = null
      ownAfter = '0-0'
      ownTurn = true
    },
  }
}

type RawReply = [id: string, fields: string[] | null, deliveries: number]

function rawEntry([id, fields, deliveries]: RawReply): RawEntry {
  return { id, fields, deliveries }
}
