/** `sluice doctor --takeover`: what is there before ours take over, what of it is dangerous, what to do. */
import type { Redis } from 'ioredis'
import { options as backfillerOptions } from '../backfiller/options.ts'
import { options as indexerOptions } from '../indexer/options.ts'
import { requireTables, UnfitDatabaseError } from '../indexer/tables.ts'
import { forgetRevs, leftAt } from '../indexer/takeover.ts'
import { obstacles } from '../migrations/adopt.ts'
import { columnsOf, relationsOf, uniqueKeysOf } from '../migrations/catalogue.ts'
import { appviewVersion } from '../migrations/ours.ts'
import { type Options, optional, readConfig, redisOptions, text } from '../shared/config.ts'
import { postgresOptions, type Sql } from '../shared/postgres.ts'
import { readGaps } from '../shared/streams/gaps.ts'
import { countOthers } from '../shared/streams/ledger.ts'
import {
  chainKey,
  deadLetterStream,
  fenceKey,
  firstStream,
  gapsKey,
  ledgerKey,
  marksKey,
  namedGroups,
  parseStreamGroups,
  resyncsKey,
  streams,
  suspectsKey,
  unprovedKey,
} from '../shared/streams/names.ts'
import { readMemory } from '../shared/streams/room.ts'
import {
  isAtWork,
  type SurveyedCursor,
  type SurveyedGroup,
  type SurveyedStream,
  surveyCursors,
  surveyStream,
} from '../shared/streams/survey.ts'
import type { Context, ExitCode } from './command.ts'
import { openPostgres } from './postgres.ts'
import { openRedis, redisSettings } from './redis.ts'

/**
 * `danger`: not before this is done. `mind`: known and survived; what to do or to know. `good`: looked
 * at, and as it should be. `done`: set right just now.
 */
type Level = 'danger' | 'mind' | 'good' | 'done'

interface Finding extends Record<string, string> {
  level: Level
  about: string
  what: string
  todo: string
}

const settings = {
  ...redisSettings,
  ...redisOptions,
  ...postgresOptions,
  group: indexerOptions.group,
  labelGroup: indexerOptions.labelGroup,
  requestGroup: backfillerOptions.group,
  requestStream: backfillerOptions.requestStream,
  indexer: { ...indexerOptions.consumer, parse: optional(text), default: '' },
  backfiller: { ...backfillerOptions.consumer, parse: optional(text), default: '' },
} as const satisfies Options
type Config = ReturnType<typeof readConfig<typeof settings>>

const statementTimeoutMs = 120_000

/** Looks at everything, and sets right what only a takeover leaves: revs of others' rows, ledgers. */
export async function takeOver(context: Context): Promise<ExitCode> {
  const { env, out } = context
  const config = readConfig(settings, env)
  await using redis = await openRedis(config, context)
  await using sql = await openPostgres(config, context, { name: 'doctor', poolSize: 2 })
  const surveyed: SurveyedStream[] = []
  const findings = [...(await lookAtRedis(redis, config)), ...(await lookAtNames(redis, config))]
  for (const { stream, group } of placesOf(config)) {
    const type = await redis.type(stream)
    if (type !== 'stream' && type !== 'none') {
      findings.push(danger(stream, `is a ${type}, not a stream`, 'rename it'))
      continue
    }
    const state = await surveyStream(redis, stream)
    surveyed.push(state)
    findings.push(...lookAtStream(state, group, config))
    findings.push(...(await lookAtLetters(redis, stream, config)))
  }
  for (const stream of [streams.live, streams.labels, streams.requests]) {
    findings.push(...lookAtCursors(stream, await surveyCursors(redis, stream)))
  }
  findings.push(...(await lookAtPostgres(sql, config)))
  findings.push(...(await settle(redis, sql, config, surveyed, context)))
  const order: readonly Level[] = ['danger', 'mind', 'done', 'good']
  findings.sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level))
  out.rows(findings, 'there is nothing yet')
  const dangers = findings.filter(({ level }) => level === 'danger').length
  out.say(dangers === 0 ? 'nothing stands against it' : `${dangers} to be dealt with first`)
  return dangers === 0 ? 0 : 1
}

const finding =
  (level: Level) =>
  (about: string, what: string, todo = ''): Finding => ({ level, about, what, todo })
const danger = finding('danger')
const mind = finding('mind')
const good = finding('good')
const done = finding('done')

/** Every stream that is read through a group, with the group that ours read it through. */
function placesOf(config: Config): { stream: string; group: string }[] {
  return [
    { stream: streams.live, group: config.group },
    { stream: streams.backfill, group: config.group },
    { stream: streams.labels, group: config.labelGroup },
    { stream: config.requestStream, group: config.requestGroup },
    { stream: firstStream(config.requestStream), group: config.requestGroup },
  ]
}

async function lookAtRedis(redis: Redis, config: Config): Promise<Finding[]> {
  const info = await redis.info()
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] ?? ''
  const findings: Finding[] = []
  const [major = 0] = field('redis_version').split('.').map(Number)
  if (major < 7)
    findings.push(danger('redis', `is of version ${field('redis_version')}`, 'at least 7.0'))
  if (field('role') !== 'master')
    findings.push(danger('redis', `is a ${field('role')}`, 'the master'))
  if (field('cluster_enabled') === '1') {
    findings.push(danger('redis', 'is a cluster', 'streams and cursors must lie in one server'))
  }
  const policy = field('maxmemory_policy')
  findings.push(
    policy === 'noeviction'
      ? good('redis', 'evicts nothing')
      : danger('redis', `evicts by ${policy}`, 'CONFIG SET maxmemory-policy noeviction'),
  )
  if (field('aof_enabled') !== '1') {
    findings.push(mind('redis', 'keeps no append-only file', 'a restart reads again what it lost'))
  }
  const { used, max } = await readMemory(redis)
  const limit = max > 0 ? max : config.memoryLimitBytes
  if (limit === null) {
    findings.push(mind('redis', 'has no maxmemory', 'set it, or REDIS_MEMORY_LIMIT_BYTES'))
  } else if (used >= limit * config.memoryHighWater) {
    const share = Math.round((100 * used) / limit)
    findings.push(danger('redis', `is ${share} % full`, 'ours append when readers have made room'))
  }
  return findings
}

/** Keys of ours that somebody else uses for something else. */
async function lookAtNames(redis: Redis, config: Config): Promise<Finding[]> {
  const own: [key: string, type: string][] = [
    [chainKey, 'hash'],
    [gapsKey, 'hash'],
    [resyncsKey, 'hash'],
    [unprovedKey, 'hash'],
    [fenceKey, 'string'],
    ...placesOf(config).flatMap(({ stream, group }): [string, string][] => [
      [ledgerKey(stream, group), 'hash'],
      [suspectsKey(stream), 'hash'],
      [marksKey(stream), 'stream'],
      [deadLetterStream(stream), 'stream'],
    ]),
  ]
  const types = await Promise.all(own.map(([key]) => redis.type(key)))
  return own.flatMap(([key, type], at) =>
    types[at] === type || types[at] === 'none'
      ? []
      : [danger(key, `is a ${types[at]}, and ours a ${type}`, 'rename it')],
  )
}

function lookAtStream(state: SurveyedStream, own: string, config: Config): Finding[] {
  const { stream, length, groups } = state
  const named = namedGroups(parseStreamGroups(config.streamGroups), stream, own)
  const findings = groups.flatMap((group) =>
    named.includes(group.name)
      ? lookAtGroup(stream, group, config)
      : [strangeGroup(stream, group, own, named, groups)],
  )
  for (const name of named) {
    if (groups.some((group) => group.name === name)) continue
    const again = length === 0 ? '' : `: all ${length} entries of the stream are read again`
    findings.push(mind(stream, `has no group ${name}`, `it begins at the first entry${again}`))
  }
  return findings
}

/** A group that does not count holds trimming for ever; of labels it may be the one that does. */
function strangeGroup(
  stream: string,
  { name, pending, lag, consumers }: SurveyedGroup,
  own: string,
  named: readonly string[],
  groups: readonly SurveyedGroup[],
): Finding {
  const isRead = consumers.some(isAtWork)
  const what = `group ${name} is not named (pending ${pending}, lag ${lag ?? 'unknown'}): it holds trimming`
  if (stream === streams.labels && !groups.some((group) => named.includes(group.name))) {
    const todo = `it has read the labels: set INDEXER_LABEL_GROUP=${name} instead of ${own}`
    return danger(stream, what, todo)
  }
  const todo = isRead
    ? `somebody reads it: STREAM_GROUPS=${stream}=${[...named, name].join('+')}`
    : `sluice doctor --forget-group ${name} --stream ${stream}`
  return danger(stream, what, todo)
}

function lookAtGroup(stream: string, group: SurveyedGroup, config: Config): Finding[] {
  const { name, pending, lag, phantoms, consumers } = group
  const findings = [good(stream, `group ${name}: pending ${pending}, lag ${lag ?? 'unknown'}`)]
  if (phantoms > 0) {
    findings.push(
      mind(
        stream,
        `${phantoms} entries were erased before they were done`,
        'ours count them as nil; what they said is lost: read those repos again when all is over',
      ),
    )
  }
  const theirs = consumers.filter((consumer) => !consumer.ours && isAtWork(consumer))
  const left = consumers.filter((consumer) => !isAtWork(consumer) && consumer.pending > 0)
  if (theirs.length > 0) {
    const names = theirs.map((consumer) => consumer.name).join(', ')
    findings.push(
      mind(
        stream,
        `others read as ${name} within the last minute: ${names}`,
        'stop them before their place is taken',
      ),
    )
  }
  for (const { name: consumer, pending: count } of left) {
    findings.push(
      mind(stream, `${consumer} is gone and left ${count} pending`, 'ours take them over'),
    )
  }
  if (theirs.length > 0 && consumers.some((consumer) => consumer.ours && isAtWork(consumer))) {
    const what = `ours and others read as ${name} within the last minute`
    findings.push(mind(stream, what, 'the Rust workers erase what ours have in hand: stop them'))
  }
  const ourName = stream.startsWith(config.requestStream) ? config.backfiller : config.indexer
  if (theirs.some((consumer) => consumer.name === ourName)) {
    findings.push(
      danger(stream, `the name ${ourName} is in use`, 'stop who has it, or take another'),
    )
  }
  return findings
}

async function lookAtLetters(redis: Redis, stream: string, config: Config): Promise<Finding[]> {
  const name = deadLetterStream(stream)
  const length = await redis.xlen(name)
  if (length === 0) return []
  const what = `holds ${length} dead letters`
  return length >= config.dlqMaxLength
    ? [danger(name, what, 'ours read nothing above DLQ_MAX_LENGTH: raise it, or sluice dlq drop')]
    : [mind(name, what, 'sluice dlq list')]
}

function lookAtCursors(stream: string, cursors: readonly SurveyedCursor[]): Finding[] {
  if (cursors.length === 0) {
    return stream === streams.labels
      ? []
      : [mind(`${stream}:cursor`, 'there is none', 'ours begin at INGESTER_START')]
  }
  return cursors.map(({ host, keys, value }) => {
    const about = `${stream}:cursor:${host}`
    const wrong = keys.find(({ value }) => stream !== streams.requests && !/^\d+$/.test(value))
    if (wrong !== undefined) {
      return danger(
        about,
        `${wrong.key} holds ${wrong.value}`,
        'set it to a position, or delete it',
      )
    }
    const shown = keys.map((each) => `${each.key.slice(stream.length + 8)} = ${each.value}`)
    return new Set(keys.map((each) => each.value)).size > 1
      ? mind(
          about,
          shown.join(', '),
          `ours resume after ${value}, the highest, and write all of them`,
        )
      : good(about, shown.join(', '))
  })
}

async function lookAtPostgres(sql: Sql, { schema }: Config): Promise<Finding[]> {
  const relations = await relationsOf(sql, schema)
  if (!relations.includes('record')) {
    return [
      danger('postgres', `the schema ${schema} holds no index`, 'DB_SCHEMA; else sluice migrate'),
    ]
  }
  const others = await lookAtForeign(sql, schema, relations)
  if (relations.includes('sluice_migration')) {
    try {
      await requireTables(sql, schema)
      return [...others, good('postgres', `the schema ${schema} is ready for ours`)]
    } catch (error) {
      if (!(error instanceof UnfitDatabaseError)) throw error
      return [...others, danger('postgres', error.message)]
    }
  }
  const columns = await columnsOf(sql, schema)
  const problems = obstacles({ relations, columns, uniqueKeys: await uniqueKeysOf(sql, schema) })
  if (problems.length > 0) {
    const todo = 'not a schema that ours can write'
    return [...others, ...problems.map((problem) => danger('postgres', problem, todo))]
  }
  const rev = columns.some(({ table, name }) => table === 'record' && name === 'rev')
  return [
    ...others,
    good(
      'postgres',
      rev ? 'record.rev is there: the Rust workers have written' : 'as the AppView has it',
    ),
    mind('postgres', 'what ours need is not there yet', 'sluice migrate --adopt'),
  ]
}

/** By whom the tables were made, and what a fork has tied to those that ours write. */
async function lookAtForeign(
  sql: Sql,
  schema: string,
  relations: readonly string[],
): Promise<Finding[]> {
  const triggers = await sql<{ name: string; table: string }[]>`
    select t.tgname as name, c.relname as "table" from pg_trigger t
    join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and not t.tgisinternal order by 2, 1`
  const migrated = relations.includes('kysely_migration')
    ? await sql<{ name: string }[]>`
        select name from ${sql(schema)}.kysely_migration order by "timestamp" desc, name desc limit 1`
    : []
  return [
    ...triggers.map(({ name, table }) =>
      mind('postgres', `the trigger ${name} of ${table} runs for what ours write`),
    ),
    ...migrated.map(({ name }) =>
      good('postgres', `the AppView's newest migration is ${name}; ours know ${appviewVersion}`),
    ),
  ]
}

/** What others did while ours were away, as far as it can be made good here. */
async function settle(
  redis: Redis,
  sql: Sql,
  config: Config,
  surveyed: readonly SurveyedStream[],
  { out, signal }: Context,
): Promise<Finding[]> {
  const findings: Finding[] = []
  const placed = new Map(placesOf(config).map(({ stream, group }) => [stream, group]))
  let indexersRun = false
  for (const { stream, groups } of surveyed) {
    const group = groups.find(({ name }) => name === placed.get(stream))
    if (group === undefined) continue
    if (stream === streams.live) {
      indexersRun = group.consumers.some((consumer) => consumer.ours && isAtWork(consumer))
    }
    const others = await countOthers(redis, stream, group.name)
    if (others === null || others === 0) continue
    findings.push(
      done(ledgerKey(stream, group.name), `${others} entries were acknowledged by others`),
    )
  }
  const gaps = (await readGaps(redis)).filter(({ closed_at: closed }) => closed == null)
  if (gaps.length > 0) {
    findings.push(
      mind('ingester:gaps', `${gaps.length} stretches that ours did not read`, 'sluice gaps'),
    )
  }
  const relations = await relationsOf(sql, config.schema)
  const since = relations.includes('position') ? await leftAt(sql, config.schema) : null
  if (since === null) return findings
  if (indexersRun) {
    findings.push(mind('record.rev', 'indexers of ours are at work: nothing is forgotten'))
    return findings
  }
  using bar = out.progress('repos that others moved')
  const records = await forgetRevs(
    {
      sql,
      schema: config.schema,
      statementTimeoutMs,
      signal,
      onProgress: (repos) => bar.at(repos, null),
    },
    since,
  )
  findings.push(
    done(
      'record.rev',
      `set to null in ${records} records that others may have written since ${since}`,
    ),
  )
  return findings
}
