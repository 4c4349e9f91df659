/** A parent for tests to kill: starts one server, prints where it is, stops it at the end of input. */
import { environment } from '../shared/config.ts'
import { findPlaces } from './places.ts'
import { startPostgres } from './postgres.ts'
import { startRedis } from './redis.ts'

const [name, dir = ''] = process.argv.slice(2)
const places = await findPlaces(environment)
const server =
  name === 'redis'
    ? await startRedis({ places, dir })
    : await startPostgres({ places, dir, unsafe: true })
const { url, pid, port } = server
process.stdout.write(`${JSON.stringify({ url, pid, port, cache: places.cache })}\n`)
for await (const _ of process.stdin);
await server.stop()
