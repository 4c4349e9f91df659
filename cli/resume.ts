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
  rewind?: boolean
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
      'set the positions of the sources, while no ingester runs: for a Redis that was lost, or a Postgres that was restored from a backup',
    )
    .option(
      '--from-postgres',
      'to what the indexers have applied, where Redis has none or an older one',
    )
    .option('--rewind', 'also where Redis has a newer one: what Postgres has lost is read again')
    .option('--dry-run', 'tell what would be done; change nothing')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples([
        'sluice resume --from-postgres --dry-run',
        'sluice resume --from-postgres',
        'sluice resume --from-postgres --rewind',
      ]),
    )
    .action(
      act(context, async (flags: Flags) => {
        if (flags.fromPostgres !== true) throw new UserError('say from where: --from-postgres')
        const { env, out } = context
        const config = readConfig(settings, env)
        await using redis = await openRedis(config, context)
        await using sql = await openPostgres(config, context, { name: 'resume' })
        const groups = parseStreamGroups(config.streamGroups)
        const positions = await readPositions(sql, config.schema, (stream) =>
          namedGroups(groups, stream),
        )
        const rows: Row[] = []
        for (const position of positions) rows.push(await resume(redis, position, flags))
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

/**
 * Sets the cursor, unless there is a newer one that is not to be rewound; another process may write
 * it meanwhile. Of the spellings of older workers the highest counts: those that are there are set too.
 */
async function resume(redis: Redis, position: Position, flags: Flags): Promise<Row> {
  const { host, stream, seq, updatedAt } = position
  const { key, variants } = cursorKeys(stream, host)
  for (;;) {
    await redis.watch(key, ...variants)
    const [there = null, ...others] = await redis.mget(key, ...variants)
    const order = there === null ? -1 : compareDecimals(there, seq)
    const isKept = order === 0 || (order > 0 && flags.rewind !== true)
    const step = redis.multi().set(key, seq)
    for (const [at, variant] of variants.entries()) if (others[at]) step.set(variant, seq)
    if (isKept || flags.dryRun) await redis.unwatch()
    else if ((await step.exec()) === null) continue
    const done = isKept ? 'kept, not older' : flags.dryRun ? 'would be set' : 'set'
    return { stream, host, redis: there, postgres: seq, as_of: updatedAt, done }
  }
}
