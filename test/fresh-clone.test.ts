/** What a newcomer does: a fresh clone in a folder with spaces, `npm ci && npm start`, Ctrl-C. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, cp, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { env } from './env.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))
const nobody = 65_534
const patience = { timeout: 120_000, interval: 200 }
vi.setConfig({ testTimeout: 240_000 })

let folder: string
let clone: string
let installMs: number

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice fresh '))
  await chmod(folder, 0o755)
  clone = join(folder, 'a fresh clone')
  const { stdout } = await run('git', ['ls-files', '-z', '-co', '--exclude-standard'], {
    cwd: root,
  })
  for (const file of stdout.split('\0').filter((name) => name !== '')) {
    await mkdir(dirname(join(clone, file)), { recursive: true })
    await cp(join(root, file), join(clone, file)).catch(ignoreDeleted)
  }
  const begun = performance.now()
  await run('npm', ['ci'], { cwd: clone, env: plainEnvironment() })
  installMs = performance.now() - begun
}, 300_000)

afterAll(async () => {
  await rm(folder, { recursive: true, force: true, maxRetries: 5 })
})

test('npm start -- --simulated brings rows, and Ctrl-C leaves neither a process nor a lock behind', async () => {
  const data = join(folder, 'the data')
  const begun = performance.now()
  const started = startClone(data)
  await started.says(/first rows in Postgres/)
  const seconds = (ms: number) => (ms / 1_000).toFixed(1)
  const rowsMs = performance.now() - begun
  process.stdout.write(
    `fresh clone: npm ci ${seconds(installMs)} s, npm start to the first row ${seconds(rowsMs)} s, ` +
      `together ${seconds(installMs + rowsMs)} s\n`,
  )
  await started.interrupt()
  expect(await processesIn(folder)).toEqual([])

  const again = startClone(data)
  await again.says(/following/)
  await again.interrupt()
})

test.runIf(process.getuid?.() === 0)(
  'an ordinary user gets the same from the same clone',
  async () => {
    const home = join(folder, 'home of an ordinary user')
    await mkdir(home)
    await chown(home, nobody, nobody)
    const started = startClone(join(home, 'the data'), { home, uid: nobody })
    await started.says(/first rows in Postgres/)
    await started.interrupt()
    expect(await processesIn(folder)).toEqual([])
  },
)

test('what was left by kill -9 of the parent is taken over by the next start', async () => {
  const data = join(folder, 'the data')
  const killed = startClone(data)
  await killed.says(/events\/s/)
  await killed.killParents()
  const next = startClone(data)
  await next.says(/events\/s/)
  await next.interrupt()
  await expect.poll(() => processesIn(folder), patience).toEqual([])
})

/** The machine's own Node and npm, and nothing of the checkout that runs this test. */
function plainEnvironment(home = env['HOME'] ?? folder): Record<string, string> {
  const path = (env['PATH'] ?? '').split(delimiter).filter((part) => !part.includes('node_modules'))
  return { PATH: path.join(delimiter), HOME: home, LANG: 'C.UTF-8' }
}

function startClone(data: string, user: { home?: string; uid?: number } = {}) {
  const child = spawn('npm', ['start', '--', '--simulated', '--data', data], {
    cwd: clone,
    env: plainEnvironment(user.home),
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(user.uid === undefined ? {} : { uid: user.uid, gid: user.uid }),
  })
  let output = ''
  const collect = (part: Buffer) => {
    output += part.toString()
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)
  const exit = once(child, 'close')
  return {
    says: (words: RegExp) => expect.poll(() => output, patience).toMatch(words),
    /** Ctrl-C: the signal goes to every process of the group. npm itself ends by that signal, after us. */
    interrupt: async () => {
      signalGroup(child, 'SIGINT')
      await exit
      expect(output.trimEnd()).toMatch(/ stopped$/)
    },
    /** Kills npm and the process that `npm start` runs; their children live on. */
    killParents: async () => {
      const parents = (await processesIn(data)).filter(({ command }) =>
        /start\/main\.ts/.test(command),
      )
      expect(parents.length).toBeGreaterThan(0)
      for (const { pid } of parents) process.kill(pid, 'SIGKILL')
      await exit
    },
  }
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) throw new Error('npm did not start')
  process.kill(-child.pid, signal)
}

/** The processes whose command line or working folder names the place. */
async function processesIn(place: string): Promise<{ pid: number; command: string }[]> {
  const found: { pid: number; command: string }[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '') // it has ended
    if (command.includes(place))
      found.push({ pid: Number(name), command: command.replaceAll('\0', ' ') })
  }
  return found
}

/** A file that git knows and the working tree has deleted is not part of the clone. */
function ignoreDeleted(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}
