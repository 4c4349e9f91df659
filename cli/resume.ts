/** `sluice resume --from-postgres`: gives a Redis that was lost the positions that the indexers keep. */
import type { Redis } from 'ioredis'
import { readConfig, redisOptions } from '../shared/config.ts'
import { postgresOptions, type Sql, schemaName } from '../shared/postgres.ts'
import { cursorKeys, namedGroups, parseStreamGroups } from '../shared/streams/names.ts'
import { compareDecimals } from '../shared/streams/state.ts'
import { act, examples, type Register, UserError } from './command.ts'
import type { Row } from './output.ts'
import { openPostgres } from './postgres.ts'
import { openRedis, redisSettings } from './redis.ts'

interface Flags {
  fromPostgres?: boolean
  dryRun?: boolean
}

/** What all groups that count have passed, of one host on one stream. */
interface Position {
  host: string
  stream: string
  seq: string
  updatedAt: string
}

const settings = {
  ...redisSettings,
  ...postgresOptions,
  streamGroups: redisOptions.streamGroups,
}

export const register: Register = (program, context) => {
  program
    .command('resume')
    .description(
      'set the positions of the sources; for a Redis that was lost, before the ingester starts',
    )
    .option(
      '--from-postgres',
      'to what the indexers have applied, where Redis has none or an older one',
    )
    .option('--dry-run', 'tell what would be done; change nothing')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples(['sluice resume --from-postgres --dry-run', 'sluice resume --from-postgres']),
    )
    .action(
      act(context, async ({ fromPostgres = false, dryRun = false }: Flags) => {
        if (!fromPostgres) throw new UserError('say from where: --from-postgres')
        const { env, out } = context
        const config = readConfig(settings, env)
        await using redis = await openRedis(config, context)
        await using sql = await openPostgres(config, context, { name: 'resume' })
        const groups = parseStreamGroups(config.streamGroups)
        const positions = await readPositions(sql, config.schema, (stream) =>
          namedGroups(groups, stream),
        )
        const rows: Row[] = []
        for (const position of positions) rows.push(await resume(redis, position, dryRun))
        out.rows(rows, 'the indexers have stored no position: nothing can be resumed')
        return rows.length === 0 ? 1 : 0
      }),
    )
}

/** Of several groups the lowest: what it has not applied must be read again. */
export async function readPositions(
  sql: Sql,
  schema: string,
  groupsOf: (stream: string) => readonly string[],
): Promise<Position[]> {
  const rows = await sql.unsafe<(Position & { group: string })[]>(
    `select host, stream, "group", seq::text as seq, "updatedAt" from "${schemaName(schema)}".position
     order by stream, host, position.seq`,
  )
  const lowest = new Map<string, Position>()
  for (const { group, ...position } of rows) {
    const name = `${position.stream} ${position.host}`
    if (groupsOf(position.stream).includes(group) && !lowest.has(name)) lowest.set(name, position)
  }
  return [...lowest.values()]
}

/** Sets the cursor unless there is a newer one, which another process may write meanwhile. */
async function resume(redis: Redis, position: Position, dryRun: boolean): Promise<Row> {
  const { host, stream, seq, updatedAt } = position
  const { key } = cursorKeys(stream, host)
  for (;;) {
    await redis.watch(key)
    const there = await redis.get(key)
    const isNewer = there !== null && compareDecimals(there, seq) >= 0
    if (isNewer || dryRun) await redis.unwatch()
    else if ((await redis.multi().set(key, seq).exec()) === null) continue
    const done = isNewer ? 'kept, not older' : dryRun ? 'would be set' : 'set'
    return { stream, host, redis: there, postgres: seq, as_of: updatedAt, done }
  }
}
