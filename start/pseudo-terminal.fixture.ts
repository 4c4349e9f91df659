/** A program on a pseudo-terminal of its own, and what it shows there. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, vi } from 'vitest'
import { env } from '../test/env.ts'
import { createTerminal, type Terminal } from './terminal.fixture.ts'

const packageRoot = fileURLToPath(new URL('..', import.meta.url))

export interface OnTerminal extends AsyncDisposable {
  readonly terminal: Terminal
  /** Types this. */
  type(keys: string): void
  /** Resolves when the screen matches. */
  shows(pattern: RegExp, timeout?: number): Promise<void>
  /** Resolves with the exit code. */
  readonly exited: Promise<number | null>
}

/** Runs node with these words in 80 columns and 24 rows, by the `script` of every Debian. */
export function runOnTerminal(
  words: readonly string[],
  settings: Record<string, string> = {},
): OnTerminal {
  const { REDIS_URL: _, DATABASE_URL: __, NO_COLOR: ___, ...rest } = env
  const command = `stty cols 80 rows 24; exec "$NODE" ${words.map(quoted).join(' ')}`
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    cwd: packageRoot,
    env: {
      ...rest,
      TERM: 'xterm-256color',
      SHELL: '/bin/sh',
      NODE: process.execPath,
      ...settings,
    },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const terminal = createTerminal()
  child.stdout.setEncoding('utf8')
  child.stdout.on('data', (text: string) => terminal.write(text))
  const exited = once(child, 'close').then(() => child.exitCode)
  return {
    terminal,
    type: (keys) => void child.stdin.write(keys),
    shows: (pattern, timeout = 60_000) =>
      vi.waitFor(() => expect(terminal.lines().join('\n')).toMatch(pattern), {
        timeout,
        interval: 50,
      }),
    exited,
    async [Symbol.asyncDispose]() {
      // The end of its terminal is a hangup for the program.
      if (child.exitCode === null) child.kill('SIGTERM')
      await exited
    },
  }
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`
}
