/** The entry point of `npm start`. */
import { ConfigError, environment } from '../shared/config.ts'
import { errorText } from '../shared/errors.ts'
import { ArgumentError, type Arguments, helpText, readArguments } from './arguments.ts'
import { LockedError } from './lock.ts'
import { NoPostgresError } from './postgres.ts'
import { NoRedisError } from './redis.ts'
import { defaultRelay, start } from './start.ts'
import { summary } from './view.ts'
import { createBoard } from './view-board.ts'
import { isScreen, showBoard } from './view-screen.ts'

const stopping = new AbortController()

/** Errors that a person can act on need no stack trace. */
function explain(error: unknown): string {
  const kinds = [ConfigError, LockedError, NoPostgresError, NoRedisError]
  if (kinds.some((kind) => error instanceof kind)) return errorText(error)
  return error instanceof Error ? (error.stack ?? errorText(error)) : errorText(error)
}

function print(text: string): void {
  process.stdout.write(`${new Date().toLocaleTimeString('en-GB')} ${text}\n`)
}

async function main(): Promise<void> {
  const args = readArguments(process.argv.slice(2))
  if (args.help) {
    process.stdout.write(helpText)
    return
  }
  const isSeen = isScreen(process.stdout, { plain: args.plain, terminal: environment['TERM'] })
  const board = createBoard({ title: titleOf(args), ...(isSeen ? {} : { onFault: print }) })
  const say = isSeen ? board.say : print
  const stop = () => {
    if (!stopping.signal.aborted) say('stopping')
    board.stage('stopping')
    stopping.abort()
  }
  // npm passes Ctrl-C on, so it may come twice; a closed terminal is an end like any other.
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, stop)
  process.stdout.on('error', stop)
  try {
    using _view = isSeen ? showBoard(board, process.stdout) : null
    await start(args, { env: environment, signal: stopping.signal, say, board, isSeen })
  } catch (error) {
    // What led to it went with the screen.
    if (isSeen) process.stdout.write(`${board.state().log.slice(-10).join('\n')}\n`)
    throw error
  }
  print(isSeen ? `stopped after ${summary(board.state())}` : 'stopped')
}

function titleOf({ demo, simulated, relays }: Arguments): string {
  if (demo) return 'demo on a simulated network'
  if (simulated) return 'a simulated network'
  return relays?.join(', ') ?? (environment['INGESTER_RELAY_HOSTS'] || defaultRelay)
}

try {
  await main()
} catch (error) {
  process.exitCode = error instanceof ArgumentError ? 2 : 1
  process.stderr.write(`${error instanceof ArgumentError ? error.message : explain(error)}\n`)
}
