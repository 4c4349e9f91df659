/** `npm run migrate`: brings the schema of DATABASE_URL to the newest state. */
import { parseArgs } from 'node:util'
import { type Config, ConfigError, environment, readConfig } from '../shared/config.ts'
import { errorText } from '../shared/errors.ts'
import { createLog } from '../shared/log.ts'
import { migrate, migrationStates } from './migrate.ts'
import { options } from './options.ts'

const usage = `npm run migrate [-- --status | --adopt]
  --status  tells what is applied and what is not, and changes nothing
  --adopt   adds what is ours to the tables of an AppView that something else created
`

interface Flags {
  adopt: boolean
  status: boolean
  help: boolean
}

/** Exit code 0: done. 1: failed. 2: the command or the database can't be used, nothing was changed. */
async function main(args: readonly string[]): Promise<number> {
  const { config, flags } = readAll(args)
  if (flags.help) {
    process.stdout.write(usage)
    return 0
  }
  const log = createLog('migrate', config.logLevel)
  const { databaseUrl, schema } = config
  if (flags.status) {
    for (const { name, state, ranAt } of await migrationStates({ databaseUrl, schema, log })) {
      process.stdout.write(`${state.padEnd(8)} ${(ranAt ?? '').padEnd(24)} ${name}\n`)
    }
    return 0
  }
  const ran = await migrate({ databaseUrl, schema, adopt: flags.adopt, log })
  log.info(
    { count: ran.length },
    ran.length === 0 ? 'nothing to migrate' : 'all migrations applied',
  )
  return 0
}

/** The settings and the flags, or one `ConfigError` with the problems of both. */
function readAll(args: readonly string[]): { config: Config<typeof options>; flags: Flags } {
  const problems: string[] = []
  const flags = attempt(problems, () => readFlags(args))
  const env = flags?.help ? { DATABASE_URL: 'postgres://-/-', ...environment } : environment
  const config = attempt(problems, () => readConfig(options, env))
  if (config === undefined || flags === undefined) throw new ConfigError(problems)
  return { config, flags }
}

function readFlags(args: readonly string[]): Flags {
  const { values } = parseArgs({
    args: [...args],
    options: {
      adopt: { type: 'boolean', default: false },
      status: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.adopt && values.status) throw new Error('--adopt and --status exclude each other')
  return values
}

function attempt<T>(problems: string[], read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    if (error instanceof ConfigError) problems.push(...error.problems)
    else problems.push(errorText(error))
    return undefined
  }
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  process.stderr.write(
    `migrate: ${error instanceof ConfigError ? error.message : errorText(error)}\n`,
  )
  process.exitCode = error instanceof ConfigError ? 2 : 1
}
