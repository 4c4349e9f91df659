/** `sluice migrate`: brings the schema of DATABASE_URL to the newest state. */
import { Option } from 'commander'
import { migrate, migrationStates } from '../migrations/migrate.ts'
import { options } from '../migrations/options.ts'
import { readConfig } from '../shared/config.ts'
import { act, examples, type Register } from './command.ts'

interface Flags {
  status?: boolean
  adopt?: boolean
}

export const register: Register = (program, context) => {
  program
    .command('migrate')
    .description('bring the schema of DATABASE_URL to the newest state')
    .addOption(
      new Option('--status', 'tell what is applied and what is not; change nothing').conflicts(
        'adopt',
      ),
    )
    .option('--adopt', 'add what is ours to the tables of an AppView that something else created')
    .option('--json', 'print JSON')
    .addHelpText('after', examples(['sluice migrate', 'sluice migrate --status --json']))
    .action(
      act(context, async ({ status = false, adopt = false }: Flags) => {
        const { env, out } = context
        const { databaseUrl, schema, logLevel } = readConfig(options, env)
        const log = context.log(logLevel)
        if (status) {
          const states = await migrationStates({ databaseUrl, schema, log })
          out.rows(
            states.map(({ name, state, ranAt }) => ({ state, ranAt, name })),
            'there are no migrations',
          )
          return 0
        }
        const ran = await migrate({ databaseUrl, schema, adopt, log })
        out.value({ applied: ran }, () =>
          ran.length === 0 ? 'nothing to migrate' : `applied: ${ran.join(', ')}`,
        )
        return 0
      }),
    )
}
