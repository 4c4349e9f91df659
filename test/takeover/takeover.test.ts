/** The beginning of the guide: the first two phases, from T and from R. All of it is `npm run test:takeover`. */
import { expect, test } from 'vitest'
import type { Family } from './older/family.ts'
import { readCommands } from './page.ts'
import { play } from './play.ts'
import { openScene } from './scene.ts'

test.each<Family>(['T', 'R'])(
  'from %s an ingester and a backfiller take over, go back, and take over again',
  { timeout: 240_000 },
  async (family) => {
    await using stage = await openScene(family, `beginning ${family}`)
    await play(stage, ['ingester', 'backfiller1'])
  },
)

test('every block of commands in the guide has a name of its own', () => {
  expect(readCommands().size).toBeGreaterThan(15)
  expect(() => readCommands('```sh\nrm -r /\n```\n')).toThrow('without its name')
  expect(() => readCommands('```sh rollout:a\n:\n```\n```sh rollout:a\n:\n```\n')).toThrow()
})
