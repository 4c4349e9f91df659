/** A process of ours that runs beside this one: a worker, or the simulator. */
import { type ChildProcess, fork } from 'node:child_process'
import { appendFile, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { commandLine, type Exit, endProcess, type Step } from './process.ts'

const packageRoot = fileURLToPath(new URL('..', import.meta.url))
const maxLogBytes = 32 * 2 ** 20

// A worker has no more than this to finish what it has in hand, so that all of it ends within 10 s.
const stopSteps: readonly Step[] = [
  ['SIGTERM', 5_500],
  ['SIGKILL', 1_000],
]

export interface ChildOptions {
  /** The service's folder in the package. */
  service: string
  /** The file that node runs, beneath the package. */
  main: string
  args?: readonly string[]
  /** Of node. */
  flags?: readonly string[]
  env: Readonly<Record<string, string | undefined>>
  /** Where its log and its pid are kept. */
  dir: string
  onMessage?: (message: unknown) => void
  /** Each line that it prints. */
  onLine?: (line: string) => void
}

export interface Child {
  readonly pid: number
  /** Resolves when it is gone and all it printed has been taken. */
  readonly exited: Promise<Exit>
  /** Sends it a message; one to a child that is gone is lost. */
  send(message: object): void
  stop(): Promise<void>
}

/** Starts a child in a process group of its own; it ends by itself when this process is gone. */
export async function startChild(options: ChildOptions): Promise<Child> {
  const { service, main, args = [], flags = [], env, dir, onMessage, onLine } = options
  await mkdir(dir, { recursive: true })
  const keep = logTo(join(dir, `${service}.log`))
  const child = fork(join(packageRoot, main), [...args], {
    cwd: packageRoot,
    env: { ...env },
    detached: true,
    execArgv: [...flags],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  if (onMessage) child.on('message', onMessage)
  const ended = exitOf(child)
  const drained = [child.stdout, child.stderr].map((stream) => takeLines(stream, keep, onLine))
  const { pid } = child
  if (pid === undefined) {
    const { error } = await ended
    throw new Error(`can't start the ${service}`, { cause: error })
  }
  const pidFile = join(dir, `${service}.pid`)
  await writeFile(pidFile, String(pid))
  const exited = Promise.all([ended, ...drained]).then(async ([exit]) => {
    await rm(pidFile, { force: true })
    return exit
  })
  const send = (message: object) => {
    if (child.connected) child.send(message, () => {})
  }
  return { pid, exited, send, stop: () => endProcess(pid, stopSteps) }
}

function exitOf(child: ChildProcess): Promise<Exit & { error?: Error }> {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }))
    child.once('error', (error) => {
      if (child.pid === undefined) resolve({ code: null, signal: null, error })
    })
  })
}

async function takeLines(
  stream: Readable | null,
  keep: (line: string) => Promise<void>,
  onLine?: (line: string) => void,
): Promise<void> {
  if (stream === null) return
  for await (const line of createInterface({ input: stream })) {
    await keep(line)
    onLine?.(line)
  }
}

/** Appends lines to a file; a full one becomes `.1`, of which one is kept. */
function logTo(file: string): (line: string) => Promise<void> {
  let bytes: number | null = null
  return async (line) => {
    bytes ??= await stat(file).then(
      (found) => found.size,
      () => 0,
    )
    if (bytes > maxLogBytes) {
      await rename(file, `${file}.1`).catch(() => undefined)
      bytes = 0
    }
    bytes += Buffer.byteLength(line) + 1
    await appendFile(file, `${line}\n`)
  }
}

/** Ends the child that an earlier, killed parent left on this folder, if it is still there. */
export async function endLeftChild(dir: string, service: string, main: string): Promise<void> {
  const file = join(dir, `${service}.pid`)
  const pid = Number(await readFile(file, 'utf8').catch(() => ''))
  if (!Number.isInteger(pid) || pid <= 0) return
  const command = await commandLine(pid)
  if (command?.includes(join(packageRoot, main))) await endProcess(pid, stopSteps)
  await rm(file, { force: true })
}
