/** A consumer in a process of its own, for tests that kill it: `node child.ts URL NAME`. */
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { connectRedis } from '../redis.ts'
import { sleep } from '../retry.ts'
import { consume } from './consumer.ts'
import { streamMetrics } from './metrics.ts'

const [redisUrl = '', name = ''] = process.argv.slice(2)
const log = pino({ level: 'warn' }, pino.destination(2))
const stop = new AbortController()
process.on('SIGTERM', () => stop.abort())
const redis = connectRedis({ redisUrl, log })
await consume({
  ...{ redis, stream: 's', group: 'g', name, batchSize: 20, concurrency: 2, log },
  decode: (fields) => fields[1] ?? '',
  lane: (event) => event,
  apply: async (entries, signal) => {
    await sleep(5, signal)
    await redis.rpush('applied', ...entries.map(({ event }) => event))
    await sleep(5, signal)
    return entries.map(() => 'applied')
  },
  streamGroups: new Map(),
  deadLetterMaxLength: 1_000,
  signal: stop.signal,
  metrics: streamMetrics(new Registry(), 'child'),
  minIdleMs: 2_000,
})
redis.disconnect()
