/**
 * Commits that nobody could verify when they came, and what becomes of them: a durable list of repos,
 * each with the newest such commit, which is verified as soon as its key can be had.
 *
 * proved     its signature holds: what was let through is true; nothing is left to do
 * resync     it holds, but not all that was let through leads to it, or it was refused: the repo is read anew
 * disproved  it does not hold, or there is no such account: a dead letter tells, and the repo is read anew
 */
import type { Redis } from 'ioredis'
import type { Logger } from '../shared/log.ts'
import { throughOutages } from '../shared/redis.ts'
import { sleep } from '../shared/retry.ts'
import { unprovedKey } from '../shared/streams/names.ts'
import type { WholeRepo } from '../shared/streams/resyncs.ts'
import { script } from '../shared/streams/script.ts'
import type { DeadLetters } from './dead-letter.ts'
import type { CommitMessage, SyncMessage } from './frame.ts'
import type { Found, Keys } from './keys.ts'
import type { IngesterMetrics } from './metrics.ts'
import { isSignedBy, type Proved } from './prove.ts'

/** At 0.5 KB each in Redis. */
const mostRepos = 200_000
/** The list is gone through again after this. */
const roundMs = 5_000
const scanned = 200
const lowestRev = '2222222222222'

export interface Unproved {
  /**
   * Resolves when the commit stands on the list, or was told to find no room there. `refused` ones
   * became no entries.
   */
  add(
    message: CommitMessage | SyncMessage,
    proved: Proved,
    how: 'passed' | 'refused',
  ): Promise<void>
  /** Proves what stands on the list until that signal aborts, or the one given at first. */
  run(until?: AbortSignal): Promise<void>
}

export interface UnprovedOptions {
  redis: Redis
  keys: Pick<Keys, 'find' | 'refresh'>
  deadLetters: DeadLetters
  /** Has the repo read anew; false when it can't be asked for now. */
  resync: (repo: WholeRepo) => Promise<boolean>
  signal: AbortSignal
  log: Logger
  metrics: IngesterMetrics
  most?: number
  roundMs?: number
}

interface Entry {
  rev: string
  data: string
  how: 'passed' | 'refused'
  /** Base64 of what is signed, and of the signature. */
  commit: string
  sig: string
  /** Something was let through that does not lead to this commit. */
  gap?: boolean
}

const put = script('unproved.lua')
const settle = script('proved.lua')

export function createUnproved(options: UnprovedOptions): Unproved {
  const { redis, keys, deadLetters, resync, signal, log, metrics, most = mostRepos } = options
  const retry = <T>(call: () => Promise<T>) => throughOutages(call, signal)
  let full = false

  /** What its key says; null while that can't be had. */
  const judge = async (did: string, entry: Entry): Promise<'signed' | 'not-signed' | null> => {
    const proved = { unsigned: bytesOf(entry.commit), sig: bytesOf(entry.sig) }
    const isSigned = (found: Found | 'recent') =>
      typeof found !== 'string' && isSignedBy(found.key, proved)
    const found = await keys.find(did, null)
    if (found === 'unavailable') return null
    if (isSigned(found)) return 'signed'
    const again = await keys.refresh(did, Date.now() + roundMs)
    if (isSigned(again)) return 'signed'
    return again === 'unavailable' || again === 'recent' ? null : 'not-signed'
  }

  const conclude = async (did: string, text: string): Promise<void> => {
    const entry = JSON.parse(text) as Entry
    const verdict = await judge(did, entry)
    if (verdict === null || signal.aborted) return
    const { rev, how, commit, sig } = entry
    const result =
      verdict === 'not-signed' ? 'disproved' : how === 'refused' || entry.gap ? 'resync' : 'proved'
    if (result === 'disproved' && how === 'passed') {
      const fault = { reason: 'disproved', error: 'no key of the account signed it' }
      await deadLetters.write({ did, rev, commit, sig, ...fault, consumer: 'ingester' })
      log.error({ did, rev }, 'a commit that was let through is not what its account signed')
    }
    // A forged commit that was refused leaves nothing to mend.
    const mends = result === 'resync' || (result === 'disproved' && how === 'passed')
    // A rev that the account never signed is one that its repo need not reach.
    const wanted = result === 'disproved' ? lowestRev : rev
    if (mends && !(await retry(() => resync({ did, rev: wanted })))) return
    await retry(() => settle(redis, [unprovedKey], [did, text]))
    metrics.proofs.inc({ result })
  }

  return {
    async add(message, { unsigned, sig, data }, how) {
      const { did, rev } = message
      const prevData = message.type === 'commit' ? (message.prevData?.toString() ?? '') : ''
      const entry: Entry = {
        rev,
        data: data.toString(),
        how,
        commit: textOf(unsigned),
        sig: textOf(sig),
      }
      const args = [did, rev, entry.data, prevData, how, JSON.stringify(entry), most]
      const answer = await retry(() => put(redis, [unprovedKey], args))
      if (answer !== 'full') {
        full = false
        return
      }
      metrics.proofs.inc({ result: 'no-room' })
      if (!full)
        log.error(
          { did, rev, most },
          'the list of repos to be proved is full: what goes through now is not proved later',
        )
      full = true
    },
    async run(until = signal) {
      const over = new Promise<void>((resolve) => {
        until.addEventListener('abort', () => resolve(), { once: true })
      })
      while (!until.aborted) {
        let cursor = '0'
        do {
          const [next, list] = await retry(() => redis.hscan(unprovedKey, cursor, 'COUNT', scanned))
          cursor = next
          metrics.unproved.set(await retry(() => redis.hlen(unprovedKey)))
          const entries = list.flatMap((did, index) =>
            index % 2 === 0 ? [[did, list[index + 1] ?? '']] : [],
          )
          const concluded = entries.map(([did = '', text = '']) => conclude(did, text))
          // A key may not come for hours: the stop does not wait for it.
          await Promise.race([Promise.all(concluded), over])
        } while (cursor !== '0' && !until.aborted)
        await sleep(options.roundMs ?? roundMs, until)
      }
    },
  }
}

function bytesOf(base64: string): Uint8Array {
  return Buffer.from(base64, 'base64')
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
