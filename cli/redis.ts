/** The connection to REDIS_URL of a command. */
import { type Options, redisOptions, workerOptions } from '../shared/config.ts'
import { createLog } from '../shared/log.ts'
import { type Connection, connectRedis, settled } from '../shared/redis.ts'

export const redisSettings = {
  logLevel: { ...workerOptions.logLevel, default: 'error' },
  redisUrl: redisOptions.redisUrl,
} as const satisfies Options

/** Connects, or throws what is told in one line: a command does not wait for servers. */
export async function openRedis(
  config: { redisUrl: string; logLevel: string },
  signal: AbortSignal,
): Promise<Connection> {
  const log = createLog('sluice', config.logLevel, process.stderr)
  const redis = connectRedis({ redisUrl: config.redisUrl, log, name: 'sluice' })
  await settled(redis, signal)
  if (redis.status === 'ready') return redis
  redis.disconnect()
  throw Object.assign(new Error('Redis can not be reached (ECONNREFUSED or no answer in 1 s)'), {
    code: 'ECONNREFUSED',
  })
}
