/** `sluice dlq`: what was set aside, and what is to become of it. */
import type { Redis } from 'ioredis'
import { readConfig } from '../shared/config.ts'
import {
  dropLetters,
  findLetters,
  isWanted,
  type Letter,
  letterStreams,
  readLetter,
  requeueLetterAgain,
  type Wanted,
} from '../shared/streams/dead-letters.ts'
import { act, type Context, type ExitCode, examples, type Register, UserError } from './command.ts'
import { openRedis, redisSettings } from './redis.ts'

interface Flags {
  stream?: string
  reason?: string
  host?: string
  did?: string
  older?: string
  newer?: string
  all?: boolean
  counts?: boolean
  limit?: string
}

const shownAtOnce = 50
const droppedAtOnce = 500
/** Errors may be long; `show` gives them whole. */
const errorLength = 80

export const register: Register = (program, context) => {
  const dlq = program
    .command('dlq')
    .description('look at dead letters, put them back, or throw them away')
    .addHelpText(
      'after',
      examples([
        'sluice dlq list --counts',
        'sluice dlq list --stream repo_backfill_dlq --reason signature --newer 1d',
        'sluice dlq show 1767225600000-0',
        'sluice dlq requeue --reason host-error --host pds.example.com',
        'sluice dlq drop --stream firehose_live_dlq --older 30d',
      ]),
    )
  const command = (name: string, description: string) =>
    dlq
      .command(name)
      .description(description)
      .option('--stream <name>', 'only this dead-letter stream; default: all')
      .option('--reason <reason>', 'only letters with this reason')
      .option('--host <host>', 'only letters of this host')
      .option('--did <did>', 'only letters of this account')
      .option('--older <age>', 'only letters older than, as 30m, 12h, 7d')
      .option('--newer <age>', 'only letters newer than')
      .option('--json', 'print JSON')

  command('list', 'list letters, the oldest first, or count them')
    .option('--counts', 'count them by stream and reason')
    .option('--limit <n>', `how many are listed; default ${shownAtOnce}`)
    .action(
      act(context, (flags: Flags) => withRedis(context, (redis) => list(redis, flags, context))),
    )

  command('show', 'print everything of these letters')
    .argument('<id...>')
    .action(
      act(context, (ids: string[], flags: Flags) =>
        withRedis(context, async (redis) => {
          let found = 0
          for await (const { on, id, fields } of letters(redis, chosen(ids, flags), flags)) {
            found += 1
            context.out.value({ on, id, ...fields }, () =>
              Object.entries({ on, id, ...fields })
                .map(([name, value]) => `${name}: ${value}`)
                .join('\n'),
            )
          }
          if (found === 0) throw new UserError('there is no such letter')
          return 0
        }),
      ),
    )

  command('requeue', 'put letters back on their stream, as they were; tries are counted anew')
    .argument('[id...]')
    .option('--all', 'every letter that the other options leave')
    .action(
      act(context, (ids: string[], flags: Flags) =>
        withRedis(context, async (redis) => {
          const { out, signal } = context
          const wanted = chosen(ids, flags)
          let done = 0
          let left = 0
          using progress = out.progress('requeued')
          for await (const letter of letters(redis, wanted, flags)) {
            if (await requeueLetterAgain(redis, letter)) done += 1
            else left += 1
            progress.at(done, null)
            signal.throwIfAborted()
          }
          out.value({ requeued: done, left }, () =>
            left === 0
              ? `requeued: ${done}`
              : `requeued: ${done}; left, because they hold no entry (frames): ${left}`,
          )
          return left === 0 ? 0 : 1
        }),
      ),
    )

  command('drop', 'throw letters away')
    .argument('[id...]')
    .option('--all', 'every letter that the other options leave')
    .action(
      act(context, (ids: string[], flags: Flags) =>
        withRedis(context, async (redis) => {
          const { out, signal } = context
          let dropped = 0
          let batch: Letter[] = []
          const flush = async () => {
            for (const on of new Set(batch.map((letter) => letter.on))) {
              const mine = batch.filter((letter) => letter.on === on).map(({ id }) => id)
              dropped += await dropLetters(redis, on, mine)
            }
            batch = []
            signal.throwIfAborted()
          }
          for await (const letter of letters(redis, chosen(ids, flags), flags)) {
            batch.push(letter)
            if (batch.length >= droppedAtOnce) await flush()
          }
          await flush()
          out.value({ dropped }, () => `dropped: ${dropped}`)
          return 0
        }),
      ),
    )
}

async function withRedis(
  { env, signal }: Context,
  use: (redis: Redis) => Promise<ExitCode>,
): Promise<ExitCode> {
  await using redis = await openRedis(readConfig(redisSettings, env), signal)
  return await use(redis)
}

async function* letters(
  redis: Redis,
  { ids, ...wanted }: Wanted & { ids?: readonly string[] },
  { stream }: Flags,
): AsyncGenerator<Letter, void, undefined> {
  const streams = stream === undefined ? letterStreams : [stream]
  if (ids === undefined) for (const on of streams) yield* findLetters(redis, on, wanted)
  for (const id of ids ?? []) {
    const read = await Promise.all(streams.map((on) => readLetter(redis, on, id)))
    const [letter, ...others] = read.filter((found) => found !== null)
    if (letter === undefined || !isWanted(letter, wanted)) continue
    if (others.length > 0) {
      const several = [letter, ...others].map(({ on }) => on).join(' and ')
      throw new UserError(`${id} stands on ${several}: say which with --stream`)
    }
    yield letter
  }
}

async function list(redis: Redis, flags: Flags, { out }: Context): Promise<0> {
  const wanted = wantedOf(flags)
  if (flags.counts === true) {
    const counts = new Map<string, { stream: string; reason: string; letters: number }>()
    for await (const { on, reason } of letters(redis, wanted, flags)) {
      const row = counts.get(`${on} ${reason}`) ?? { stream: on, reason, letters: 0 }
      counts.set(`${on} ${reason}`, { ...row, letters: row.letters + 1 })
    }
    out.rows(
      [...counts.values()].sort((a, b) => b.letters - a.letters),
      'there are no dead letters',
    )
    return 0
  }
  const limit = flags.limit === undefined ? shownAtOnce : Number(flags.limit)
  if (!Number.isSafeInteger(limit) || limit < 1) throw new UserError('--limit takes a whole number')
  const rows = []
  for await (const { on, id, reason, host, did, failedAt, fields } of letters(
    redis,
    wanted,
    flags,
  )) {
    if (rows.length === limit) {
      out.say(`there are more: --limit, or narrow it down`)
      break
    }
    rows.push({
      ...{ stream: on, id, reason, host, did },
      attempts: fields['attempts'] ?? '',
      failed_at: new Date(failedAt).toISOString(),
      error: (fields['error'] ?? '').slice(0, errorLength),
    })
  }
  out.rows(rows, 'there are no dead letters')
  return 0
}

function wantedOf({ reason, host, did, older, newer }: Flags): Wanted {
  const now = Date.now()
  return {
    ...(reason === undefined ? {} : { reason }),
    ...(host === undefined ? {} : { host }),
    ...(did === undefined ? {} : { did }),
    ...(older === undefined ? {} : { before: now - ageOf(older) }),
    ...(newer === undefined ? {} : { after: now - ageOf(newer) }),
  }
}

/** What changes things must be told which: nobody throws all away by a slip. */
function chosen(ids: readonly string[], flags: Flags): Wanted & { ids?: readonly string[] } {
  const wanted = wantedOf(flags)
  const wrong = ids.find((id) => !/^\d+-\d+$/.test(id))
  if (wrong !== undefined) {
    throw new UserError(`the id of a letter is such as 1767225600000-0, not ${wrong}`)
  }
  if (ids.length > 0) return { ...wanted, ids }
  if (flags.all !== true && Object.keys(wanted).length === 0) {
    throw new UserError(
      'say which letters: by id, --reason, --host, --did, --older, --newer, or --all',
    )
  }
  return wanted
}

const unitsMs = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

function ageOf(text: string): number {
  const [, number, unit] = /^(\d+)([smhd])$/.exec(text) ?? []
  if (unit === undefined) throw new UserError(`an age is such as 30m, 12h or 7d, not ${text}`)
  return Number(number) * unitsMs[unit as keyof typeof unitsMs]
}
