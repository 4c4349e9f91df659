/** The `sluice` command: its commands, and what becomes of their errors. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { ConfigError, environment } from '../shared/config.ts'
import { errorText, verdict, withoutCredentials } from '../shared/errors.ts'
import { type Context, type ExitCode, type Register, UserError } from './command.ts'
import { createOutput, visible } from './output.ts'

/** A command is loaded when it is called, so that a worker does not carry the others with it. */
interface Entry {
  doc: string
  load: () => Promise<{ register: Register }>
}

const commands: Readonly<Record<string, Entry>> = {
  backfill: { doc: 'ask for whole repos', load: () => import('./backfill.ts') },
  collections: {
    doc: 'list the collections that are indexed',
    load: () => import('./collections.ts'),
  },
  config: { doc: 'look at settings', load: () => import('./config.ts') },
  dlq: { doc: 'deal with dead letters', load: () => import('./dlq.ts') },
  doctor: { doc: 'heal what older workers left', load: () => import('./doctor.ts') },
  gaps: { doc: 'tell what of the sources was not read', load: () => import('./gaps.ts') },
  identities: { doc: 'keep keys of accounts at hand', load: () => import('./identities.ts') },
  migrate: { doc: 'bring the schema to the newest state', load: () => import('./migrate.ts') },
  status: { doc: 'tell how far the backfill is', load: () => import('./status.ts') },
  resume: { doc: 'set positions after Redis was lost', load: () => import('./resume.ts') },
  verify: { doc: 'compare repos with their rows', load: () => import('./verify.ts') },
}

/** The workers read their settings from the environment and take no arguments. */
const workers: Readonly<Record<string, () => Promise<unknown>>> = {
  ingester: () => import('../ingester/main.ts'),
  indexer: () => import('../indexer/main.ts'),
  backfiller: () => import('../backfiller/main.ts'),
}

/** Runs one command line; sets the exit code of the process. */
export async function sluice(args: readonly string[]): Promise<void> {
  const [name = ''] = args
  const worker = Object.hasOwn(workers, name) ? workers[name] : undefined
  if (worker !== undefined && args.length === 1) {
    await worker()
    return
  }
  const stopping = new AbortController()
  const context: Context = {
    env: environment,
    signal: stopping.signal,
    out: createOutput(process.stdout, process.stderr),
    exit: (code) => {
      process.exitCode = code
    },
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => stopping.abort(new UserError('stopped before its end')))
  }
  try {
    const program = await build(name, context)
    await program.parseAsync([...args], { from: 'user' })
  } catch (error) {
    context.exit(explain(error))
  }
}

async function build(name: string, context: Context): Promise<Command> {
  const program = new Command('sluice')
    .description('Follows the AT Protocol network into Postgres.')
    .version(version(), '-V, --version')
    .exitOverride()
    .showHelpAfterError('(--help tells more)')
    .configureHelp({ showGlobalOptions: true })
  for (const worker of Object.keys(workers)) {
    program.command(worker).description(`run a worker: ${worker}; settings in the environment`)
  }
  const called = Object.hasOwn(commands, name) ? commands[name] : undefined
  for (const [other, { doc }] of Object.entries(commands)) {
    if (commands[other] !== called) program.command(other).description(doc)
  }
  if (called !== undefined) (await called.load()).register(program, context)
  return program
}

/** Says what went wrong; a stack trace only for what is our fault. */
function explain(error: unknown): ExitCode {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  const isMistake = error instanceof UserError || error instanceof ConfigError
  process.stderr.write(`sluice: ${visible(isMistake ? error.message : described(error), '\n')}\n`)
  return isMistake ? 2 : 1
}

/** A failure of the surroundings is told in a line; a bug with its stack. */
function described(error: unknown): string {
  if (!(error instanceof Error) || verdict(error) !== 'crash') return errorText(error)
  return withoutCredentials(error.stack ?? errorText(error))
}

function version(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
