/** `sluice doctor --forget-group`: removes a group that nobody counts and that holds trimming. */
import { options as backfillerOptions } from '../backfiller/options.ts'
import { options as indexerOptions } from '../indexer/options.ts'
import { type Options, readConfig, redisOptions } from '../shared/config.ts'
import { firstStream, namedGroups, parseStreamGroups, streams } from '../shared/streams/names.ts'
import { isAtWork, surveyStream } from '../shared/streams/survey.ts'
import { type Context, type ExitCode, UserError } from './command.ts'
import { openRedis, redisSettings } from './redis.ts'

const settings = {
  ...redisSettings,
  streamGroups: redisOptions.streamGroups,
  group: indexerOptions.group,
  labelGroup: indexerOptions.labelGroup,
  requestGroup: backfillerOptions.group,
} as const satisfies Options

/** Removes the group from one stream, or from every stream where it is not named. */
export async function forgetGroup(
  context: Context,
  name: string,
  only: string | undefined,
): Promise<ExitCode> {
  const { env, out } = context
  const config = readConfig(settings, env)
  await using redis = await openRedis(config, context)
  const named = parseStreamGroups(config.streamGroups)
  const own: Readonly<Record<string, string>> = {
    [streams.live]: config.group,
    [streams.backfill]: config.group,
    [streams.labels]: config.labelGroup,
    [streams.requests]: config.requestGroup,
    [firstStream(streams.requests)]: config.requestGroup,
  }
  if (only !== undefined && own[only] === undefined) {
    throw new UserError(`--stream: one of ${Object.keys(own).join(', ')}`)
  }
  const forgotten: { stream: string; group: string; pending: number; lag: number | null }[] = []
  for (const stream of only === undefined ? Object.keys(own) : [only]) {
    const { groups } = await surveyStream(redis, stream)
    const group = groups.find((one) => one.name === name)
    if (group === undefined) continue
    if (namedGroups(named, stream, own[stream]).includes(name)) {
      if (only === undefined) continue
      throw new UserError(`${name} counts on ${stream}: take it out of STREAM_GROUPS first`)
    }
    const active = group.consumers.filter(isAtWork)
    if (active.length > 0) {
      const names = active.map((consumer) => consumer.name).join(', ')
      throw new UserError(`${name} is read on ${stream} by ${names}: stop it, and wait a minute`)
    }
    await redis.xgroup('DESTROY', stream, name)
    forgotten.push({ stream, group: name, pending: group.pending, lag: group.lag })
  }
  if (forgotten.length === 0)
    throw new UserError(`no stream has a group ${name} that does not count`)
  out.rows(forgotten, '')
  return 0
}
