/** `npm run test:takeover`: the guide from T and from R, with processes on embedded servers. */
import { expect, test } from 'vitest'
import type { Family } from './older/family.ts'
import { played, readCommands } from './page.ts'
import { play } from './play.ts'
import { openScene } from './scene.ts'

test.each<Family>(['T', 'R'])(
  'from %s: every phase forward, back, and forward again ends in the rows of the model',
  { timeout: 15 * 60_000 },
  async (family) => {
    await using stage = await openScene(family, `takeover ${family}`)
    await play(stage)
  },
)

test('no command of the page was left out', () => {
  // The names are programs here; with containers they are what the page says.
  expect(new Set([...played, 'names'])).toEqual(new Set(readCommands().keys()))
})
