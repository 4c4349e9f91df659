/** Signing keys of accounts: from memory, else from Redis, else from the directory or the account's own host. */
import type { Redis } from 'ioredis'
import pLimit from 'p-limit'
import { type Account, type Identity, IdentityError } from '../shared/identity.ts'
import { createKeyStore, type StoredKey } from '../shared/identity-keys.ts'
import { redisFailure } from '../shared/redis.ts'
import { packKey } from '../shared/repo/signature.ts'
import { createBudget } from './budget.ts'
import { type Answer, createDirectory, type Directory } from './directory.ts'
import { createKeyCache } from './key-cache.ts'
import type { IngesterMetrics } from './metrics.ts'

/** Changes of keys are announced; this old they are looked at again, beside the stream. */
const freshMs = 24 * 3_600_000
/** Too old to be believed at all. */
const believedMs = 30 * 24 * 3_600_000
/** Accounts that are not there, or whose own host is away, are asked for again after this. */
const missingMs = 60_000
const accountsRemembered = 50_000
/** did:web hosts asked at once: each may be as slow as it likes. */
const hostsAtOnce = 16
/** Looks at keys that grew old wait in line; more than these are left for their next commit. */
const agedWaiting = 1_000
/** What a forged commit costs the directory: so often for one account, and so often for all. */
const refreshEveryMs = 10_000
const refreshesPerSecond = 20
const refreshesAtOnce = 200

/** `none`: there is certainly no such account, or it has no key; `unavailable`: nobody can say now. */
export type Found = { key: string } | 'none' | 'unavailable'

export interface Keys {
  /** The key in memory, as `packKey` gives it. */
  at(did: string): string | null
  /** Resolves by `by`. Callers for the same account share one look-up; null waits for as long as it takes. */
  find(did: string, by: number | null): Promise<Found>
  /**
   * Asks anew, whatever is known. `recent` when this was done of late, so that what is known holds;
   * `unavailable` also when all accounts together were asked for too often.
   */
  refresh(did: string, by: number): Promise<Found | 'recent'>
  /** The account may have another key now. */
  forget(did: string): void
  readonly directory: Directory
}

export interface KeysOptions {
  redis: Redis
  identity: Pick<Identity, 'resolve'>
  /** How many are kept in memory. */
  cached: number
  signal: AbortSignal
  metrics: IngesterMetrics
  now?: () => number
}

export function createKeys(options: KeysOptions): Keys {
  const { redis, identity, cached, signal, metrics, now = Date.now } = options
  const cache = createKeyCache(cached)
  const store = createKeyStore(redis, now)
  const missing = new Map<string, { until: number; answer: 'none' | 'unavailable' }>()
  const underWay = new Map<string, Promise<Found>>()
  /** Accounts whose look-ups that began before this may tell what was true before. */
  const forgotten = new Map<string, number>()
  const aging = new Set<string>()
  let clock = 0
  const refreshes = createBudget({
    perSecond: refreshesPerSecond,
    most: refreshesAtOnce,
    eachMs: refreshEveryMs,
    now,
  })
  const hosts = pLimit(hostsAtOnce)
  const saving: (StoredKey & { did: string })[] = []

  const resolve = async (did: string, signal: AbortSignal): Promise<Account> => {
    const began = clock
    metrics.lookUps.inc()
    const account = await identity.resolve(did, { refresh: true, signal })
    if (holds(did, began)) remember(did, account)
    return account
  }

  const holds = (did: string, began: number) => (forgotten.get(did) ?? 0) <= began

  const directory = createDirectory({ resolve, signal, now })

  const remember = (did: string, { signingKey }: Account): void => {
    if (signingKey === null) {
      miss(did, 'none')
      return
    }
    const entry = { did, key: packKey(signingKey), at: now() }
    missing.delete(did)
    keep(did, entry)
    saving.push(entry)
    if (saving.length === 1) setImmediate(save)
  }

  const keep = (did: string, { key, at }: StoredKey) => {
    cache.set(did, key, at)
    metrics.identitiesCached.set(cache.size)
  }

  const drop = (did: string) => {
    cache.delete(did)
    metrics.identitiesCached.set(cache.size)
  }

  const save = () => void unlessAway(store.put(saving.splice(0)))

  /** While Redis is away nothing is kept: who is missing there is asked for again after a restart. */
  const unlessAway = (kept: Promise<void>) =>
    kept.catch((error: unknown) => {
      if (redisFailure(error) === 'fault') throw error
    })

  const miss = (did: string, answer: 'none' | 'unavailable'): void => {
    if (answer === 'none' && cache.get(did) !== null) {
      drop(did)
      void unlessAway(store.remove([did]))
    }
    remembered(missing, did, { until: now() + missingMs, answer })
  }

  const missed = (did: string): 'none' | 'unavailable' | null => {
    const known = missing.get(did)
    return known !== undefined && known.until > now() ? known.answer : null
  }

  /** What is believed of a key that was seen then; old ones are looked at again, when there is time. */
  const believed = (did: string, found: StoredKey | null): string | null => {
    if (found === null) return null
    const age = now() - found.at
    if (age > believedMs) return null
    if (age > freshMs) lookAgain(did)
    return found.key
  }

  /** Beside the stream, when nobody is in a hurry. */
  const lookAgain = (did: string): void => {
    if (aging.size >= agedWaiting || aging.has(did)) return
    aging.add(did)
    void ask(did, null).finally(() => aging.delete(did))
  }

  const ask = async (did: string, by: number | null): Promise<Found> => {
    const answer = did.startsWith('did:web:')
      ? await askHost(did, by)
      : await directory.ask(did, by)
    return foundOf(did, answer)
  }

  /** One try: nobody else waits for this host, and it gets no other before a minute has passed. */
  const askHost = async (did: string, by: number | null): Promise<Answer> => {
    if (by === null) return hosts(() => askOnce(did, signal))
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(Math.max(0, by - now()))])
    const late = Promise.withResolvers<Answer>()
    deadline.addEventListener('abort', () => late.resolve('unavailable'), { once: true })
    return Promise.race([hosts(() => askOnce(did, deadline)), late.promise])
  }

  const askOnce = async (did: string, signal: AbortSignal): Promise<Answer> => {
    if (signal.aborted) return 'unavailable'
    try {
      return await resolve(did, signal)
    } catch (error) {
      if (error instanceof IdentityError) {
        return error.kind === 'unavailable' ? 'unavailable' : 'none'
      }
      if (signal.aborted) return 'unavailable'
      throw error
    }
  }

  const foundOf = (did: string, answer: Answer): Found => {
    if (answer === 'unavailable') {
      if (did.startsWith('did:web:')) miss(did, answer)
      return answer
    }
    if (answer !== 'none' && answer.signingKey !== null) {
      return { key: packKey(answer.signingKey) }
    }
    miss(did, 'none')
    return 'none'
  }

  /** Nobody waits for one who is in no hurry. */
  const share = (did: string, by: number | null, start: () => Promise<Found>): Promise<Found> => {
    const running = underWay.get(did)
    if (by === null) return start()
    if (running !== undefined) return running
    const started = start().finally(() => {
      if (underWay.get(did) === started) underWay.delete(did)
    })
    underWay.set(did, started)
    return started
  }

  const recall = async (did: string): Promise<string | null> => {
    const began = clock
    const found = await store.get(did)
    if (found === null || !holds(did, began)) return null
    const key = believed(did, found)
    if (key !== null) keep(did, found)
    return key
  }

  const at = (did: string) => believed(did, cache.get(did))

  return {
    at,
    directory,
    find(did, by) {
      const key = at(did)
      if (key !== null) return Promise.resolve({ key })
      return share(did, by, async () => {
        const known = missed(did)
        if (known !== null) return known
        const key = await recall(did)
        return key === null ? ask(did, by) : { key }
      })
    },
    async refresh(did, by) {
      const running = underWay.get(did)
      if (running !== undefined) return running
      const may = refreshes.take(did)
      if (may !== 'taken') return may === 'recent' ? may : 'unavailable'
      metrics.refreshes.inc()
      missing.delete(did)
      return share(did, by, () => ask(did, by))
    },
    forget(did) {
      drop(did)
      missing.delete(did)
      clock += 1
      remembered(forgotten, did, clock)
      underWay.delete(did)
      refreshes.renew(did)
      void unlessAway(store.remove([did]))
    },
  }
}

/** Sets a value; of too many names the one set longest ago goes. */
function remembered<T>(map: Map<string, T>, name: string, value: T): void {
  map.delete(name)
  map.set(name, value)
  for (const oldest of map.keys()) {
    if (map.size <= accountsRemembered) break
    map.delete(oldest)
  }
}
