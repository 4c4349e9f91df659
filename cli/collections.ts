/** `sluice collections`: what becomes of the records of each collection. */
import { listCollections } from '../indexer/listing.ts'
import { act, examples, type Register } from './command.ts'

export const register: Register = (program, context) => {
  program
    .command('collections')
    .description('list the collections that are indexed: tables, counters, notifications')
    .option('--json', 'print JSON')
    .addHelpText('after', examples(['sluice collections', 'sluice collections --json']))
    .action(
      act(context, async () => {
        const shown = listCollections().map((row) =>
          Object.fromEntries(Object.entries(row).map(([name, text]) => [name, text || null])),
        )
        context.out.rows(shown, 'there are no collections')
        return 0
      }),
    )
}
