/** `sluice verify`: whether the rows of repos are what the repos hold. */
import { InvalidArgumentError } from 'commander'
import { Counter, Gauge } from 'prom-client'
import { createFetcher } from '../backfiller/fetch.ts'
import { createMemory } from '../backfiller/memory.ts'
import { options as backfillerOptions } from '../backfiller/options.ts'
import { collections } from '../indexer/collections/index.ts'
import { createDeriver } from '../indexer/derive.ts'
import { compileLexicons } from '../indexer/lexicons.ts'
import { options as indexerOptions } from '../indexer/options.ts'
import { networkOptions, type Options, readConfig, workerOptions } from '../shared/config.ts'
import type { BackfillRequest } from '../shared/events.ts'
import { createIdentity } from '../shared/identity.ts'
import { createHealth, createRegistry, serveMetrics, version } from '../shared/metrics.ts'
import { postgresOptions, type Sql } from '../shared/postgres.ts'
import { isDid } from '../shared/repo/syntax.ts'
import { sleep } from '../shared/retry.ts'
import { scopeOf } from '../shared/scope.ts'
import { requestRepos } from '../shared/streams/requests.ts'
import { act, type Context, type ExitCode, examples, type Register, UserError } from './command.ts'
import { type CompareOptions, type Comparison, compare } from './compare.ts'
import { openPostgres } from './postgres.ts'
import { openRedis, redisSettings } from './redis.ts'

interface Flags {
  sample?: number
  fix?: boolean
  watch?: boolean
  every: number
  patience: number
}

const settings = {
  ...redisSettings,
  ...postgresOptions,
  ...networkOptions,
  collections: indexerOptions.collections,
  maxCarBytes: backfillerOptions.maxCarBytes,
  memoryBytes: backfillerOptions.memoryBytes,
  httpTimeoutSecs: backfillerOptions.httpTimeoutSecs,
  contact: backfillerOptions.contact,
  metricsPort: workerOptions.metricsPort,
  metricsHost: workerOptions.metricsHost,
} as const satisfies Options

type Config = ReturnType<typeof readConfig<typeof settings>>

const identityEntries = 1_000
/** Of a repo that differs so many URIs of a kind are shown. */
const shownUris = 20
/** From one look for an account to the next, while there is none. */
const nobodyMs = 1_000

export const register: Register = (program, context) => {
  program
    .command('verify')
    .description('fetch repos and compare them with the rows; exit code 1 when one differs')
    .argument('[did...]')
    .option('--sample <share>', 'some of the accounts that are known, as 0.01%', share)
    .option('--watch', 'for ever, an account by chance at a time; metrics on METRICS_PORT')
    .option('--every <seconds>', 'with --watch: from one account to the next', seconds, 10)
    .option('--patience <seconds>', 'how long what is on its way may take to arrive', seconds, 10)
    .option('--fix', 'ask for a resync of each repo that differs')
    .option('--json', 'print JSON, a line a repo')
    .addHelpText(
      'after',
      examples([
        'sluice verify did:plc:z72i7hdynmk6r22z27h6tvur',
        'sluice verify --sample 0.01% --fix',
        'sluice verify --watch --every 30 --fix',
      ]),
    )
    .action(
      act(context, async (dids: string[], flags: Flags): Promise<ExitCode> => {
        const ways = [dids.length > 0, flags.sample !== undefined, flags.watch === true]
        if (ways.filter(Boolean).length !== 1) {
          throw new UserError('give DIDs, or one of --sample and --watch')
        }
        const wrong = dids.find((did) => !isDid(did))
        if (wrong !== undefined) throw new UserError(`${wrong} is no DID`)
        const config = readConfig(settings, context.env)
        await using sql = await openPostgres(config, context, { name: 'verify' })
        using identity = createIdentity({ ...config, ...identitySettings })
        using fetcher = createFetcher({
          timeoutMs: config.httpTimeoutSecs * 1_000,
          maxBytes: config.maxCarBytes,
          userAgent: `sluice-verify/${version}${config.contact === null ? '' : ` (+${config.contact})`}`,
          allowPrivateHosts: config.allowPrivateHosts,
        })
        const names = collections.map(({ nsid }) => nsid)
        const options: CompareOptions = {
          ...{ sql, identity, fetcher, schema: config.schema },
          memory: createMemory(config.memoryBytes),
          deriver: createDeriver(collections, await compileLexicons(names)),
          inScope: scopeOf(config.collections.length > 0 ? config.collections : names),
          patienceMs: flags.patience * 1_000,
        }
        const fix = flags.fix === true ? (did: string) => askAgain(did, config, context) : null
        if (flags.watch === true) return await watch(options, config, { ...flags, fix }, context)
        const list = flags.sample === undefined ? dids : await sampleOf(sql, config, flags.sample)
        return await verifyAll(list, options, fix, context)
      }),
    )
}

const identitySettings = { timeoutMs: 15_000, maxEntries: identityEntries, ttlMs: 60_000 }

function seconds(text: string): number {
  const number = Number(text)
  if (!(number >= 0)) throw new InvalidArgumentError('It must be a number of seconds.')
  return number
}

/** A share of all, from a percentage. */
function share(text: string): number {
  const number = Number(/^([\d.]+)%$/.exec(text)?.[1])
  if (!(number > 0 && number <= 100))
    throw new InvalidArgumentError('It must be a percentage, as 0.01%.')
  return number / 100
}

async function verifyAll(
  dids: readonly string[],
  options: CompareOptions,
  fix: ((did: string) => Promise<void>) | null,
  { out, signal }: Context,
): Promise<ExitCode> {
  const states = { same: 0, differs: 0, failed: 0, ended: 0 }
  using progress = out.progress('compared')
  for (const [index, did] of dids.entries()) {
    const result = await compare(did, options, signal)
    states[result.state] += 1
    out.value(result, () => linesOf(result))
    if (result.state === 'differs') await fix?.(did)
    progress.at(index + 1, dids.length)
  }
  const { same, differs, failed, ended } = states
  out.say(`same: ${same}, differ: ${differs}, ended: ${ended}, could not be had: ${failed}`)
  return differs + failed === 0 ? 0 : 1
}

function linesOf({ did, state, reason, rev, records, ...found }: Comparison): string {
  const head = `${did}: ${state}${reason === null ? `, ${records} records at ${rev}` : ` (${reason})`}`
  const parts = Object.entries(found).flatMap(([kind, uris]) => [
    ...uris.slice(0, shownUris).map((uri) => `  ${kind}: ${uri}`),
    ...(uris.length > shownUris ? [`  ${kind}: ${uris.length - shownUris} more`] : []),
  ])
  return [head, ...parts].join('\n')
}

async function askAgain(did: string, config: Config, context: Context): Promise<void> {
  await using redis = await openRedis(config, context)
  const request: BackfillRequest = { did, reason: 'resync' }
  await requestRepos(redis, [request])
}

async function sampleOf(sql: Sql, { schema }: Config, part: number): Promise<string[]> {
  const rows = await sql.unsafe<{ did: string }[]>(
    `select did from "${schema}".actor tablesample bernoulli (${part * 100})`,
  )
  return rows.map(({ did }) => did)
}

/** An account by chance, found by the index and not by a scan. */
async function anyAccount(sql: Sql, { schema }: Config): Promise<string | null> {
  const letters = 'abcdefghijklmnopqrstuvwxyz234567'
  const from = Array.from({ length: 8 }, () => letters[Math.floor(Math.random() * 32)]).join('')
  const rows = await sql<{ did: string }[]>`
    (select did from ${sql(schema)}.actor where did >= ${`did:plc:${from}`} order by did limit 1)
    union all (select did from ${sql(schema)}.actor order by did limit 1) limit 1`
  return rows[0]?.did ?? null
}

async function watch(
  options: CompareOptions,
  config: Config,
  { every, fix }: { every: number; fix: ((did: string) => Promise<void>) | null },
  { out, signal }: Context,
): Promise<ExitCode> {
  const registry = createRegistry('verify')
  const health = createHealth()
  health.part('verify').ready()
  const registers = [registry]
  const repos = new Counter({
    name: 'verify_repos_total',
    help: 'Repos compared with their rows, by what came out.',
    labelNames: ['state'],
    registers,
  })
  const records = new Counter({
    name: 'verify_records_total',
    help: 'Records compared, and those that are missing, extra or different.',
    labelNames: ['state'],
    registers,
  })
  const ratio = new Gauge({
    name: 'verify_mismatch_ratio',
    help: 'Share of the compared records that are missing, extra or different.',
    registers,
  })
  for (const state of ['same', 'differs', 'failed', 'ended']) repos.inc({ state }, 0)
  const { metricsPort: port, metricsHost: host } = config
  await using server = await serveMetrics({ registry, health, port, host })
  out.say(`metrics on ${host}:${server.port}`)
  let compared = 0
  let wrong = 0
  while (!signal.aborted) {
    const did = await anyAccount(options.sql as Sql, config)
    if (did !== null) {
      const result = await compare(did, options, signal).catch((error: unknown) => {
        if (signal.aborted) return null
        throw error
      })
      if (result === null) break
      repos.inc({ state: result.state })
      compared += result.records
      records.inc({ state: 'compared' }, result.records)
      for (const state of ['missing', 'extra', 'different'] as const) {
        wrong += result[state].length
        records.inc({ state }, result[state].length)
      }
      ratio.set(compared === 0 ? 0 : wrong / compared)
      if (result.state !== 'same') out.value(result, () => linesOf(result))
      if (result.state === 'differs') await fix?.(did)
    }
    await sleep(Math.max(did === null ? nobodyMs : 0, every * 1_000), signal)
  }
  return 0
}
