/** Configuration: one table of options per service, read from the environment in one place. */
import { readFileSync } from 'node:fs'

/** One setting: its name in the environment, how it is read, and what it is for. */
export interface Option<T = unknown> {
  /** The environment name, written out so that a search finds it. */
  readonly env: string
  /** Names that older workers used for the same setting; the first one set wins. */
  readonly aliases?: readonly string[]
  /** Turns the text into a value, or throws an Error that says what was expected. */
  readonly parse: (text: string) => T
  /** The text used when the name is not set. Without it the setting is required. */
  readonly default?: string
  /** One sentence for `docs/configuration.md` and `.env.example`. */
  readonly doc: string
  /** The value is a credential or may hold one: it is never printed, and may come from the file that `<env>_FILE` names. */
  readonly secret?: boolean
}

export type Options = Readonly<Record<string, Option>>

/** The values of a table of options. */
export type Config<O extends Options> = {
  readonly [K in keyof O]: ReturnType<O[K]['parse']>
}

export type Environment = Readonly<Record<string, string | undefined>>

/** The configuration can't be used; the message lists every problem, one a line. */
export class ConfigError extends Error {
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`bad configuration:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`)
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/** The environment of this process: the only place that reads it. */
// biome-ignore lint/style/noProcessEnv: this is the place.
export const environment: Environment = process.env

/** Reads every option of a table, or throws one `ConfigError` that names all problems. */
export function readConfig<O extends Options>(options: O, env: Environment): Config<O> {
  const problems: string[] = []
  const values: Record<string, unknown> = {}
  for (const [key, option] of Object.entries(options)) {
    try {
      values[key] = readOption(option, env)
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  if (problems.length > 0) throw new ConfigError(problems)
  return values as Config<O>
}

function readOption(option: Option, env: Environment): unknown {
  const { name, text } = lookUp(option, env)
  if (text === undefined) throw new Error(`${option.env} is not set: ${option.doc}`)
  try {
    return option.parse(text)
  } catch (error) {
    const shown = option.secret ? 'its value' : JSON.stringify(text)
    throw new Error(`${name}: ${shown} ${messageOf(error)}`)
  }
}

function lookUp(option: Option, env: Environment): { name: string; text: string | undefined } {
  for (const name of [option.env, ...(option.aliases ?? [])]) {
    const text = env[name]
    if (text !== undefined && text !== '') return { name, text }
    const file = option.secret ? env[`${name}_FILE`] : undefined
    if (file !== undefined && file !== '') {
      return { name: `${name}_FILE`, text: contentOf(file, `${name}_FILE`) }
    }
  }
  return { name: option.env, text: option.default }
}

function contentOf(file: string, name: string): string {
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new Error(`${name}: the file can't be read: ${messageOf(error)}`)
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Any text that is not empty. */
export function text(value: string): string {
  if (value.trim() === '') throw new Error('must not be empty')
  return value
}

/** A whole number of at least 1. */
export function count(value: string): number {
  const number = natural(value)
  if (number < 1) throw new Error('must be a whole number of at least 1')
  return number
}

/** A whole number of at least 0. */
export function natural(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new Error('must be a whole number, digits only')
  return Number(value)
}

/** A TCP port; 0 takes any that is free. */
export function port(value: string): number {
  const number = natural(value)
  if (number > 65_535) throw new Error('must be a port number, at most 65535')
  return number
}

/** A number between 0 and 1, without 0. */
export function ratio(value: string): number {
  const number = Number(value)
  if (!(number > 0 && number <= 1)) throw new Error('must be a number above 0 and at most 1')
  return number
}

/** Comma-separated values; white space around them and empty ones do not count. */
export function list(value: string): readonly string[] {
  return value
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
}

/** `true` or `false`, also `1` and `0`. */
export function flag(value: string): boolean {
  if (value === 'true' || value === '1') return true
  if (value === 'false' || value === '0') return false
  throw new Error('must be true or false')
}

/** An absolute URL with one of the given protocols, as `url('http:', 'https:')`. */
export function url(...protocols: readonly string[]): (value: string) => string {
  return (value) => {
    const parsed = URL.canParse(value) ? new URL(value) : undefined
    if (parsed === undefined || !protocols.includes(parsed.protocol)) {
      throw new Error(`must be a URL that begins with ${protocols.join('// or ')}//`)
    }
    return value
  }
}

/** One of the given words. */
export function oneOf<T extends string>(...words: readonly T[]): (value: string) => T {
  return (value) => {
    const word = words.find((candidate) => candidate === value)
    if (word === undefined) throw new Error(`must be one of ${words.join(', ')}`)
    return word
  }
}

/** As `parse`, but the empty default means: not set, null. */
export function optional<T>(parse: (value: string) => T): (value: string) => T | null {
  return (value) => (value === '' ? null : parse(value))
}

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** A pino level; a `RUST_LOG` filter such as `warn,rsky=debug` gives its plain level, else `info`. */
function logLevel(value: string): (typeof levels)[number] {
  const words = value.toLowerCase().split(',')
  const plain = words.find((word) => !word.includes('='))?.trim() ?? 'info'
  const level = levels.find((name) => name === (plain === 'off' ? 'silent' : plain))
  if (level === undefined) throw new Error(`must be one of ${levels.join(', ')}`)
  return level
}

/** A Redis URL; the `host:port` of older installations counts as one. */
function redisUrl(value: string): string {
  const full = /^[a-z]+:\/\//.test(value) ? value : `redis://${value}`
  const checked = url('redis:', 'rediss:')(full)
  const sentinels = new URL(checked).searchParams.get('sentinels')
  if (sentinels !== null && !/^[\w.-]+(:\d+)?(,[\w.-]+(:\d+)?)*$/.test(sentinels)) {
    throw new Error('must name its sentinels as host:port,host:port')
  }
  return checked
}

/** What every worker has. */
export const workerOptions = {
  logLevel: {
    env: 'LOG_LEVEL',
    aliases: ['RUST_LOG'],
    parse: logLevel,
    default: 'info',
    doc: 'How much is logged: trace, debug, info, warn, error, fatal or silent.',
  },
  metricsPort: {
    env: 'METRICS_PORT',
    parse: port,
    default: '9090',
    doc: 'Where /metrics, /health and /ready are served; 0 takes any free port.',
  },
  metricsHost: {
    env: 'METRICS_HOST',
    parse: text,
    default: '127.0.0.1',
    doc: 'The address that they are served on; the image sets 0.0.0.0, a container having a network of its own.',
  },
} as const satisfies Options

/** What the life cycle of a worker needs of its table; a service may have other defaults and names. */
export interface WorkerOptions extends Options {
  readonly logLevel: Option<(typeof levels)[number]>
  readonly metricsPort: Option<number>
  readonly metricsHost: Option<string>
}

/** What every worker that uses the streams has. */
export const redisOptions = {
  redisUrl: {
    env: 'REDIS_URL',
    aliases: ['REDIS_HOST'],
    parse: redisUrl,
    doc: 'Where the streams are, as redis://[user:password@]host:port[/db] or rediss://; ?ca= names a CA file; redis://name?sentinels=host:port,host:port asks Sentinels (by ?sentinel_password=) where the master of that name is.',
    secret: true,
  },
  streamGroups: {
    env: 'STREAM_GROUPS',
    parse: list,
    default: '',
    doc: 'The consumer groups that count, as stream=group+group, comma-separated; a stream that is not named has its standard group.',
  },
  memoryHighWater: {
    env: 'REDIS_MEMORY_HIGH_WATER',
    parse: ratio,
    default: '0.8',
    doc: 'The share of the Redis memory limit at which appending waits.',
  },
  memoryLimitBytes: {
    env: 'REDIS_MEMORY_LIMIT_BYTES',
    parse: optional(count),
    default: '',
    doc: 'The Redis memory limit in bytes, needed only where Redis itself has maxmemory 0.',
  },
  dlqMaxLength: {
    env: 'DLQ_MAX_LENGTH',
    parse: count,
    default: '1000000',
    doc: 'Dead letters in one stream at which the intake stops with an alarm.',
  },
} as const satisfies Options

/** What every worker that talks to hosts named by others has. */
export const networkOptions = {
  plcUrl: {
    env: 'PLC_URL',
    parse: url('http:', 'https:'),
    default: 'https://plc.directory',
    doc: 'The directory that did:plc documents come from.',
  },
  handleResolver: {
    env: 'HANDLE_RESOLVER',
    parse: optional(url('http:', 'https:')),
    default: '',
    doc: 'A host that resolves handles (com.atproto.identity.resolveHandle) instead of DNS and HTTPS.',
  },
  allowPrivateHosts: {
    env: 'ALLOW_PRIVATE_HOSTS',
    parse: flag,
    default: 'false',
    doc: 'Whether hosts that others name may have loopback, private or link-local addresses.',
  },
} as const satisfies Options
