/** The indexer's settings. */
import {
  count,
  flag,
  list,
  natural,
  networkOptions,
  type Options,
  oneOf,
  redisOptions,
  text,
  workerOptions,
} from '../shared/config.ts'
import { postgresOptions } from '../shared/postgres.ts'

export const options = {
  ...workerOptions,
  ...redisOptions,
  ...postgresOptions,
  ...networkOptions,
  poolMaxSize: {
    env: 'DB_POOL_MAX_SIZE',
    parse: count,
    default: '40',
    doc: 'Postgres connections at most; a batch takes one, so that few are ever open.',
  },
  poolMinIdle: {
    env: 'DB_POOL_MIN_IDLE',
    parse: natural,
    default: '0',
    doc: 'Read for the sake of older configurations: connections are opened when they are needed.',
  },
  streams: {
    env: 'INDEXER_STREAMS',
    parse: list,
    default: 'firehose_live,firehose_backfill',
    doc: 'The event streams to read.',
  },
  group: {
    env: 'INDEXER_GROUP',
    parse: text,
    default: 'firehose_group',
    doc: 'The consumer group on the event streams.',
  },
  consumer: {
    env: 'INDEXER_CONSUMER',
    parse: text,
    doc: 'The name of this indexer in its groups, stable across restarts and of its own.',
  },
  labelGroup: {
    env: 'INDEXER_LABEL_GROUP',
    parse: text,
    default: 'label_group',
    doc: 'The consumer group on the label stream.',
  },
  mode: {
    env: 'INDEXER_MODE',
    parse: oneOf('all', 'stream', 'label'),
    default: 'all',
    doc: 'What is read: the event streams (stream), the labels (label), or all.',
  },
  collections: {
    env: 'INDEXER_COLLECTIONS',
    parse: list,
    default: '',
    doc: 'The collections to index, as names, prefixes ending in .*, or * for all; by default those with tables of their own.',
  },
  concurrency: {
    env: 'INDEXER_CONCURRENCY',
    parse: count,
    default: '3000',
    doc: 'Events of one stream that may be in transactions at once: three transactions at most, each of a batch.',
  },
  batchSize: {
    env: 'INDEXER_BATCH_SIZE',
    parse: count,
    default: '1500',
    doc: 'Events in one transaction at most.',
  },
  tombstoneDays: {
    env: 'TOMBSTONE_DAYS',
    parse: count,
    default: '14',
    doc: 'For how many days a deletion is remembered, so that an older event does not undo it.',
  },
  notifyBackfilled: {
    env: 'INDEXER_BACKFILL_NOTIFICATIONS',
    parse: flag,
    default: 'false',
    doc: 'Whether accounts are notified of what a backfill found as well.',
  },
  resolveHandles: {
    env: 'ENABLE_DID_RESOLUTION',
    parse: flag,
    default: 'true',
    doc: 'Whether DIDs are resolved: for handles, and to ask the hosts of deleted accounts, which are else hidden and kept.',
  },
} as const satisfies Options
