/** The ledger law: entries added = outcomes + pending + lag, for every group. */
import type { Redis } from 'ioredis'
import { ledgerKey } from './names.ts'
import { script } from './script.ts'

const ledger = script('ledger.lua')
const others = script('others.lua')

export interface LedgerBalance {
  /** Entries added to the stream since the group's ledger began. */
  added: number
  applied: number
  stale: number
  refused: Record<string, number>
  dead: Record<string, number>
  /** Acknowledged without a payload: it had been trimmed before it was read. */
  gone: number
  /** Acknowledged by older workers, as far as that was counted. */
  others: number
  pending: number
  /** Null where Redis can't tell it. */
  lag: number | null
  /** Entries added less all others; null while the lag or the base is not known. */
  off: number | null
  /** Whether both sides are equal; null as above. */
  balanced: boolean | null
}

/** Every term of the law at one moment; null when the group is not there. */
export async function ledgerBalance(
  redis: Redis,
  stream: string,
  group: string,
): Promise<LedgerBalance | null> {
  const reply = await ledger(redis, [stream, ledgerKey(stream, group)], [group])
  if (reply === null) return null
  const [entriesAdded, pending, lag, flat] = reply as [number, number, number | null, string[]]
  const counts = new Map<string, number>()
  for (let i = 0; i < flat.length; i += 2) counts.set(flat[i] ?? '', Number(flat[i + 1]))
  const base = counts.get('base')
  counts.delete('base')
  const outcomes = [...counts.values()].reduce((sum, count) => sum + count, 0)
  const added = entriesAdded - (base ?? 0)
  const off = lag === null || base === undefined ? null : added - outcomes - pending - lag
  return {
    added,
    applied: counts.get('applied') ?? 0,
    stale: counts.get('stale') ?? 0,
    refused: withPrefix(counts, 'refused:'),
    dead: withPrefix(counts, 'dead:'),
    gone: counts.get('nil') ?? 0,
    others: counts.get('others') ?? 0,
    pending,
    lag,
    off,
    balanced: off === null ? null : off === 0,
  }
}

function withPrefix(counts: Map<string, number>, prefix: string): Record<string, number> {
  return Object.fromEntries(
    [...counts]
      .filter(([outcome]) => outcome.startsWith(prefix))
      .map(([outcome, count]) => [outcome.slice(prefix.length), count]),
  )
}

/**
 * Counts as `others` what entries the group's ledger can't account for: what older workers have
 * acknowledged. Null where there is nothing to compare yet. Ours alone may be reading meanwhile.
 */
export async function countOthers(
  redis: Redis,
  stream: string,
  group: string,
): Promise<number | null> {
  return (await others(redis, [stream, ledgerKey(stream, group)], [group])) as number | null
}
