/** The ingester's settings. */
import {
  count,
  list,
  natural,
  networkOptions,
  type Options,
  oneOf,
  optional,
  redisOptions,
  workerOptions,
} from '../shared/config.ts'
import { defaultScope } from '../shared/scope.ts'
import { parseHost } from './host.ts'

/** Hosts, each with or without its scheme, as `bsky.network` or `ws://localhost:2470`. */
function hosts(value: string): readonly string[] {
  const names = list(value)
  for (const name of names) parseHost(name)
  return names
}

/** A scope: a pattern that can match nothing is a mistake. */
function scope(value: string): readonly string[] {
  const patterns = list(value)
  const wrong = patterns.find(
    (part) => part !== '*' && !/^[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*(\.\*)?$/.test(part),
  )
  if (wrong === undefined) return patterns
  throw new Error(`must hold names, prefixes ending in .*, or *, not ${wrong}`)
}

export const options = {
  ...workerOptions,
  ...redisOptions,
  ...networkOptions,
  metricsPort: { ...workerOptions.metricsPort, default: '4100' },
  mode: {
    env: 'INGESTER_MODE',
    parse: oneOf('all', 'firehose', 'backfill', 'labeler'),
    default: 'all',
    doc: 'Which sources are read: all, or only firehose, backfill (lists of repos) or labeler.',
  },
  relayHosts: {
    env: 'INGESTER_RELAY_HOSTS',
    aliases: ['INGESTER_HOSTS'],
    parse: hosts,
    default: 'bsky.network',
    doc: 'The relays to follow, comma-separated; ws:// or http:// before a name means without TLS.',
  },
  discovery: {
    env: 'INGESTER_DISCOVERY',
    parse: oneOf('relay', 'hosts'),
    default: 'relay',
    doc: 'Where repos are found: in the list of each relay, or in those of all hosts that the first relay knows, which have more than twice as many.',
  },
  labelerHosts: {
    env: 'INGESTER_LABELER_HOSTS',
    parse: hosts,
    default: '',
    doc: 'The labelers to follow, comma-separated.',
  },
  start: {
    env: 'INGESTER_START',
    parse: oneOf('live', 'oldest'),
    default: 'oldest',
    doc: 'Where a source begins that has no stored cursor: at its oldest event, or live.',
  },
  collections: {
    env: 'INGESTER_COLLECTIONS',
    parse: scope,
    default: defaultScope,
    doc: 'The collections whose records are handed over: names, prefixes ending in .*, or * for all.',
  },
  verify: {
    env: 'INGESTER_VERIFY',
    parse: oneOf('full', 'signature', 'none'),
    default: 'full',
    doc: 'What is proved of each commit: full (signature and tree), signature, or none.',
  },
  threads: {
    env: 'INGESTER_THREADS',
    parse: optional(natural),
    default: '',
    doc: 'The most threads that prove commits, some 8,000 a second each; they are started as there is work for them. 0 proves on the main thread. Empty means 2, and 0 where INGESTER_VERIFY is none: there they cost more than they save.',
  },
  verifyUnavailable: {
    env: 'INGESTER_VERIFY_UNAVAILABLE',
    parse: oneOf('pass', 'wait'),
    default: 'pass',
    doc: 'What becomes of a commit whose key cannot be had within 5 s: pass (marked, and proved later) or wait for the directory, which suits a mirror.',
  },
  resyncsPerMinute: {
    env: 'INGESTER_RESYNC_PER_MINUTE',
    parse: count,
    default: '600',
    doc: 'Repos that are requested again in a minute because their chain is broken; further ones wait.',
  },
  batchSize: {
    env: 'INGESTER_BATCH_SIZE',
    parse: count,
    default: '500',
    doc: 'Frames that are appended at once.',
  },
  batchTimeoutMs: {
    env: 'INGESTER_BATCH_TIMEOUT_MS',
    parse: count,
    default: '1000',
    doc: 'The most milliseconds that a batch waits for frames that are being verified; an idle socket closes it at once.',
  },
  idleTimeoutMs: {
    env: 'INGESTER_IDLE_TIMEOUT_MS',
    parse: count,
    default: '90000',
    doc: 'Milliseconds without a sign of life, not even an answer to a ping, after which a connection is given up.',
  },
  highWaterMark: {
    env: 'INGESTER_HIGH_WATER_MARK',
    parse: count,
    default: '100000',
    doc: 'Entries on a stream that wait for their readers at which the ingester stops reading its source.',
  },
  firehoseHighWaterMark: {
    env: 'INGESTER_FIREHOSE_STREAM_HIGH_WATER_MARK',
    parse: optional(count),
    default: '',
    doc: 'The same for firehose_live alone.',
  },
  labelHighWaterMark: {
    env: 'INGESTER_LABEL_STREAM_HIGH_WATER_MARK',
    parse: optional(count),
    default: '',
    doc: 'The same for label_live alone.',
  },
  repoHighWaterMark: {
    env: 'INGESTER_REPO_STREAM_HIGH_WATER_MARK',
    parse: optional(count),
    default: '',
    doc: 'The same for repo_backfill alone.',
  },
} as const satisfies Options
