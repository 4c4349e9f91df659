/** The `sluice` command: its commands, and what becomes of their errors. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { UnfitDatabaseError } from '../indexer/tables.ts'
import { ConfigError, type Environment, environment } from '../shared/config.ts'
import { errorText, verdict, withoutCredentials } from '../shared/errors.ts'
import { createLog } from '../shared/log.ts'
import { redisFailure } from '../shared/redis.ts'
import { type Context, type ExitCode, exitCodes, type Register, UserError } from './command.ts'
import { createOutput, type Sink, visible } from './output.ts'
import { postgresMistake } from './postgres.ts'

/** A command is loaded when it is called, so that a worker does not carry the others with it. */
interface Entry {
  doc: string
  load: () => Promise<{ register: Register }>
}

export const commands: Readonly<Record<string, Entry>> = {
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
  resume: { doc: 'set positions after Redis was lost', load: () => import('./resume.ts') },
  status: { doc: 'tell how everything stands', load: () => import('./status.ts') },
  verify: { doc: 'compare repos with their rows', load: () => import('./verify.ts') },
}

/** The workers read their settings from the environment and take no arguments. */
const workers: Readonly<Record<string, () => Promise<unknown>>> = {
  ingester: () => import('../ingester/main.ts'),
  indexer: () => import('../indexer/main.ts'),
  backfiller: () => import('../backfiller/main.ts'),
}

/** What a command line runs in. */
export interface Surroundings {
  env: Environment
  out: Sink
  err: Sink
  /** Aborts when the command is to stop. */
  signal: AbortSignal
}

/** Runs one command line in this process; sets its exit code. */
export async function sluice(args: readonly string[]): Promise<void> {
  const [name = ''] = args
  const worker = Object.hasOwn(workers, name) ? workers[name] : undefined
  if (worker !== undefined && args.length === 1) {
    await worker()
    return
  }
  const { stdout, stderr } = process
  const stopping = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => stopping.abort(new StoppedError('stopped before its end')))
  }
  // Whoever reads us may leave early, as `head` does.
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    process.exit()
  })
  process.exitCode = await run(args, {
    env: environment,
    out: stdout,
    err: stderr,
    signal: stopping.signal,
  })
}

/** Runs one command line and gives its exit code. */
export async function run(args: readonly string[], around: Surroundings): Promise<ExitCode> {
  const { env, out, err, signal } = around
  let code: ExitCode = 0
  const context: Context = {
    ...{ env, signal },
    out: createOutput(out, err),
    log: (level) => createLog('sluice', level, err),
    exit: (given) => {
      code = given
    },
  }
  try {
    const program = await programFor(args, context, around)
    await program.parseAsync([...args], { from: 'user' })
    return code
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    const [text, failed] = explain(error)
    err.write(`sluice: ${visible(text, '\n')}\n`)
    return failed
  }
}

async function programFor(
  args: readonly string[],
  context: Context,
  { out, err }: Surroundings,
): Promise<Command> {
  const program = new Command('sluice')
    .description('Follows the AT Protocol network into Postgres.')
    .version(version(), '-V, --version')
    .exitOverride()
    .showHelpAfterError('(--help tells more)')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => out.write(text),
      writeErr: (text) => err.write(visible(text, '\n')),
    })
    .addHelpText('afterAll', exitCodes)
  for (const worker of Object.keys(workers)) {
    program.command(worker).description(`run a worker: ${worker}; settings in the environment`)
  }
  const [name = ''] = args[0] === 'help' ? args.slice(1) : args
  const called = Object.hasOwn(commands, name) ? commands[name] : undefined
  for (const [other, { doc }] of Object.entries(commands)) {
    if (commands[other] !== called) program.command(other).description(doc)
  }
  if (called !== undefined) (await called.load()).register(program, context)
  return program
}

/** Who called wants it to end: not a mistake, and not done. */
export class StoppedError extends Error {
  override name = 'StoppedError'
}

/** What went wrong, in a line where it is not our fault, and the exit code of that. */
function explain(error: unknown): [text: string, code: ExitCode] {
  if (error instanceof StoppedError) return [error.message, 1]
  if (error instanceof UserError || error instanceof ConfigError) return [error.message, 2]
  if (error instanceof UnfitDatabaseError) return [error.message, 2]
  const mistake = postgresMistake(error)
  if (mistake !== null) return [mistake, 2]
  if (!(error instanceof Error)) return [errorText(error), 1]
  const isOutside = verdict(error) !== 'crash' || 'path' in error || isAway(error)
  return [isOutside ? errorText(error) : withoutCredentials(error.stack ?? errorText(error)), 1]
}

/** What ioredis throws while a server goes away has no code that the verdict knows. */
function isAway(error: Error): boolean {
  return error.name === 'ReplyError' && redisFailure(error) !== 'fault'
}

function version(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
