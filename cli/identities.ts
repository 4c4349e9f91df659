/** `sluice identities warm`: the signing keys of all accounts from a PLC directory, for ingesters to find. */
import { networkOptions, readConfig } from '../shared/config.ts'
import { errorText } from '../shared/errors.ts'
import { IdentityError } from '../shared/identity.ts'
import { type ExportPage, fetchExport, largestPage } from '../shared/identity-export.ts'
import { createKeyStore } from '../shared/identity-keys.ts'
import { backoff, sleep } from '../shared/retry.ts'
import { keysCursorKey } from '../shared/streams/names.ts'
import { act, type Context, examples, type Register, UserError } from './command.ts'
import { openRedis, redisSettings } from './redis.ts'

const settings = { ...redisSettings, plcUrl: networkOptions.plcUrl } as const
/** The directory began in November 2022: how much of its time has been read is all that is known of the end. */
const begins = Date.parse('2022-11-01T00:00:00Z')
const dayMs = 24 * 3_600_000
const hourMs = 3_600_000
const longestPauseMs = 60_000
const triesInARow = 20

interface Flags {
  from?: string
}

export const register: Register = (program, context) => {
  const command = program.command('identities').description('keep keys of accounts at hand')
  command
    .command('warm')
    .description(
      'read the log of PLC_URL into the keys in Redis, from where the last run ended; 8 million accounts find room there',
    )
    .option('--from <time>', 'read what was made after this time (RFC 3339) instead')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples(['sluice identities warm', 'sluice identities warm --from 2026-01-01T00:00:00Z']),
    )
    .action(act(context, (flags: Flags) => warm(context, flags)))
}

async function warm(context: Context, { from }: Flags): Promise<0> {
  const { env, signal, out } = context
  const config = readConfig(settings, env)
  await using redis = await openRedis(config, context)
  const store = createKeyStore(redis)
  const cursorKey = keysCursorKey(new URL(config.plcUrl).host)
  // A key that an ingester looked up since is newer than what the log says until its end.
  const seen = Date.now() - hourMs
  using progress = out.progress('days of the log')
  let after = from === undefined ? await redis.get(cursorKey) : timeOf(from)
  const sums = { operations: 0, unreadable: 0 }
  for (;;) {
    const page = await patiently(() => fetchExport({ ...config, after, signal }), signal, out.say)
    await store.put(
      page.operations.flatMap(({ did, key }) => (key === null ? [] : [{ did, key, at: seen }])),
      'newer',
    )
    await store.remove(page.operations.flatMap(({ did, key }) => (key === null ? [did] : [])))
    sums.operations += page.operations.length
    sums.unreadable += page.unreadable
    const next = following(page, after)
    if (next !== null) await redis.set(cursorKey, next)
    progress.at(daysSince(next ?? after), Math.round((Date.now() - begins) / dayMs))
    if (page.lines < largestPage) break
    if (next === null) throw new Error('the log goes no further though it has not ended')
    after = next
  }
  out.value(
    { ...sums, until: await redis.get(cursorKey) },
    () => `${sums.operations} operations read, ${sums.unreadable} lines could not be`,
  )
  return 0
}

/**
 * Where the next page begins: a moment before the newest operation, since others of that moment may
 * follow, as long as that goes forward. Null when there is nothing newer.
 */
function following({ newest }: ExportPage, after: string | null): string | null {
  if (newest === null) return null
  const before = new Date(Date.parse(newest) - 1).toISOString()
  if (after === null || before > after) return before
  return newest > after ? newest : null
}

function timeOf(text: string): string {
  const time = Date.parse(text)
  if (Number.isNaN(time)) throw new UserError(`--from needs a time (RFC 3339), not ${text}`)
  return new Date(time).toISOString()
}

function daysSince(time: string | null): number {
  return time === null ? 0 : Math.max(0, Math.round((Date.parse(time) - begins) / dayMs))
}

/** Waits for a directory that is away or asks for patience. Throws its last answer, or the stop. */
async function patiently<T>(
  call: () => Promise<T>,
  signal: AbortSignal,
  say: (text: string) => void,
): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call()
    } catch (error) {
      signal.throwIfAborted()
      const passes = error instanceof IdentityError && error.kind === 'unavailable'
      if (!passes || attempt >= triesInARow) throw error
      const waitMs = Math.max(error.retryAfterMs ?? 0, backoff(attempt, { initialMs: 500 }))
      if (attempt === 1) say(`the directory makes us wait: ${errorText(error)}`)
      await sleep(Math.min(waitMs, longestPauseMs), signal)
      signal.throwIfAborted()
    }
  }
}
