/** A process that tells how it was started, once it is lean. */
import { environment } from './config.ts'
import { startLean } from './lean.ts'

startLean({ flags: ['--max-semi-space-size=3'], env: { MALLOC_ARENA_MAX: '2' } })
const { execArgv, argv, pid } = process
const told = { pid, execArgv, args: argv.slice(2), arenas: environment['MALLOC_ARENA_MAX'] ?? null }
process.stdout.write(JSON.stringify(told))
