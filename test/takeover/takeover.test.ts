/** The first phase of the guide, from T. All of it is `npm run test:takeover`. */
import { expect, test } from 'vitest'
import { readCommands } from './page.ts'
import { play } from './play.ts'
import { openScene } from './scene.ts'

test('from T the ingester takes over, goes back, and takes over again', {
  timeout: 240_000,
}, async () => {
  await using stage = await openScene('T', 'beginning')
  await play(stage, ['ingester'])
})

test('every block of commands in the guide has a name of its own', () => {
  expect(readCommands().size).toBeGreaterThan(15)
  expect(() => readCommands('```sh\nrm -r /\n```\n')).toThrow('without its name')
  expect(() => readCommands('```sh rollout:a\n:\n```\n```sh rollout:a\n:\n```\n')).toThrow()
})
