/** The ledger of gaps: stretches of a source that were not read, until a pass over its repos closes them. */
import type { Redis } from 'ioredis'
import { gapsKey } from './names.ts'

/** Why something was not read. */
export type GapReason =
  /** The host no longer had what followed our position. */
  | 'outdated-cursor'
  /** Another worker read on from our position. */
  | 'epoch'
  /** A frame that nobody can decode. */
  | 'frame'
  /** A position that was claimed was not believed afterwards. */
  | 'position'
  /** More chains broke than resyncs can be under way. */
  | 'resyncs'

/** As it stands in Redis, one JSON object a gap. Positions are exclusive; null is not known. */
export interface Gap {
  host: string
  stream: string
  from: string | null
  to: string | null
  reason: GapReason
  /** No repo that was silent since then can have been missed; null where no such time is known. */
  since: string | null
  opened_at: string
  closed_at: string | null
}

/** Closed gaps that are remembered. */
const closedKept = 1_000
/** Open ones of which each is told apart; further ones widen one that is there. */
const openApart = 1_000

/**
 * Resolves when the gap is in the ledger. Opening it again, by host, stream, reason and `from`,
 * only sets its end.
 */
export async function openGap(
  redis: Redis,
  gap: Omit<Gap, 'opened_at' | 'closed_at'>,
  now: Date = new Date(),
): Promise<void> {
  const all = await readGaps(redis)
  const same = ({ host, stream, reason }: Gap) =>
    host === gap.host && stream === gap.stream && reason === gap.reason
  const open = all.filter((one) => same(one) && one.closed_at === null)
  const known = open.find(({ from }) => from === gap.from)
  const crowded = open.length >= openApart ? open.at(-1) : undefined
  const base = known ?? crowded ?? { ...gap, opened_at: now.toISOString(), closed_at: null }
  await write(redis, [{ ...base, to: gap.to ?? base.to }])
}

/** All that are remembered, the oldest first. */
export async function readGaps(redis: Redis): Promise<Gap[]> {
  const texts = await redis.hvals(gapsKey)
  const gaps = texts.map((text) => {
    const { from, to, since = null, closed_at = null, ...rest } = JSON.parse(text) as Gap
    return { ...rest, from: from || null, to: to || null, since, closed_at }
  })
  return gaps.toSorted((a, b) => (a.opened_at < b.opened_at ? -1 : 1))
}

/** Closes these gaps, and forgets the oldest of those that have long been closed. */
export async function closeGaps(
  redis: Redis,
  gaps: readonly Gap[],
  now: Date = new Date(),
): Promise<void> {
  const closed_at = now.toISOString()
  await write(
    redis,
    gaps.map((gap) => ({ ...gap, closed_at })),
  )
  const closed = (await readGaps(redis)).filter((gap) => gap.closed_at !== null)
  const old = closed.slice(0, Math.max(0, closed.length - closedKept)).map(nameOf)
  if (old.length > 0) await redis.hdel(gapsKey, ...old)
}

async function write(redis: Redis, gaps: readonly Gap[]): Promise<void> {
  const fields = gaps.flatMap((gap) => [nameOf(gap), JSON.stringify(gap)])
  if (fields.length > 0) await redis.hset(gapsKey, ...fields)
}

/** The same as in `epoch.lua`. */
function nameOf({ stream, host, reason, from }: Gap): string {
  return [stream, host, reason, from ?? ''].join(' ')
}
