/** `sluice gaps`: what of the sources was not read, and whether it has been made good. */
import { readConfig } from '../shared/config.ts'
import { closeGaps, readGaps } from '../shared/streams/gaps.ts'
import { countResyncs } from '../shared/streams/resyncs.ts'
import { act, examples, type Register } from './command.ts'
import { openRedis, redisSettings } from './redis.ts'

interface Flags {
  open?: boolean
  close?: string
}

export const register: Register = (program, context) => {
  program
    .command('gaps')
    .description('tell which stretches of the sources were not read; exit code 1 while one is open')
    .option('--open', 'only those that no pass over the list of repos has closed yet')
    .option(
      '--close <host>',
      'close those of a host by hand: of a labeler, or of a relay that is gone',
    )
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples(['sluice gaps', 'sluice gaps --open --json', 'sluice gaps --close mod.bsky.app']),
    )
    .action(
      act(context, async ({ open = false, close }: Flags) => {
        const { env, out } = context
        await using redis = await openRedis(readConfig(redisSettings, env), context)
        if (close !== undefined) {
          const gaps = await readGaps(redis)
          await closeGaps(
            redis,
            gaps.filter(({ host, closed_at }) => host === close && closed_at === null),
          )
        }
        const all = await readGaps(redis)
        const shown = open ? all.filter(({ closed_at }) => closed_at === null) : all
        out.rows(
          shown.map(({ host, stream, from, to, reason, opened_at, closed_at }) => {
            const state = closed_at === null ? 'open' : 'closed'
            return { state, reason, stream, host, from, to, opened_at, closed_at }
          }),
          open ? 'no gap is open' : 'no gap was ever opened',
        )
        out.say(`repos whose resync is under way: ${await countResyncs(redis)}`)
        return all.some(({ closed_at }) => closed_at === null) ? 1 : 0
      }),
    )
}
