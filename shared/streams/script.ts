/** Lua scripts, each an atomic transition, sent by their hash. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Redis } from 'ioredis'
import { redisCode } from '../redis.ts'

/** Runs the script once; throws what Redis answers. */
export type Script = (
  redis: Redis,
  keys: readonly string[],
  args: readonly (string | number | Buffer)[],
) => Promise<unknown>

/** The script in a file of this folder, with the functions of `info.lua`. */
export function script(file: string): Script {
  const source = `${read('info.lua')}\n${read(file)}`
  const sha = createHash('sha1').update(source).digest('hex')
  return async (redis, keys, args) => {
    const rest = [keys.length, ...keys, ...args]
    try {
      return await redis.call('EVALSHA', [sha, ...rest])
    } catch (error) {
      if (redisCode(error) !== 'NOSCRIPT') throw error
      return redis.call('EVAL', [source, ...rest])
    }
  }
}

function read(file: string): string {
  return readFileSync(new URL(file, import.meta.url), 'utf8')
}
