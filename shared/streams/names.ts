/** Every Redis key name of the streams, in one place. Pure. */

export const streams = {
  live: 'firehose_live',
  backfill: 'firehose_backfill',
  requests: 'repo_backfill',
  requestsFirst: 'repo_backfill_first',
  labels: 'label_live',
} as const

/** The group that reads a stream when nobody says otherwise. */
const standardGroups: Readonly<Record<string, string>> = {
  [streams.live]: 'firehose_group',
  [streams.backfill]: 'firehose_group',
  [streams.requests]: 'repo_backfill_group',
  [streams.requestsFirst]: 'repo_backfill_group',
  [streams.labels]: 'label_group',
}

/** The token of the one ingester that may append. */
export const fenceKey = 'ingester:fence'

/** Signing keys of the accounts whose DIDs begin with these bytes. */
export const keysKey = (bucket: string): string => `ingester:keys:${bucket}`

/** How far a directory's log of operations has been read into the keys: a time. */
export const keysCursorKey = (host: string): string => `ingester:keys-read:${host}`

/** Commits that were let through without their key, by account: each is to be proved. */
export const unprovedKey = 'ingester:unproved'

/**
 * The epoch of the chain states, and for each cursor the value that our append wrote last, with the
 * time of its event. The states themselves are in `chainBucketKey`.
 */
export const chainKey = 'ingester:chain'
export const chainBucketKey = (bucket: number): string => `${chainKey}:${bucket}`

/** Repos whose resync is wanted, with the rev that it must reach; and those not requested yet. */
export const resyncsKey = 'ingester:resyncs'
export const resyncsWaitingKey = `${resyncsKey}:waiting`
/** How many were requested in the present minute. */
export const resyncsMinuteKey = `${resyncsKey}:minute`

/** Stretches of a source that were not read, by name. */
export const gapsKey = 'ingester:gaps'
/** How far the pass over a host's list of repos has come that closes its gaps. */
export const gapPassKey = (host: string): string => `${gapsKey}:pass:${host}`

/** That some indexer walks the dead letters for accounts that were deleted. */
export const lettersKey = 'indexer:letters'

/** That a host's list of repos is to be read again. */
export const relistKey = (host: string): string => `repo_backfill:relist:${host}`

/** What a listRepos cursor holds once the list has been read to its end. */
export const cursorDone = '!ingester-done'

/** The stream of requests that go before those of another. */
export const firstStream = (stream: string): string => `${stream}_first`

export const deadLetterStream = (stream: string): string => `${stream}_dlq`
export const ledgerKey = (stream: string, group: string): string => `${stream}:ledger:${group}`
export const suspectsKey = (stream: string): string => `${stream}:suspects`
export const marksKey = (stream: string): string => `${stream}:marks`

/** What one backfiller is doing with the requests of a stream. */
export const boardKey = (stream: string, consumer: string): string => `${stream}:worker:${consumer}`

/** The number of the last batch that one producer's session has appended. */
export const sessionKey = (stream: string, session: string): string =>
  `${stream}:producer:${session}`

/** Says that the last consumer under this name was one of ours. */
export const consumerKey = (stream: string, group: string, name: string): string =>
  `${stream}:consumer:${group}:${name}`

/** That the consumers of a group are to finish what is pending, and to read nothing new. */
export const drainKey = (stream: string, group: string): string => `${stream}:drain:${group}`

/** The host as cursor keys spell it: no scheme, no trailing slash. */
export const cursorHost = (host: string): string =>
  host.replace(/^[a-z][a-z0-9+.-]*:\/\//i, '').replace(/\/+$/, '')

/**
 * The keys under which a host's cursor may stand: first the stripped one, which we write, then those
 * of the older workers, which kept the operator's spelling.
 */
export function cursorKeys(stream: string, host: string): { key: string; variants: string[] } {
  const key = `${stream}:cursor:${cursorHost(host)}`
  const raw = `${stream}:cursor:${host.replace(/\/+$/, '')}`
  const variants = new Set([`${stream}:cursor:${host}`, raw, `${raw}/`, `${key}/`])
  variants.delete(key)
  return { key, variants: [...variants] }
}

/** The groups named for each stream in STREAM_GROUPS. */
export type StreamGroups = ReadonlyMap<string, readonly string[]>

/**
 * Reads STREAM_GROUPS: `stream=group+group`, one item a stream. Throws an Error that names the item
 * it cannot read.
 */
export function parseStreamGroups(items: readonly string[]): StreamGroups {
  const groups = new Map<string, string[]>()
  for (const item of items) {
    const [stream, names, ...rest] = item.split('=').map((part) => part.trim())
    const list = (names ?? '').split('+').map((name) => name.trim())
    if (!stream || rest.length > 0 || list.some((name) => name === '')) {
      throw new Error(`expected stream=group+group, got ${JSON.stringify(item)}`)
    }
    groups.set(stream, [...new Set([...(groups.get(stream) ?? []), ...list])])
  }
  return groups
}

/**
 * The groups that count on a stream: those of STREAM_GROUPS, else the reader's own, else the
 * standard one. The reader's own always counts.
 */
export function namedGroups(named: StreamGroups, stream: string, own?: string): string[] {
  const fallback = own ?? standardGroups[stream]
  const groups = named.get(stream) ?? (fallback === undefined ? [] : [fallback])
  return own === undefined || groups.includes(own) ? [...groups] : [...groups, own]
}
