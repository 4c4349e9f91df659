/** What every command of `sluice` is made of: a context, an action that gives an exit code, a user's mistake. */
import type { Command } from 'commander'
import type { Environment } from '../shared/config.ts'
import type { Logger } from '../shared/log.ts'
import type { Output } from './output.ts'

/** 0: done. 1: it failed, or what it looked for is wrong. 2: the user's mistake; nothing was changed. */
export type ExitCode = 0 | 1 | 2

/** What a command gets to work with. */
export interface Context {
  env: Environment
  /** Aborts at SIGINT and SIGTERM: what is under way ends at its next safe point. */
  signal: AbortSignal
  out: Output
  /** A log beside the output, on standard error. */
  log: (level: string) => Logger
  /** The exit code of the process; an action sets it through `act`. */
  exit: (code: ExitCode) => void
}

/** A module of `cli/`: adds its command to the program. */
export type Register = (program: Command, context: Context) => void

/** The user asked for what can't be: the message says what to do, without a stack trace. Exit code 2. */
export class UserError extends Error {
  override name = 'UserError'
}

/**
 * An action for `command.action`: `run` gets the command's arguments and its options last, and gives
 * the exit code. `--json`, where the command has it, is applied to the output.
 */
export function act<A extends readonly unknown[]>(
  context: Context,
  run: (...args: A) => Promise<ExitCode>,
): (...args: [...A, Command]) => Promise<void> {
  return async (...all) => {
    const command = all.at(-1) as Command
    if (command.optsWithGlobals()['json'] === true) context.out.json()
    context.exit(await run(...(all.slice(0, -1) as unknown as A)))
  }
}

/** What help says of every command. */
export const exitCodes = `
Exit codes: 0 done; 1 it failed, or what was looked for is wrong; 2 a mistake in the command or the settings.
`

/** The text that help shows below a command's options: what one would type. */
export function examples(lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join('\n')}\n`
}
