/** `sluice dlq`: what was set aside, and what is to become of it. */
import { InvalidArgumentError } from 'commander'
import type { Redis } from 'ioredis'
import { options as backfillerOptions } from '../backfiller/options.ts'
import { options as indexerOptions } from '../indexer/options.ts'
import { type Options, readConfig } from '../shared/config.ts'
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
import { deadLetterStream } from '../shared/streams/names.ts'
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
  limit: number
}

/** The dead-letter streams of this installation, or the one that was asked for. */
interface Box {
  redis: Redis
  streams: readonly string[]
}

const settings = {
  ...redisSettings,
  streams: indexerOptions.streams,
  requests: backfillerOptions.deadLetterStream,
} as const satisfies Options

const shownAtOnce = 50
const droppedAtOnce = 500
/** Errors may be long; `show` gives them whole. */
const errorLength = 80

export const register: Register = (program, context) => {
  const dlq = program
    .command('dlq')
    .description('look at dead letters, put them back, or throw them away')
    .addHelpText('after', examples(['sluice dlq list --counts', 'sluice dlq requeue --help']))
  const command = (name: string, description: string, lines: readonly string[]) =>
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
      .addHelpText('after', examples(lines))
  const inBox = <A extends readonly unknown[]>(
    run: (box: Box, ...args: [...A, Flags]) => Promise<ExitCode>,
  ) =>
    act(context, async (...args: [...A, Flags]) => {
      const config = readConfig(settings, context.env)
      await using redis = await openRedis(config, context)
      const flags = args.at(-1) as Flags
      const own = [...config.streams.map(deadLetterStream), config.requests]
      const streams = [...new Set([...letterStreams, ...own])]
      return await run({ redis, streams: await asked(redis, streams, flags) }, ...args)
    })

  command('list', 'list letters, the oldest first, or count them', [
    'sluice dlq list --counts',
    'sluice dlq list --stream repo_backfill_dlq --reason signature --newer 1d',
  ])
    .option('--counts', 'count them by stream and reason')
    .option('--limit <n>', 'how many are listed', wholeNumber, shownAtOnce)
    .action(
      inBox<[]>((box, flags) =>
        flags.counts === true ? count(box, flags, context) : list(box, flags, context),
      ),
    )

  command('show', 'print everything of these letters', ['sluice dlq show 1767225600000-0'])
    .argument('<id...>')
    .action(
      inBox<[string[]]>(async (box, ids, flags) => {
        for (const { on, id, fields } of await byId(box, ids, wantedOf(flags))) {
          context.out.value({ on, id, ...fields }, () =>
            Object.entries({ on, id, ...fields })
              .map(([name, value]) => `${name}: ${value}`)
              .join('\n'),
          )
        }
        return 0
      }),
    )

  command('requeue', 'put letters back on their stream, as they were; tries are counted anew', [
    'sluice dlq requeue 1767225600000-0',
    'sluice dlq requeue --reason host-error --host pds.example.com',
  ])
    .argument('[id...]')
    .option('--all', 'every letter that the other options leave')
    .action(inBox<[string[]]>((box, ids, flags) => requeue(box, ids, flags, context)))

  command('drop', 'throw letters away', [
    'sluice dlq drop 1767225600000-0 --stream repo_backfill_dlq',
    'sluice dlq drop --stream firehose_live_dlq --older 30d',
  ])
    .argument('[id...]')
    .option('--all', 'every letter that the other options leave')
    .action(inBox<[string[]]>((box, ids, flags) => drop(box, ids, flags, context)))
}

/** A stream that is not there would look like one without letters. */
async function asked(redis: Redis, streams: readonly string[], { stream }: Flags) {
  if (stream === undefined) return streams
  if (streams.includes(stream) || (await redis.type(stream)) === 'stream') return [stream]
  throw new UserError(`there is no stream ${stream}: ${streams.join(', ')}`)
}

async function* letters({ redis, streams }: Box, wanted: Wanted) {
  for (const on of streams) yield* findLetters(redis, on, wanted)
}

/** Letters of different streams may have one id: then the stream must be said. */
async function byId({ redis, streams }: Box, ids: readonly string[], wanted: Wanted) {
  const wrong = ids.find((id) => !/^\d{1,20}-\d{1,20}$/.test(id))
  if (wrong !== undefined) {
    throw new UserError(`the id of a letter is such as 1767225600000-0, not ${wrong}`)
  }
  const found: Letter[] = []
  for (const id of ids) {
    const read = await Promise.all(streams.map((on) => readLetter(redis, on, id)))
    const [letter, ...others] = read.filter((one) => one !== null && isWanted(one, wanted))
    if (!letter) throw new UserError(`there is no letter ${id}`)
    if (others.length > 0) {
      const several = [letter, ...others].map((one) => one?.on).join(' and ')
      throw new UserError(`${id} stands on ${several}: say which with --stream`)
    }
    found.push(letter)
  }
  return found
}

async function count(box: Box, flags: Flags, { out }: Context): Promise<ExitCode> {
  const counts = new Map<string, { stream: string; reason: string; letters: number }>()
  let read = 0
  using progress = out.progress('letters read')
  for await (const { on, reason } of letters(box, wantedOf(flags))) {
    const row = counts.get(`${on} ${reason}`) ?? { stream: on, reason, letters: 0 }
    counts.set(`${on} ${reason}`, { ...row, letters: row.letters + 1 })
    read += 1
    progress.at(read, null)
  }
  const rows = [...counts.values()].sort((a, b) => b.letters - a.letters)
  out.rows(rows, 'there are no dead letters')
  return 0
}

async function list(box: Box, flags: Flags, { out }: Context): Promise<ExitCode> {
  const rows = []
  for await (const letter of letters(box, wantedOf(flags))) {
    if (rows.length === flags.limit) {
      out.say('there are more: --limit, or narrow it down')
      break
    }
    const { on, id, reason, host, did, failedAt, fields } = letter
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

async function requeue(
  box: Box,
  ids: readonly string[],
  flags: Flags,
  { out, signal }: Context,
): Promise<ExitCode> {
  let done = 0
  let left = 0
  using progress = out.progress('requeued')
  for await (const letter of chosen(box, ids, flags)) {
    if (await requeueLetterAgain(box.redis, letter)) done += 1
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
}

async function drop(
  box: Box,
  ids: readonly string[],
  flags: Flags,
  { out, signal }: Context,
): Promise<ExitCode> {
  let dropped = 0
  let batch: Letter[] = []
  using progress = out.progress('dropped')
  const flush = async () => {
    for (const on of new Set(batch.map((letter) => letter.on))) {
      const mine = batch.filter((letter) => letter.on === on).map(({ id }) => id)
      dropped += await dropLetters(box.redis, on, mine)
    }
    batch = []
    progress.at(dropped, null)
    signal.throwIfAborted()
  }
  for await (const letter of chosen(box, ids, flags)) {
    batch.push(letter)
    if (batch.length >= droppedAtOnce) await flush()
  }
  await flush()
  out.value({ dropped }, () => `dropped: ${dropped}`)
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
async function* chosen(box: Box, ids: readonly string[], flags: Flags) {
  const wanted = wantedOf(flags)
  if (ids.length > 0) return yield* await byId(box, ids, wanted)
  if (flags.all !== true && Object.keys(wanted).length === 0) {
    throw new UserError(
      'say which letters: by id, --reason, --host, --did, --older, --newer, or --all',
    )
  }
  yield* letters(box, wanted)
}

function wholeNumber(text: string): number {
  const number = Number(text)
  if (Number.isSafeInteger(number) && number >= 1) return number
  throw new InvalidArgumentError('It must be a whole number of at least 1.')
}

const unitsMs = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

function ageOf(text: string): number {
  const [, number, unit] = /^(\d+)([smhd])$/.exec(text) ?? []
  if (unit === undefined) throw new UserError(`an age is such as 30m, 12h or 7d, not ${text}`)
  return Number(number) * unitsMs[unit as keyof typeof unitsMs]
}
