/** `sluice config check`: whether a worker would start with the settings of this environment. */
import { options as backfiller } from '../backfiller/options.ts'
import { options as indexer } from '../indexer/options.ts'
import { options as ingester } from '../ingester/options.ts'
import { options as migrate } from '../migrations/options.ts'
import { ConfigError, type Environment, type Options, readConfig } from '../shared/config.ts'
import { act, examples, type Register, UserError } from './command.ts'
import type { Row } from './output.ts'

const tables: Readonly<Record<string, Options>> = { ingester, indexer, backfiller, migrate }

export const register: Register = (program, context) => {
  const command = program.command('config').description('look at settings')
  command
    .command('check')
    .description('tell whether a worker would start with the settings of this environment')
    .argument('<worker...>', Object.keys(tables).join(', '))
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples(['sluice config check ingester', 'sluice config check indexer backfiller --json']),
    )
    .action(
      act(context, async (workers: readonly string[]) => {
        const rows = workers.flatMap((worker) => settingsOf(worker, context.env))
        context.out.rows(rows, 'nothing to set')
        return 0
      }),
    )
}

/** What the worker would run with; a credential is only said to be there. Throws `ConfigError`. */
function settingsOf(worker: string, env: Environment): Row[] {
  const table = Object.hasOwn(tables, worker) ? tables[worker] : undefined
  if (table === undefined) {
    throw new UserError(`there is no worker "${worker}": ${Object.keys(tables).join(', ')}`)
  }
  const values = configOf(worker, table, env)
  return Object.entries(table).map(([key, { env: name, secret }]) => {
    const value = values[key]
    return { worker, name, value: secret ? 'set' : shown(value) }
  })
}

function configOf(worker: string, table: Options, env: Environment): Record<string, unknown> {
  try {
    return readConfig(table, env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    throw new ConfigError(error.problems.map((problem) => `${worker}: ${problem}`))
  }
}

function shown(value: unknown): string | null {
  if (value === null || value === undefined) return null
  return typeof value === 'string' ? value : JSON.stringify(value)
}
