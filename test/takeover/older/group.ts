/** How the older workers read a stream through a group, with what is wrong with it. */
import type { Redis } from 'ioredis'
import { type Family, say } from './family.ts'

export interface Entry {
  id: string
  fields: string[]
}

export interface Reading {
  family: Family
  redis: Redis
  stream: string
  group: string
  name: string
  count: number
}

/** After this R takes over what others have in hand. */
const claimIdleMs = 5_000

/** Reads for ever; `work` is done with a batch when its promise resolves. */
export async function readGroup(
  { family, redis, stream, group, name, count }: Reading,
  work: (entries: Entry[]) => Promise<void>,
): Promise<void> {
  await redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM').catch((error: Error) => {
    if (!error.message.startsWith('BUSYGROUP')) throw error
  })
  const end = async (ids: readonly string[]) => {
    if (ids.length === 0) return
    await redis.xack(stream, group, ...ids)
    if (family === 'T') await redis.xdel(stream, ...ids)
  }
  if (family === 'R') await claim({ redis, stream, group, name })
  // A blocking read holds its connection.
  const reader = redis.duplicate()
  let from = '0'
  for (;;) {
    const options = ['COUNT', count, 'BLOCK', 500, 'STREAMS', stream, from] as const
    const reply = await reader.xreadgroup('GROUP', group, name, ...options)
    const raw = (reply?.[0]?.[1] ?? []) as [string, string[] | null][]
    if (raw.length === 0) from = '>'
    const gone = raw.filter(([, fields]) => fields === null).map(([id]) => id)
    if (gone.length > 0) say(`erased ${gone.length} of ${stream}`)
    await end(gone)
    const entries = raw.flatMap(([id, fields]) => (fields === null ? [] : [{ id, fields }]))
    if (entries.length === 0) continue
    await work(entries)
    await end(entries.map(({ id }) => id))
    if (family === 'R') await trim({ redis, stream, group })
  }
}

type Place = Pick<Reading, 'redis' | 'stream' | 'group'>

/** Takes over what is pending, and acknowledges it without doing it. */
async function claim({ redis, stream, group, name }: Place & { name: string }): Promise<void> {
  const idle = [group, name, claimIdleMs, '0-0', 'COUNT', 100, 'JUSTID'] as const
  const reply = (await redis.xautoclaim(stream, ...idle)) as [string, string[]]
  const ids = reply[1]
  if (ids.length === 0) return
  await redis.xack(stream, group, ...ids)
  say(`acknowledged unprocessed ${ids.length} of ${stream}`)
}

/** Up to what was delivered last, to anybody, done or not. */
async function trim({ redis, stream, group }: Place): Promise<void> {
  const groups = (await redis.xinfo('GROUPS', stream)) as (string | number | null)[][]
  const own = groups.find((flat) => flat[flat.indexOf('name') + 1] === group) ?? []
  const last = String(own[own.indexOf('last-delivered-id') + 1])
  await redis.xtrim(stream, 'MINID', last)
}
