/** What a backfiller is doing, shown in Redis for `sluice status`; it fades when the process is gone. */
import type { Redis } from 'ioredis'
import { boardKey } from '../shared/streams/names.ts'
import type { Hosts } from './hosts.ts'

/** How long it is shown after the last word. */
const fadesAfterSeconds = 30
/** Hosts that are shown, the busiest first. */
const mostHosts = 100

/** A repo that is worked on. In Redis: JSON, in the field of its DID. */
export interface Running {
  host: string
  since: string
  attempt: number
}

export interface Board {
  /** Shows that a repo is worked on, until it is disposed. */
  begin: (did: string, running: Omit<Running, 'since'>) => Disposable
  /** Writes what is shown. */
  show: (redis: Redis, key: { stream: string; consumer: string }) => Promise<void>
}

/** What has come of requests since the process began. */
export interface Tally {
  done: number
  records: number
  failed: number
  ended: number
  deadLettered: number
}

export function createBoard(hosts: Hosts, tally: () => Promise<Tally>): Board {
  const running = new Map<symbol, Running & { did: string }>()
  const began = new Date().toISOString()
  return {
    begin(did, { host, attempt }) {
      const mine = Symbol(did)
      running.set(mine, { did, host, attempt, since: new Date().toISOString() })
      return { [Symbol.dispose]: () => void running.delete(mine) }
    },
    async show(redis, { stream, consumer }) {
      const key = boardKey(stream, consumer)
      const fields: Record<string, string> = {
        began,
        tally: JSON.stringify(await tally()),
        hosts: JSON.stringify(busiest(hosts)),
      }
      for (const { did, ...rest } of running.values()) fields[did] = JSON.stringify(rest)
      await redis.multi().del(key).hset(key, fields).expire(key, fadesAfterSeconds).exec()
    },
  }
}

function busiest(hosts: Hosts) {
  return [...hosts.all()]
    .sort((a, b) => b.running + b.waiting - a.running - a.waiting || b.asked - a.asked)
    .slice(0, mostHosts)
    .map(({ name, running, waiting, slow, notBefore, asked, failed }) => ({
      ...{ host: new URL(name).host, running, waiting, asked, failed, slow },
      ...(notBefore > Date.now() ? { left_alone_until: new Date(notBefore).toISOString() } : {}),
    }))
}
