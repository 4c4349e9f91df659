/** The demo as a person sees it: on a terminal, with a fault that heals, ended by Ctrl-C. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { testFolder } from './parent.fixture.ts'
import { isAlive } from './process.ts'
import { runOnTerminal } from './pseudo-terminal.fixture.ts'

async function processesOf(dir: string): Promise<number[]> {
  const logs = join(dir, 'logs')
  const names = (await readdir(logs)).filter((name) => name.endsWith('.pid'))
  const servers = ['redis/redis.pid', 'postgres/cluster/postmaster.pid']
  const files = [
    ...names.map((name) => join(logs, name)),
    ...servers.map((name) => join(dir, name)),
  ]
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8')))
  return texts.map((text) => Number.parseInt(text, 10))
}

test('rows rise, a fault appears and heals, and Ctrl-C gives the terminal back with no process left', {
  timeout: 180_000,
}, async () => {
  await using folder = await testFolder()
  await using run = runOnTerminal(['start/main.ts', '--demo', '--data', folder.path])
  await run.shows(/Sluice {2}demo on a simulated network +◌ starting/)
  await run.shows(/record +[1-9]/)
  await run.shows(/backfill +[█░]+ \d+ of \d+ repos/)
  const before = rowsOn(run.terminal.lines())
  await run.shows(/✔ the relay cuts its connections \(1 of them\): healed after/)
  expect(rowsOn(run.terminal.lines())).toBeGreaterThan(before)
  expect(run.terminal.lines().join('\n')).toMatch(/dead letters 0/)

  const pids = await processesOf(folder.path)
  expect(pids.length).toBe(6)
  run.type('\u0003')
  expect(await run.exited).toBe(0)
  expect(run.terminal.isTaken()).toBe(false)
  expect(run.terminal.isCursorShown()).toBe(true)
  expect(run.terminal.lines().join('\n')).toMatch(
    /stopped after .* rows · dead letters 0 · 1 of 1 faults healed/,
  )
  expect(await Promise.all(pids.map(isAlive))).toEqual(pids.map(() => false))
})

function rowsOn(lines: readonly string[]): number {
  const shown = /record +([\d,]+)/.exec(lines.join('\n'))?.[1] ?? '0'
  return Number(shown.replaceAll(',', ''))
}
