/** `sluice doctor --drain`: has our indexers finish what is pending, before older ones take over. */
import type { Redis } from 'ioredis'
import { options as indexerOptions } from '../indexer/options.ts'
import { type Options, readConfig } from '../shared/config.ts'
import { sleep } from '../shared/retry.ts'
import { askToDrain, drainSeconds, endDrain } from '../shared/streams/drain.ts'
import { streams } from '../shared/streams/names.ts'
import { readState } from '../shared/streams/state.ts'
import { isAtWork, surveyConsumers } from '../shared/streams/survey.ts'
import { type Context, type ExitCode, UserError } from './command.ts'
import { openRedis, redisSettings } from './redis.ts'

const settings = {
  ...redisSettings,
  streams: indexerOptions.streams,
  group: indexerOptions.group,
  labelGroup: indexerOptions.labelGroup,
} as const satisfies Options

const lookEveryMs = 1_000
/** Consumers look once a second whether they are asked, and a read that had begun may bring more. */
const quietLooks = 4

/** Resolves when nothing is pending; our indexers rest then, until they are stopped or time is up. */
export async function drain(context: Context): Promise<ExitCode> {
  const { env, out, signal } = context
  const config = readConfig(settings, env)
  await using redis = await openRedis(config, context)
  const places = [
    ...config.streams.map((stream) => ({ stream, group: config.group })),
    { stream: streams.labels, group: config.labelGroup },
  ]
  using bar = out.progress('done of what is pending')
  let most = 0
  try {
    for (let quiet = 0; quiet < quietLooks; ) {
      for (const { stream, group } of places) await askToDrain(redis, stream, group)
      const pending = await countPending(redis, places)
      most = Math.max(most, pending)
      bar.at(most - pending, most)
      quiet = pending === 0 ? quiet + 1 : 0
      if (pending > 0) await requireReaders(redis, places)
      await sleep(lookEveryMs, signal)
      signal.throwIfAborted()
    }
  } catch (error) {
    for (const { stream, group } of places) await endDrain(redis, stream, group)
    throw error
  }
  const minutes = drainSeconds / 60
  out.value(
    { drained: most },
    () => `nothing is pending: stop our indexers within ${minutes} minutes, then they read on`,
  )
  return 0
}

interface Place {
  stream: string
  group: string
}

/** Of the whole group: what the dead have left is taken over and done as well. */
async function countPending(redis: Redis, places: readonly Place[]): Promise<number> {
  let sum = 0
  for (const { stream, group } of places) {
    const { groups } = await readState(redis, stream)
    sum += groups.find(({ name }) => name === group)?.pending ?? 0
  }
  return sum
}

/** What is pending where nobody of ours reads would stay so for ever. */
async function requireReaders(redis: Redis, places: readonly Place[]): Promise<void> {
  for (const { stream, group } of places) {
    const { groups } = await readState(redis, stream)
    if ((groups.find(({ name }) => name === group)?.pending ?? 0) === 0) continue
    const consumers = await surveyConsumers(redis, stream, group)
    if (consumers.some((consumer) => consumer.ours && isAtWork(consumer))) continue
    throw new UserError(
      `entries of ${stream} are pending in ${group}, and no indexer of ours reads it: start one first`,
    )
  }
}
