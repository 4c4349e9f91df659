/** How a worker is started so that it takes no more memory than it needs (docs/performance.md). */
import { environment } from './config.ts'

export interface Lean {
  /** Of node. */
  flags: readonly string[]
  env: Readonly<Record<string, string>>
}

/** Left to itself V8 lets young objects take 134 MB, and the C library keeps an arena for each thread. */
export const leanIngester: Lean = {
  flags: ['--max-semi-space-size=8'],
  env: { MALLOC_ARENA_MAX: '2' },
}
export const leanIndexer: Lean = { flags: ['--max-semi-space-size=8'], env: {} }

/**
 * Replaces this process by itself, started so. Leaves it where somebody has given one of the flags
 * another value, where a parent has a channel to it, which would be lost, and where node can't.
 */
export function startLean({ flags, env }: Lean): void {
  const given = [...process.execArgv, environment['NODE_OPTIONS'] ?? ''].join(' ')
  const names = flags.map((flag) => flag.split('=')[0] ?? '')
  if (names.some((name) => given.includes(name)) || process.send !== undefined) return
  const args = [...flags, ...process.execArgv, ...process.argv.slice(1)]
  process.execve?.(process.execPath, [process.execPath, ...args], { ...env, ...environment })
}
