/** The connection to REDIS_URL of a command. */
import { type Options, redisOptions, workerOptions } from '../shared/config.ts'
import { errorText } from '../shared/errors.ts'
import { type Connection, connectRedis, redisCode, settled } from '../shared/redis.ts'
import { type Context, UserError } from './command.ts'

export const redisSettings = {
  logLevel: { ...workerOptions.logLevel, default: 'error' },
  redisUrl: redisOptions.redisUrl,
} as const satisfies Options

/** Connects, or throws what is told in one line: a command does not wait for servers. */
export async function openRedis(
  config: { redisUrl: string; logLevel: string },
  { log, signal }: Context,
): Promise<Connection> {
  const redis = connectRedis({ ...config, log: log(config.logLevel), name: 'sluice' })
  let failure: unknown = new Error('no answer in 1 s')
  redis.on('error', (error) => {
    failure = error
  })
  await settled(redis, signal)
  if (redis.status === 'ready') return redis
  redis.disconnect()
  signal.throwIfAborted()
  const text = `Redis can not be reached: ${errorText(failure)}; check REDIS_URL`
  if (['NOAUTH', 'WRONGPASS', 'NOPERM'].includes(redisCode(failure) ?? ''))
    throw new UserError(text)
  throw Object.assign(new Error(text), { code: 'ECONNREFUSED' })
}
