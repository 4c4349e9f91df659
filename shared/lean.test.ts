import { type SpawnOptions, spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const fixture = fileURLToPath(new URL('lean.fixture.ts', import.meta.url))

/** What the process tells, and whether it is still the one that was started. */
async function started(
  flags: readonly string[],
  env: Record<string, string> = {},
  stdio: SpawnOptions['stdio'] = ['ignore', 'pipe', 'pipe'],
) {
  const child = spawn(process.execPath, [...flags, fixture, 'an argument'], { env, stdio })
  if (child.stdout === null || child.stderr === null) throw new Error('no output')
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)])
  return { ...JSON.parse(out), err, isSame: JSON.parse(out).pid === child.pid }
}

test('a worker started without its flags is the same process with them, and says nothing of it', async () => {
  expect(await started(['--stack-trace-limit=20'])).toMatchObject({
    execArgv: ['--max-semi-space-size=3', '--stack-trace-limit=20'],
    args: ['an argument'],
    arenas: '2',
    err: '',
    isSame: true,
  })
})

test('what somebody has set stays: a flag, an option of node, a variable', async () => {
  const flag = await started(['--max-semi-space-size=16'])
  expect(flag).toMatchObject({ execArgv: ['--max-semi-space-size=16'], arenas: null })
  const option = await started([], { NODE_OPTIONS: '--max-semi-space-size=16' })
  expect(option).toMatchObject({ execArgv: [], arenas: null })
  expect(await started([], { MALLOC_ARENA_MAX: '1' })).toMatchObject({ arenas: '1' })
})

test('a process that talks with its parent is not replaced: the channel would be lost', async () => {
  const child = await started([], {}, ['ignore', 'pipe', 'pipe', 'ipc'])
  expect(child).toMatchObject({ execArgv: [], arenas: null })
})
