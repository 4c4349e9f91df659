/** Lists of repos that an operator wants read again. */
import type { Redis } from 'ioredis'
import { cursorHost, relistKey } from './names.ts'

/** Has an ingester read a host's list of repos again: once it has read to the end the one it is at. */
export async function askRelist(redis: Redis, host: string): Promise<void> {
  await redis.set(relistKey(cursorHost(host)), new Date().toISOString())
}

/** Whether this was asked for and has not begun. */
export async function relistAsked(redis: Redis, host: string): Promise<boolean> {
  return (await redis.exists(relistKey(cursorHost(host)))) === 1
}

/** To be called once the list's cursor stands at its beginning: what was asked for until now is under way. */
export async function relistBegun(redis: Redis, host: string): Promise<void> {
  await redis.del(relistKey(cursorHost(host)))
}
