/** What becomes of a terminal that has shown our screen. */
import { expect, test } from 'vitest'
import { runOnTerminal } from './pseudo-terminal.fixture.ts'
import { isScreen } from './view-screen.ts'

const fixture = 'start/screen.fixture.ts'

test('an exit gives the terminal back with its cursor', async () => {
  await using run = runOnTerminal([fixture, 'exit'])
  await run.shows(/Sluice {2}a fixture/)
  expect(run.terminal.isTaken()).toBe(true)
  expect(run.terminal.isCursorShown()).toBe(false)
  expect(await run.exited).toBe(3)
  expect(run.terminal.isTaken()).toBe(false)
  expect(run.terminal.isCursorShown()).toBe(true)
})

test('a crash gives it back, and its error can be read there', async () => {
  await using run = runOnTerminal([fixture, 'crash'])
  expect(await run.exited).toBe(1)
  expect(run.terminal.isTaken()).toBe(false)
  expect(run.terminal.isCursorShown()).toBe(true)
  expect(run.terminal.lines().join('\n')).toContain('Error: this is the end')
})

test('after a resize the screen has the new size and nothing of the old one', async () => {
  await using run = runOnTerminal([fixture, 'resize'])
  await run.shows(/┌────/)
  await run.shows(/resized/)
  const lines = run.terminal.lines()
  expect(lines.length).toBe(12)
  expect(lines.join('\n')).not.toContain('┌')
  expect(await run.exited).toBe(0)
})

test.for([
  [{ isTTY: true }, { plain: false, terminal: 'xterm' }, true],
  [{ isTTY: true }, { plain: true, terminal: 'xterm' }, false],
  [{ isTTY: true }, { plain: false, terminal: 'dumb' }, false],
  [{}, { plain: false, terminal: 'xterm' }, false],
] as const)('%j with %j has a screen: %s', ([output, wishes, screen]) => {
  expect(isScreen(output, wishes)).toBe(screen)
})
