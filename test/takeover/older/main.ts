/**
 * A stand-in for an older worker as a process: `node main.ts T|R ingester|indexer|backfiller`, with
 * the settings of its family in the environment. It has no signal handler, as theirs have none.
 */
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { createIdentity } from '../../../shared/identity.ts'
import { env } from '../../env.ts'
import { runBackfiller } from './backfiller.ts'
import { type Family, say } from './family.ts'
import { runIndexer } from './indexer.ts'
import { runIngester } from './ingester.ts'

const [family, service] = process.argv.slice(2) as [Family, string]
const required = (name: string): string => {
  const value = env[name]
  if (value === undefined) throw new Error(`${name} is not set`)
  return value
}

const redisUrl = family === 'T' ? `redis://${required('REDIS_HOST')}` : required('REDIS_URL')
const redis = new Redis(redisUrl, { protocol: 2 })
const identity = createIdentity({
  plcUrl: env['PLC_URL'] ?? 'https://plc.directory',
  handleResolver: env['HANDLE_RESOLVER'] ?? null,
  allowPrivateHosts: true,
  timeoutMs: 10_000,
  maxEntries: 1_000,
  ttlMs: 1_000,
})
say(`${family} ${service} runs`)
switch (service) {
  case 'ingester':
    await runIngester({ family, redis, env })
    break
  case 'backfiller':
    await runBackfiller({ family, redis, identity, name: required('BACKFILLER_CONSUMER') })
    break
  case 'indexer': {
    const url = required(family === 'T' ? 'DB_POSTGRES_URL' : 'DATABASE_URL')
    const sql = postgres(url, { max: 3, connection: { search_path: 'bsky,public' } })
    await runIndexer({
      family,
      redis,
      sql,
      identity,
      name: required('INDEXER_CONSUMER'),
      labelGroup: family === 'T' ? 'label_group' : required('INDEXER_GROUP'),
    })
    break
  }
  default:
    throw new Error(`no such worker: ${service}`)
}
