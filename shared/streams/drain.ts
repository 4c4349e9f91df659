/** Draining: a group's consumers of ours finish what is pending and read nothing new, until they stop. */
import type { Redis } from 'ioredis'
import { drainKey } from './names.ts'
import { script } from './script.ts'

const drain = script('drain.lua')

/** So long consumers rest after they were asked last; then they read on. */
export const drainSeconds = 600

/** Asks all consumers of ours that run now. */
export async function askToDrain(redis: Redis, stream: string, group: string): Promise<void> {
  await drain(redis, [drainKey(stream, group)], [drainSeconds])
}

/** Lets them read on. */
export async function endDrain(redis: Redis, stream: string, group: string): Promise<void> {
  await redis.del(drainKey(stream, group))
}

/** The second by the clock of Redis: what was asked before it does not concern who begins now. */
export async function redisSeconds(redis: Redis): Promise<number> {
  return Number((await redis.time())[0])
}

/** Whether a consumer that began at this second is asked to drain. */
export async function isAskedToDrain(
  redis: Redis,
  { stream, group }: { stream: string; group: string },
  began: number,
): Promise<boolean> {
  const asked = await redis.get(drainKey(stream, group))
  return asked !== null && Number(asked) >= began
}
