/** `sluice backfill`: asks for whole repos, by name or by list. */
import { readFile } from 'node:fs/promises'
import { InvalidArgumentError } from 'commander'
import type { Redis } from 'ioredis'
import { discover } from '../ingester/discover.ts'
import { parseHost } from '../ingester/host.ts'
import { options as ingesterOptions } from '../ingester/options.ts'
import { fetchPage, largestPage } from '../ingester/repo-page.ts'
import { networkOptions, type Options, readConfig } from '../shared/config.ts'
import type { BackfillRequest } from '../shared/events.ts'
import { createIdentity } from '../shared/identity.ts'
import { isDid, isHandle, isNsid } from '../shared/repo/syntax.ts'
import { sleep } from '../shared/retry.ts'
import { firstStream, streams } from '../shared/streams/names.ts'
import { askRelist } from '../shared/streams/relist.ts'
import { requestRepos } from '../shared/streams/requests.ts'
import { act, type Context, examples, type Register, UserError } from './command.ts'
import { spoken } from './output.ts'
import { openRedis, redisSettings } from './redis.ts'
import { collectionPage } from './repos-by-collection.ts'

interface Flags {
  file?: string
  host?: string
  collection?: string
  discover?: boolean
  relist?: boolean
  resync?: boolean
  moveFirst?: boolean
  highWater: number
}

const settings = {
  ...redisSettings,
  ...networkOptions,
  relayHosts: ingesterOptions.relayHosts,
} as const satisfies Options

type Config = ReturnType<typeof readConfig<typeof settings>>
type Reason = NonNullable<BackfillRequest['reason']>

const askedAtOnce = 500
const fullPollMs = 1_000
const defaultHighWater = 1_000_000
const identity = { timeoutMs: 15_000, maxEntries: 1_000, ttlMs: 60_000 }

export const register: Register = (program, context) => {
  program
    .command('backfill')
    .description('ask for whole repos: of these accounts, or of a list of them')
    .argument('[account...]', 'DIDs or handles')
    .option('--file <csv>', 'a file whose first column holds DIDs or handles; - is standard input')
    .option('--host <pds>', 'every repo that this host lists')
    .option('--collection <nsid>', 'every repo that has records of a collection, as a relay knows')
    .option('--discover', 'every repo of every host that the relay knows; goes on where it was')
    .option('--relist', 'have the ingesters read the lists of INGESTER_RELAY_HOSTS again')
    .option('--resync', 'before the bulk list, as repos whose records are in doubt')
    .option(
      '--move-first',
      'put what waits on repo_backfill_first on repo_backfill, for older workers',
    )
    .option('--high-water <n>', 'wait while so many requests wait', wholeNumber, defaultHighWater)
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples([
        'sluice backfill did:plc:z72i7hdynmk6r22z27h6tvur bsky.app',
        'sluice backfill --file accounts.csv --resync',
        'sluice backfill --host morel.us-east.host.bsky.network',
        'sluice backfill --collection app.bsky.feed.generator',
        'sluice backfill --discover',
        'sluice backfill --relist',
      ]),
    )
    .action(
      act(context, async (accounts: string[], flags: Flags) => {
        const { out, env, signal } = context
        const { file, host, collection, discover: hosts, relist } = flags
        const lists = [file, host, collection, hosts, relist, flags.moveFirst]
        const given = lists.filter((value) => value !== undefined).length
        if (given + (accounts.length > 0 ? 1 : 0) !== 1) {
          throw new UserError('give accounts, or one of --file, --host, --collection, --discover')
        }
        const config = readConfig(settings, env)
        await using redis = await openRedis(config, context)
        if (flags.moveFirst === true) {
          const moved = await moveFirst(redis, signal)
          out.value({ moved }, () => `moved: ${moved}`)
          return 0
        }
        if (relist === true) {
          for (const relay of config.relayHosts) await askRelist(redis, relay)
          out.value({ relist: config.relayHosts }, () => `read again: ${config.relayHosts.join()}`)
          return 0
        }
        if (flags.discover === true) return await discoverAll(redis, config, flags, context)
        const reason: Reason =
          flags.resync === true ? 'resync' : accounts.length > 0 ? 'manual' : 'bulk'
        const found = reposOf(accounts, flags, config, context)
        const { requested, unknown } = await ask({ redis, reason, ...flags }, found, context)
        out.value({ requested, unknown }, () =>
          [`requested: ${requested}`, ...unknown.map((name) => `not found: ${name}`)].join('\n'),
        )
        return unknown.length === 0 ? 0 : 1
      }),
    )
}

function wholeNumber(text: string): number {
  const number = Number(text)
  if (!Number.isSafeInteger(number) || number < 1)
    throw new InvalidArgumentError('It must be a whole number of at least 1.')
  return number
}

/** DIDs, or the names that lead to none. */
type Found = { did: string } | { unknown: string }

async function* reposOf(
  accounts: readonly string[],
  { file, host, collection }: Flags,
  config: Config,
  { signal }: Context,
): AsyncGenerator<Found, void, undefined> {
  if (file !== undefined) return yield* resolved(await namesIn(file), config, signal)
  if (host !== undefined) return yield* listedBy(baseOf(host), signal)
  if (collection === undefined) return yield* resolved(accounts, config, signal)
  if (!isNsid(collection)) throw new UserError(`${collection} is no collection`)
  const relay = baseOf(config.relayHosts[0] ?? '')
  for (let cursor: string | null = null; ; ) {
    const page = await collectionPage(relay, collection, cursor, signal)
    for (const did of page.dids) yield { did }
    if (page.cursor === null || page.cursor === cursor) return
    ;({ cursor } = page)
  }
}

/** The first column of each line; a line that begins with neither a DID nor a handle is an error. */
async function namesIn(file: string): Promise<string[]> {
  const text = await readFile(file === '-' ? '/dev/stdin' : file, 'utf8').catch((error: Error) => {
    throw new UserError(error.message)
  })
  const names = text.split(/\r?\n/).map((line) => (line.split(/[,;\t]/)[0] ?? '').trim())
  const cells = names.map((name) => name.replace(/^"(.*)"$/, '$1').replace(/^@/, ''))
  // A heading may stand above the column.
  return cells.filter((name, line) => name !== '' && (line > 0 || isDid(name) || isHandle(name)))
}

async function* resolved(names: readonly string[], config: Config, signal: AbortSignal) {
  using directory = createIdentity({ ...config, ...identity })
  for (const name of names) {
    if (!isDid(name) && !isHandle(name))
      throw new UserError(`${name} is neither a DID nor a handle`)
  }
  for (const name of names) {
    const did = isDid(name) ? name : await directory.resolveHandle(name, { signal })
    yield did === null ? { unknown: name } : { did }
  }
}

async function* listedBy(http: string, signal: AbortSignal) {
  const cursors = new Set<string>()
  for (let cursor: string | null = null; ; ) {
    const page = await fetchPage({ http, cursor, limit: largestPage, signal })
    for (const { did } of page.repos) yield { did }
    ;({ cursor } = page)
    if (cursor === null) return
    if (cursors.has(cursor)) throw new Error(`the cursor of ${http} goes in circles`)
    cursors.add(cursor)
  }
}

function baseOf(host: string): string {
  try {
    return parseHost(host).http
  } catch (error) {
    throw new UserError(error instanceof Error ? error.message : String(error))
  }
}

async function ask(
  { redis, reason, highWater }: { redis: Redis; reason: Reason; highWater: number },
  found: AsyncIterable<Found>,
  { out, signal }: Context,
): Promise<{ requested: number; unknown: string[] }> {
  using progress = out.progress('requested')
  const unknown: string[] = []
  let requested = 0
  let batch: BackfillRequest[] = []
  const flush = async () => {
    while ((await redis.xlen(streams.requests)) >= highWater) {
      await sleep(fullPollMs, signal)
      signal.throwIfAborted()
    }
    await requestRepos(redis, batch)
    requested += batch.length
    batch = []
    progress.at(requested, null)
    signal.throwIfAborted()
  }
  for await (const one of found) {
    if ('unknown' in one) unknown.push(one.unknown)
    else batch.push({ did: one.did, reason })
    if (batch.length === askedAtOnce) await flush()
  }
  if (batch.length > 0) await flush()
  return { requested, unknown }
}

async function discoverAll(
  redis: Redis,
  { relayHosts, allowPrivateHosts, logLevel }: Config,
  { highWater }: Flags,
  context: Context,
): Promise<0 | 1> {
  const { out, signal } = context
  using progress = out.progress('hosts read')
  const log = context.log(logLevel)
  const relay = baseOf(relayHosts[0] ?? '')
  const found = await discover({
    ...{ redis, relay, allowPrivateHosts, highWaterMark: highWater, signal, log },
    report: ({ done, failed, hosts, repos, reposPerSecond, secondsLeft }) => {
      const left = secondsLeft === null ? 'unknown' : `about ${spoken(secondsLeft)}`
      progress.at(done + failed, hosts, `${repos} repos, ${reposPerSecond}/s; left: ${left}`)
    },
  })
  signal.throwIfAborted()
  out.value(found, () =>
    [
      `hosts: ${found.hosts}, read: ${found.done}, failed: ${found.failed}`,
      `repos: ${found.repos}, listed twice: ${found.twice}, not to be had: ${found.inactive}`,
    ].join('\n'),
  )
  return found.failed === 0 ? 0 : 1
}

/** For a rollback: older backfillers read one stream. */
async function moveFirst(redis: Redis, signal: AbortSignal): Promise<number> {
  const first = firstStream(streams.requests)
  let moved = 0
  for (;;) {
    const page = await redis.xrange(first, '-', '+', 'COUNT', askedAtOnce)
    if (page.length === 0) return moved
    const step = redis.multi()
    for (const [id, fields] of page) step.xadd(streams.requests, '*', ...fields).xdel(first, id)
    await step.exec()
    moved += page.length
    signal.throwIfAborted()
  }
}
