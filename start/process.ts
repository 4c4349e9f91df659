/** Processes of this machine: run one to its end, keep a server, recognise and end one by its pid. */
import { execFile, spawn } from 'node:child_process'
import { open, readFile, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'

/** Whose rights a child runs with, where they are not ours. */
export interface Identity {
  uid: number
  gid: number
}

/** What a program that ran to its end has printed. */
export interface Output {
  code: number
  stdout: string
  stderr: string
}

/**
 * Runs a program to its end and returns what it printed; a failure to start it is code 127 with the
 * reason in `stderr`. It is killed after `timeoutMs`, or when the signal aborts.
 */
export function run(
  command: string,
  args: readonly string[],
  options: {
    timeoutMs: number
    cwd?: string
    env?: Record<string, string>
    identity?: Identity | null
    signal?: AbortSignal | undefined
  },
): Promise<Output> {
  const { timeoutMs, cwd, env, identity, signal } = options
  const settings = {
    timeout: timeoutMs,
    killSignal: 'SIGKILL' as const,
    maxBuffer: 32 * 2 ** 20,
    ...(cwd === undefined ? {} : { cwd }),
    ...(env === undefined ? {} : { env }),
    ...(signal === undefined ? {} : { signal }),
    ...(identity ?? {}),
  }
  return new Promise((resolve) => {
    execFile(command, [...args], settings, (error, stdout, stderr) => {
      if (error === null) return resolve({ code: 0, stdout, stderr })
      const code = typeof error.code === 'number' ? error.code : 127
      resolve({ code, stdout, stderr: stderr || error.message })
    })
  })
}

/** A port of 127.0.0.1 on which nobody listens at this moment; `preferred` if it is such a one. */
export async function freePort(preferred?: number | null): Promise<number> {
  if (preferred) {
    const port = await listenOnce(preferred)
    if (port !== null) return port
  }
  const port = await listenOnce(0)
  if (port === null) throw new Error('no free port on 127.0.0.1')
  return port
}

function listenOnce(port: number): Promise<number | null> {
  return new Promise((resolve) => {
    const server = createServer()
    server.on('error', () => resolve(null))
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      const address = server.address()
      const got = typeof address === 'object' && address !== null ? address.port : null
      server.close(() => resolve(got))
    })
  })
}

/** Whether a process with this pid exists; a zombie does not count. */
export async function isAlive(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0)
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  return !/^\d+ \(.*\) [ZX] /s.test(status)
}

/** The command line of a living process, words parted by spaces; null when there is none. */
export async function commandLine(pid: number): Promise<string | null> {
  if (!(await isAlive(pid))) return null
  const linux = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => null)
  if (linux !== null) return linux.replaceAll('\0', ' ').trim()
  const ps = await run('ps', ['-o', 'command=', '-p', String(pid)], { timeoutMs: 5_000 })
  return ps.code === 0 ? ps.stdout.trim() : null
}

/** One step on the way to end a process: a signal, and how long it has to obey. */
export type Step = readonly [signal: NodeJS.Signals, waitMs: number]

/** Ends the process by the steps in turn; throws when it outlives the last one. */
export async function endProcess(pid: number, steps: readonly Step[]): Promise<void> {
  for (const [signal, waitMs] of steps) {
    try {
      process.kill(pid, signal)
    } catch {
      // Already gone; the loop below sees it.
    }
    const deadline = performance.now() + waitMs
    while (performance.now() < deadline) {
      if (!(await isAlive(pid))) return
      await wait(20)
    }
  }
  if (await isAlive(pid)) throw new Error(`process ${pid} can't be ended`)
}

/** How a child ended. */
export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

/** A server process that we started. */
export interface ServerProcess {
  readonly pid: number
  /** Resolves when the process is gone, however that came. */
  readonly exited: Promise<Exit>
  /** Ends it by its steps; resolves when it is gone. May be called again. */
  stop(): Promise<void>
}

export interface ServerOptions {
  name: string
  command: string
  args: readonly string[]
  cwd: string
  env: Record<string, string>
  /** Takes what the server prints. */
  logFile: string
  identity?: Identity | null
  /** Asked every 20 ms until it says yes. */
  isReady: (pid: number) => Promise<boolean>
  readyWithinMs: number
  stopSteps: readonly Step[]
}

/**
 * Starts a server in a process group of its own (so that Ctrl-C reaches only us, and we decide the
 * order in which things end) and resolves when it is ready. Throws with the last lines of its log
 * when it ends before, or is not ready in time.
 */
export async function startServer(options: ServerOptions): Promise<ServerProcess> {
  const { name, command, args, cwd, env, logFile, identity, isReady, readyWithinMs } = options
  const log = await open(logFile, 'a', 0o600)
  const logStart = (await log.stat()).size
  const child = spawn(command, [...args], {
    cwd,
    env,
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
    ...(identity ?? {}),
  })
  // Listened for before anything is awaited: a child may end at once.
  const failure = new Promise<Error>((resolve) => child.once('error', resolve))
  const exited = new Promise<Exit>((resolve) =>
    child.once('exit', (code, signal) => resolve({ code, signal })),
  )
  await log.close()
  const pid = child.pid
  if (pid === undefined) throw new Error(`can't start ${name}`, { cause: await failure })

  const server: ServerProcess = {
    pid,
    exited,
    stop: () => endProcess(pid, options.stopSteps),
  }
  const state = { ended: false }
  void exited.then(() => {
    state.ended = true
  })
  const deadline = performance.now() + readyWithinMs
  while (performance.now() < deadline) {
    if (state.ended) break
    if (await isReady(pid)) return server
    await wait(20)
  }
  const why = state.ended ? 'ended while starting' : `was not ready within ${readyWithinMs} ms`
  if (!state.ended) await server.stop()
  throw new Error(`${name} ${why}: ${await logTail(logFile, logStart)}`)
}

async function logTail(file: string, from: number): Promise<string> {
  const { size } = await stat(file)
  const handle = await open(file)
  try {
    const start = Math.max(from, size - 2_000)
    const { buffer, bytesRead } = await handle.read(
      Buffer.alloc(Math.max(1, size - start)),
      0,
      size - start,
      start,
    )
    const text = buffer.toString('utf8', 0, bytesRead).trim()
    return text === '' ? `nothing in ${file}` : text.split('\n').slice(-8).join('\n')
  } finally {
    await handle.close()
  }
}
