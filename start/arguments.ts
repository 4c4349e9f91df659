/** What may be written behind `npm start --`. Pure. */
import { parseArgs } from 'node:util'
import { isDid } from '../shared/repo/syntax.ts'

export interface Arguments {
  /** The relays to follow; null when none is named. */
  relays: readonly string[] | null
  /** The repos to fetch whole. */
  backfill: readonly string[]
  /** The folder of data; null for the default. */
  data: string | null
  /** Whether the network is a simulated one; always so in the demo. */
  simulated: boolean
  /** Whether things shall fail now and then. */
  demo: boolean
  /** Whether plain lines are wanted where a screen could be had. */
  plain: boolean
  help: boolean
}

/** The arguments can't be used; the message lists every problem, one a line. */
export class ArgumentError extends Error {}

export const helpText = `npm start -- [options]

Follows the AT Protocol network into Postgres: starts Postgres and Redis, migrates,
and runs the ingester, the indexer and the backfiller until Ctrl-C.

  --relay host       the relay to follow (default bsky.network); may be repeated
  --backfill did…    also fetch these repos whole
  --data folder      where everything is kept (default a folder in your cache)
  --simulated        follow a small simulated network on this machine: needs no internet
  --demo             the same, and now and then something fails and heals (npm run demo)
  --plain            plain lines, as always when the output is no terminal
  --help             this text

REDIS_URL and DATABASE_URL, where set, are used instead of servers of its own.
`

const known = {
  relay: { type: 'string', multiple: true },
  backfill: { type: 'string', multiple: true },
  data: { type: 'string' },
  simulated: { type: 'boolean' },
  demo: { type: 'boolean' },
  plain: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
} as const

/** Reads the arguments, or throws one `ArgumentError` that names all problems. */
export function readArguments(args: readonly string[]): Arguments {
  const problems: string[] = []
  const { values, positionals, tokens } = parseArgs({
    args: [...args],
    options: known,
    strict: false,
    tokens: true,
  })
  for (const token of tokens) {
    if (token.kind !== 'option') continue
    const option = Object.hasOwn(known, token.name) && known[token.name as keyof typeof known]
    if (!option) problems.push(`${token.rawName} is not an option`)
    else if (option.type === 'boolean' && token.value !== undefined)
      problems.push(`${token.rawName} takes no value`)
    else if (option.type === 'string' && isMissing(token))
      problems.push(`${token.rawName} needs a value`)
  }

  const relays = texts(values['relay']).flatMap(parts)
  for (const relay of relays) {
    if (!isRelay(relay)) problems.push(`--relay: ${JSON.stringify(relay)} is not a host`)
  }
  const named = texts(values['backfill'])
  if (named.length === 0) {
    for (const word of positionals) problems.push(`${JSON.stringify(word)} is not understood`)
  }
  const backfill = named.length === 0 ? [] : [...named, ...positionals].flatMap(parts)
  for (const did of backfill) {
    if (!isDid(did)) problems.push(`--backfill: ${JSON.stringify(did)} is not a DID`)
  }
  const demo = values['demo'] === true
  const simulated = demo || values['simulated'] === true
  if (simulated && relays.length > 0) {
    problems.push(`--${demo ? 'demo' : 'simulated'} and --relay exclude each other`)
  }

  if (problems.length > 0) {
    const lines = [...new Set(problems)].map((problem) => `  - ${problem}`)
    throw new ArgumentError(`bad arguments:\n${lines.join('\n')}\n(npm start -- --help)`)
  }
  return {
    relays: relays.length > 0 ? relays : null,
    backfill: [...new Set(backfill)],
    data: texts([values['data']])[0] ?? null,
    simulated,
    demo,
    plain: values['plain'] === true,
    help: values['help'] === true,
  }
}

/** What looks like the next option is not taken as the value, unless it is joined by `=`. */
function isMissing(token: {
  value: string | undefined
  inlineValue: boolean | undefined
}): boolean {
  return !token.value || (token.value.startsWith('-') && token.inlineValue !== true)
}

function texts(value: unknown): string[] {
  return [value].flat().filter((one): one is string => typeof one === 'string' && one !== '')
}

function parts(value: string): string[] {
  return value.split(/[\s,]+/).filter((part) => part !== '')
}

/** A host name with or without scheme and port. */
function isRelay(text: string): boolean {
  const full = /^[a-z]+:\/\//i.test(text) ? text : `wss://${text}`
  if (!URL.canParse(full)) return false
  const { protocol, hostname } = new URL(full)
  return ['ws:', 'wss:', 'http:', 'https:'].includes(protocol) && hostname !== ''
}
