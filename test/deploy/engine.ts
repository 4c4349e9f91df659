/** A Docker engine: the one that DOCKER_HOST names, the machine's, or a dockerd of the run's own. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { findPlaces, findProgram } from '../../start/places.ts'
import {
  commandLine,
  endProcess,
  isAlive,
  run,
  type Step,
  startServer,
} from '../../start/process.ts'
import { env } from '../env.ts'

export interface Engine extends AsyncDisposable {
  /** As DOCKER_HOST has it. */
  readonly host: string
  /** Where it comes from, in words. */
  readonly from: string
}

/** There is no engine, and none can be started; the message says what to do. */
export class NoEngineError extends Error {
  constructor(because: string) {
    super(
      `this lane needs a Docker engine: ${because}. Start one and name it by DOCKER_HOST, or ` +
        'as root on Debian or Ubuntu: apt-get install docker.io docker-compose debootstrap',
    )
  }
}

const machineSocket = 'unix:///var/run/docker.sock'
/** Containers get ten seconds of it. */
const stopSteps: readonly Step[] = [
  ['SIGTERM', 40_000],
  ['SIGKILL', 5_000],
]

/**
 * Resolves when an engine answers. A dockerd of our own keeps its images in the cache folder, so that
 * a second run finds them, and ends when disposed. Throws `NoEngineError`.
 */
export async function openEngine(): Promise<Engine> {
  const places = await findPlaces(env)
  for (const program of ['docker', 'debootstrap']) {
    if ((await findProgram(places, program)) === null) throw new NoEngineError(`no ${program} here`)
  }
  const given = env['DOCKER_HOST']
  if (given) {
    if (!(await answers(given))) throw new NoEngineError(`nothing answers at ${given}`)
    return { host: given, from: 'of DOCKER_HOST', [Symbol.asyncDispose]: async () => {} }
  }
  if (await answers(machineSocket)) {
    return { host: machineSocket, from: "the machine's", [Symbol.asyncDispose]: async () => {} }
  }
  const dockerd = await findProgram(places, 'dockerd')
  if (dockerd === null) throw new NoEngineError('none answers, and there is no dockerd')
  if (process.getuid?.() !== 0) throw new NoEngineError('none answers, and only root can start one')
  return startEngine(dockerd, join(places.cache, 'docker'))
}

/** overlay2 where the kernel has it, else what dockerd finds; it sets up its bridge by iptables. */
async function startEngine(dockerd: string, dir: string): Promise<Engine> {
  await mkdir(dir, { recursive: true })
  await endLeftEngine(dir)
  const host = `unix://${join(dir, 'docker.sock')}`
  const server = await startServer({
    name: 'dockerd',
    command: dockerd,
    args: [
      ...['--host', host],
      ...['--data-root', join(dir, 'data')],
      ...['--exec-root', join(dir, 'exec')],
      ...['--pidfile', join(dir, 'docker.pid')],
      ...['--log-level', 'warn'],
    ],
    cwd: dir,
    env: { PATH: env['PATH'] ?? '' },
    logFile: join(dir, 'docker.log'),
    isReady: () => answers(host),
    readyWithinMs: 60_000,
    stopSteps,
  })
  await writeFile(join(dir, 'owner'), String(process.pid))
  return { host, from: `a dockerd on ${dir}`, [Symbol.asyncDispose]: () => server.stop() }
}

/** Ends the dockerd that a killed run has left; another run's is left alone, and ours can't start. */
async function endLeftEngine(dir: string): Promise<void> {
  const owner = await pidIn(join(dir, 'owner'))
  const pid = await pidIn(join(dir, 'docker.pid'))
  if (pid === 0 || !(await commandLine(pid))?.includes(dir)) return
  if (await isAlive(owner))
    throw new NoEngineError(`the one on ${dir} is of another run (${owner})`)
  await endProcess(pid, stopSteps)
  await rm(join(dir, 'docker.pid'), { force: true })
}

async function pidIn(file: string): Promise<number> {
  return Number(await readFile(file, 'utf8').catch(() => '0'))
}

async function answers(host: string): Promise<boolean> {
  const { code } = await run('docker', ['--host', host, 'version'], {
    timeoutMs: 10_000,
    env: { PATH: env['PATH'] ?? '' },
  })
  return code === 0
}
