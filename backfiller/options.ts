/** The backfiller's settings. */
import {
  count,
  flag,
  list,
  natural,
  networkOptions,
  type Options,
  optional,
  port,
  redisOptions,
  text,
  workerOptions,
} from '../shared/config.ts'
import { defaultScope } from '../shared/scope.ts'

export const options = {
  ...workerOptions,
  ...redisOptions,
  ...networkOptions,
  metricsPort: {
    ...workerOptions.metricsPort,
    env: 'BACKFILLER_METRICS_PORT',
    aliases: ['METRICS_PORT'],
    parse: port,
    default: '9090',
  },
  consumer: {
    env: 'BACKFILLER_CONSUMER',
    parse: text,
    doc: 'The name of this backfiller in its group, stable across restarts and of its own.',
  },
  group: {
    env: 'BACKFILLER_GROUP',
    parse: text,
    default: 'repo_backfill_group',
    doc: 'The consumer group on the stream of requests.',
  },
  requestStream: {
    env: 'BACKFILLER_BACKFILL_STREAM',
    parse: text,
    default: 'repo_backfill',
    doc: 'The stream of requests: which repos are to be fetched.',
  },
  firehoseStream: {
    env: 'BACKFILLER_FIREHOSE_STREAM',
    parse: text,
    default: 'firehose_backfill',
    doc: 'The stream that the records of fetched repos are put on.',
  },
  deadLetterStream: {
    env: 'BACKFILLER_DLQ_STREAM',
    parse: text,
    default: 'repo_backfill_dlq',
    doc: 'Where requests are set aside that cannot be done, each with its reason.',
  },
  collections: {
    env: 'BACKFILLER_COLLECTIONS',
    parse: list,
    default: defaultScope,
    doc: 'The collections whose records are handed over: names, prefixes ending in .*, or * for all.',
  },
  concurrency: {
    env: 'BACKFILLER_CONCURRENCY',
    parse: count,
    default: '20',
    doc: 'Repos that are worked on at once: read, proved and handed over. Several times as many may be asked for meanwhile.',
  },
  batchSize: {
    env: 'BACKFILLER_BATCH_SIZE',
    parse: count,
    default: '500',
    doc: 'Records that are put on the stream at once.',
  },
  highWaterMark: {
    env: 'BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK',
    parse: count,
    default: '500000',
    doc: 'Entries on the output stream at which a backfiller waits.',
  },
  maxCarBytes: {
    env: 'BACKFILLER_MAX_CAR_BYTES',
    parse: count,
    default: '2147483648',
    doc: 'A repo with a larger CAR is set aside.',
  },
  memoryBytes: {
    env: 'BACKFILLER_MEMORY_BYTES',
    parse: count,
    default: '67108864',
    doc: 'Bytes of repos that are in memory at once, over all that are fetched; what is beyond goes to a temporary file (in TMPDIR).',
  },
  httpTimeoutSecs: {
    env: 'BACKFILLER_HTTP_TIMEOUT_SECS',
    parse: count,
    default: '60',
    doc: 'Seconds that a host may take to answer, and may pause within an answer.',
  },
  maxRetries: {
    env: 'BACKFILLER_MAX_RETRIES',
    parse: natural,
    default: '3',
    doc: 'Further tries after a failure that may pass; then the request is set aside.',
  },
  retryInitialMs: {
    env: 'BACKFILLER_RETRY_INITIAL_BACKOFF_MS',
    parse: count,
    default: '1000',
    doc: 'Milliseconds before the first further try; they double with each.',
  },
  retryMaxMs: {
    env: 'BACKFILLER_RETRY_MAX_BACKOFF_MS',
    parse: count,
    default: '30000',
    doc: 'The most milliseconds between two tries.',
  },
  skipSignature: {
    env: 'BACKFILLER_SKIP_SIGNATURE_VERIFICATION',
    parse: flag,
    default: 'false',
    doc: 'Whether commits are believed without a check of their signature: only for trials.',
  },
  contact: {
    env: 'BACKFILLER_CONTACT',
    parse: optional(text),
    default: '',
    doc: 'An address or URL where the owner of a host can reach you; it becomes part of the user agent.',
  },
} as const satisfies Options
