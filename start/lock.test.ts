/** One process at a time on a folder of data. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { LockedError, lockFolder } from './lock.ts'
import { testFolder } from './parent.fixture.ts'
import { commandLine } from './process.ts'

async function sleeper() {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'])
  await once(child, 'spawn')
  const pid = child.pid ?? 0
  return {
    pid,
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  }
}

async function lockedBy(dir: string, pid: number, command: string | null): Promise<void> {
  await writeFile(join(dir, 'lock'), JSON.stringify({ pid, command }))
}

test('a second taker hears who holds the folder', async () => {
  await using folder = await testFolder()
  await using holder = await sleeper()
  await lockedBy(folder.path, holder.pid, await commandLine(holder.pid))
  const taking = lockFolder(folder.path)
  await expect(taking).rejects.toThrow(LockedError)
  await expect(taking).rejects.toThrow(`pid ${holder.pid}`)
})

test('the lock of a dead process is taken over', async () => {
  await using folder = await testFolder()
  const holder = await sleeper()
  const command = await commandLine(holder.pid)
  await holder[Symbol.asyncDispose]()
  await lockedBy(folder.path, holder.pid, command)
  await using _lock = await lockFolder(folder.path)
  expect(await readFile(join(folder.path, 'lock'), 'utf8')).toContain(`${process.pid}`)
})

test('a stranger that got the pid of a dead holder holds nothing', async () => {
  await using folder = await testFolder()
  await using stranger = await sleeper()
  await lockedBy(folder.path, stranger.pid, 'node start/main.ts')
  await using _lock = await lockFolder(folder.path)
})

test('a lock that can not be read is taken over', async () => {
  await using folder = await testFolder()
  await writeFile(join(folder.path, 'lock'), '{"pid":')
  await using _lock = await lockFolder(folder.path)
})

test('the lock is gone when it is given back', async () => {
  await using folder = await testFolder()
  const lock = await lockFolder(folder.path)
  await lock[Symbol.asyncDispose]()
  await expect(readFile(join(folder.path, 'lock'))).rejects.toThrow('ENOENT')
})
