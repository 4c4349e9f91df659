/** `sluice status`: how far the backfill has come, and where one repo stands. */
import type { Redis } from 'ioredis'
import { options as backfillerOptions } from '../backfiller/options.ts'
import { networkOptions, type Options, optional, readConfig } from '../shared/config.ts'
import { createIdentity } from '../shared/identity.ts'
import { createLog } from '../shared/log.ts'
import { connectPostgres, databaseUrl, postgresOptions } from '../shared/postgres.ts'
import { isDid, isHandle } from '../shared/repo/syntax.ts'
import {
  consumersOf,
  readBoards,
  type ShownBoard,
  type ShownHost,
} from '../shared/streams/boards.ts'
import { findLetters } from '../shared/streams/dead-letters.ts'
import { ledgerBalance } from '../shared/streams/ledger.ts'
import { deadLetterStream, firstStream } from '../shared/streams/names.ts'
import { readState } from '../shared/streams/state.ts'
import { act, type Context, examples, type Register, UserError } from './command.ts'
import { spoken } from './output.ts'
import { openRedis, redisSettings } from './redis.ts'

interface Flags {
  repo?: string
}

const settings = {
  ...redisSettings,
  ...networkOptions,
  group: backfillerOptions.group,
  stream: backfillerOptions.requestStream,
  output: backfillerOptions.firehoseStream,
  databaseUrl: {
    ...postgresOptions.databaseUrl,
    parse: optional(databaseUrl),
    default: '',
  },
  schema: postgresOptions.schema,
} as const satisfies Options

type Config = ReturnType<typeof readConfig<typeof settings>>

const hostsShown = 20
const pageEntries = 2_000
const identity = { timeoutMs: 15_000, maxEntries: 10, ttlMs: 60_000 }

export const register: Register = (program, context) => {
  program
    .command('status')
    .description('tell how far the backfill has come, or where one repo stands')
    .option('--repo <account>', 'a DID or handle: in the queue, at work, set aside, in Postgres')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples(['sluice status', 'sluice status --repo bsky.app', 'sluice status --json']),
    )
    .action(
      act(context, async ({ repo }: Flags) => {
        const config = readConfig(settings, context.env)
        await using redis = await openRedis(config, context.signal)
        if (repo === undefined) await showAll(redis, config, context)
        else await showRepo(redis, repo, config, context)
        return 0
      }),
    )
}

async function showAll(redis: Redis, config: Config, { out }: Context): Promise<void> {
  const { stream, group, output } = config
  const boards = await boardsOf(redis, config)
  const queues = await Promise.all(
    [stream, firstStream(stream)].map(async (name) => {
      const { length, groups } = await readState(redis, name)
      const state = groups.find((one) => one.name === group)
      const inHand = state?.pending ?? 0
      return { stream: name, waiting: state?.lag ?? length - inHand, inHand }
    }),
  )
  const remaining = queues.reduce((sum, { waiting, inHand }) => sum + waiting + inHand, 0)
  const ledger = await ledgerBalance(redis, stream, group)
  const perSecond = boards.reduce((sum, { began, tally }) => {
    const seconds = Math.max(1, (Date.now() - Date.parse(began)) / 1_000)
    return sum + (tally.done + tally.ended + tally.deadLettered) / seconds
  }, 0)
  const { requeued: _, ...ended } = ledger?.refused ?? {}
  const status = {
    queues,
    remaining,
    done: ledger?.applied ?? 0,
    ended,
    deadLettered: ledger?.dead ?? {},
    deadLetters: await redis.xlen(deadLetterStream(stream)),
    outputLength: await redis.xlen(output),
    reposPerSecond: Number(perSecond.toFixed(2)),
    secondsLeft: perSecond > 0 ? Math.round(remaining / perSecond) : null,
    backfillers: boards.map(({ consumer, began, tally, repos }) => {
      return { consumer, began, running: repos.length, ...tally }
    }),
    hosts: hostsOf(boards),
  }
  out.value(status, () => {
    const left = status.secondsLeft === null ? 'unknown' : `about ${spoken(status.secondsLeft)}`
    return [
      ...queues.map(
        (queue) => `${queue.stream}: ${queue.waiting} waiting, ${queue.inHand} in hand`,
      ),
      `done: ${status.done}; ended: ${total(ended)}; set aside: ${total(status.deadLettered)}`,
      `rate: ${status.reposPerSecond} repos/s; left: ${left}`,
      `${output}: ${status.outputLength} entries; dead letters of repos: ${status.deadLetters}`,
      ...status.backfillers.map(
        ({ consumer, running, done, records }) =>
          `${consumer}: ${running} at work; ${done} repos, ${records} records since its start`,
      ),
      ...status.hosts.map(
        ({ host, running, waiting, asked, failed, slow, left_alone_until: until }) =>
          `  ${host}: ${running} running, ${waiting} waiting, ${asked} asked, ${failed} failed${slow ? ', slow' : ''}${until === undefined ? '' : `, left alone until ${until}`}`,
      ),
    ].join('\n')
  })
}

/** Of all backfillers together, the busiest first. */
function hostsOf(boards: readonly ShownBoard[]): ShownHost[] {
  const sums = new Map<string, ShownHost>()
  for (const shown of boards.flatMap(({ hosts }) => hosts)) {
    const sum = sums.get(shown.host)
    sums.set(shown.host, sum === undefined ? shown : added(sum, shown))
  }
  const busy = ({ running, waiting, asked }: ShownHost) => (running + waiting) * 1e9 + asked
  return [...sums.values()].sort((a, b) => busy(b) - busy(a)).slice(0, hostsShown)
}

function added(a: ShownHost, b: ShownHost): ShownHost {
  return {
    ...a,
    ...b,
    running: a.running + b.running,
    waiting: a.waiting + b.waiting,
    asked: a.asked + b.asked,
    failed: a.failed + b.failed,
    slow: a.slow || b.slow,
  }
}

async function showRepo(
  redis: Redis,
  account: string,
  config: Config,
  { out, signal }: Context,
): Promise<void> {
  const did = await didOf(account, config, signal)
  const running = (await boardsOf(redis, config))
    .flatMap(({ repos }) => repos)
    .filter((repo) => repo.did === did)
  const requests: { stream: string; id: string; request: string }[] = []
  for (const stream of [config.stream, firstStream(config.stream)]) {
    for await (const request of requestsFor(redis, stream, did)) {
      requests.push(request)
      signal.throwIfAborted()
    }
  }
  const letters: Record<'id' | 'reason' | 'host' | 'attempts' | 'error', string>[] = []
  let setAsideAt = 0
  for await (const { id, reason, host, fields, failedAt } of findLetters(
    redis,
    deadLetterStream(config.stream),
    { did },
  )) {
    letters.push({
      id,
      reason,
      host,
      attempts: fields['attempts'] ?? '',
      error: fields['error'] ?? '',
    })
    setAsideAt = failedAt
  }
  const stored =
    config.databaseUrl === null ? null : await storedOf(did, config, config.databaseUrl)
  const state =
    running.length > 0
      ? 'running'
      : requests.length > 0
        ? 'waiting'
        : setAsideAt > Date.parse(stored?.snapshotAt ?? '1970-01-01')
          ? 'dead-lettered'
          : stored?.status
            ? `ended: ${stored.status}`
            : stored?.snapshotRev
              ? `done at ${stored.snapshotRev}`
              : 'unknown'
  out.value({ did, state, running, requests, letters, stored }, () =>
    [
      `${did}: ${state}`,
      ...running.map((one) => `  at work: ${one.consumer}, at ${one.host}, since ${one.since}`),
      ...requests.map(({ stream, id, request }) => `  waiting: ${stream} ${id} ${request}`),
      ...letters.map((one) => `  set aside: ${one.id} ${one.reason} (${one.host}) ${one.error}`),
      ...(stored === null ? [] : [`  in Postgres: ${JSON.stringify(stored)}`]),
    ].join('\n'),
  )
}

async function didOf(account: string, config: Config, signal: AbortSignal): Promise<string> {
  if (isDid(account)) return account
  if (!isHandle(account)) throw new UserError(`${account} is neither a DID nor a handle`)
  using directory = createIdentity({ ...config, ...identity })
  const did = await directory.resolveHandle(account, { signal })
  if (did === null) throw new UserError(`${account} leads to no account`)
  return did
}

/** Looks through the whole queue: some seconds for a million requests. */
async function* requestsFor(redis: Redis, stream: string, did: string) {
  for (let after = '-'; ; ) {
    const page = await redis.xrange(stream, after, '+', 'COUNT', pageEntries)
    for (const [id, fields] of page) {
      const request = fields[fields.indexOf('repo') + 1] ?? ''
      if (request.includes(`"${did}"`)) yield { stream, id, request }
    }
    const end = page.at(-1)
    if (end === undefined || page.length < pageEntries) return
    after = `(${end[0]}`
  }
}

interface Stored {
  rev: string | null
  snapshotRev: string | null
  snapshotAt: string | null
  status: string | null
  statusAt: string | null
}

async function storedOf(did: string, config: Config, url: string): Promise<Stored | null> {
  await using sql = connectPostgres({
    databaseUrl: url,
    poolSize: 1,
    log: createLog('sluice', config.logLevel, process.stderr),
    applicationName: 'sluice-status',
  })
  const [row] = await sql<Stored[]>`
    select rev, "snapshotRev", "snapshotAt", status, "statusAt"
    from ${sql(config.schema)}.repo_sync where did = ${did}`
  return row === undefined ? null : { ...row }
}

async function boardsOf(redis: Redis, { stream, group }: Config): Promise<ShownBoard[]> {
  return readBoards(redis, stream, await consumersOf(redis, stream, group))
}

function total(counts: Readonly<Record<string, number>>): string {
  const sum = Object.values(counts).reduce((all, count) => all + count, 0)
  const parts = Object.entries(counts).map(([name, count]) => `${name} ${count}`)
  return parts.length === 0 ? '0' : `${sum} (${parts.join(', ')})`
}
