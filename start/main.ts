/** The entry point of `npm start`. */
import { ConfigError, environment } from '../shared/config.ts'
import { errorText } from '../shared/errors.ts'
import { ArgumentError, helpText, readArguments } from './arguments.ts'
import { LockedError } from './lock.ts'
import { NoPostgresError } from './postgres.ts'
import { NoRedisError } from './redis.ts'
import { start } from './start.ts'

const stopping = new AbortController()

function say(text: string): void {
  process.stdout.write(`${new Date().toLocaleTimeString('en-GB')} ${text}\n`)
}

function stop(): void {
  if (!stopping.signal.aborted) say('stopping')
  stopping.abort()
}

/** Errors that a person can act on need no stack trace. */
function explain(error: unknown): string {
  const kinds = [ConfigError, LockedError, NoPostgresError, NoRedisError]
  if (kinds.some((kind) => error instanceof kind)) return errorText(error)
  return error instanceof Error ? (error.stack ?? errorText(error)) : errorText(error)
}

async function main(): Promise<void> {
  const args = readArguments(process.argv.slice(2))
  if (args.help) {
    process.stdout.write(helpText)
    return
  }
  // npm passes Ctrl-C on, so it may come twice; a closed terminal is an end like any other.
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, stop)
  process.stdout.on('error', stop)
  await start(args, { env: environment, signal: stopping.signal, say })
  say('stopped')
}

try {
  await main()
} catch (error) {
  process.exitCode = error instanceof ArgumentError ? 2 : 1
  process.stderr.write(`${error instanceof ArgumentError ? error.message : explain(error)}\n`)
}
