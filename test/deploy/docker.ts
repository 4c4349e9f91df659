/** The docker and compose commands, as an operator types them. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { run } from '../../start/process.ts'
import { env } from '../env.ts'

/** Runs `docker` with these arguments and gives what it printed; throws with what it said when it fails. */
export type Docker = (...args: readonly string[]) => Promise<string>

/** A build takes longest. */
const timeoutMs = 20 * 60_000

/** The docker command for the engine at this host. */
export function dockerAt(host: string): Docker {
  return (...args) => printed('docker', args, { DOCKER_HOST: host, DOCKER_BUILDKIT: '0' })
}

export interface ContainerEvent {
  /** As compose names it. */
  service: string
  /** `start`, `die`, `health_status: healthy`, … */
  action: string
}

/** Hears what becomes of a project's containers from now on: the engine forgets it soon. */
export function watchEvents(
  host: string,
  project: string,
): { seen: readonly ContainerEvent[] } & AsyncDisposable {
  const args = ['events', '--filter', `label=com.docker.compose.project=${project}`]
  const child = spawn('docker', [...args, '--format', '{{json .}}'], {
    env: { ...base(), DOCKER_HOST: host },
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const ended = once(child, 'close')
  const seen: ContainerEvent[] = []
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { Action, Actor } = JSON.parse(line)
    seen.push({ service: Actor.Attributes['com.docker.compose.service'], action: Action })
  })
  return {
    seen,
    async [Symbol.asyncDispose]() {
      child.kill()
      await ended
    },
  }
}

export interface ComposeOptions {
  /** The engine's. */
  host: string
  /** Names containers, networks and volumes. */
  project: string
  /** As `--file`, the first one's folder being the project's. */
  files: readonly string[]
  /** What the files read by `${NAME}`. */
  env: Readonly<Record<string, string>>
}

/** The compose command for this project: the one that TEST_COMPOSE names, else `docker-compose`, else v2's. */
export async function composeFor(options: ComposeOptions): Promise<Docker> {
  const { host, env: variables } = options
  const [command, ...args] = await composeLine(options)
  return (...rest) => printed(command, [...args, ...rest], { DOCKER_HOST: host, ...variables })
}

/** What is typed before a subcommand for this project. */
export async function composeLine({
  project,
  files,
}: Pick<ComposeOptions, 'project' | 'files'>): Promise<[string, ...string[]]> {
  const named = files.flatMap((file) => ['--file', file])
  return [...(await composeCommand()), '--project-name', project, ...named]
}

async function composeCommand(): Promise<[string, ...string[]]> {
  const given = env['TEST_COMPOSE']
  if (given) return [given]
  const { code } = await run('docker-compose', ['version'], { timeoutMs: 60_000, env: base() })
  return code === 0 ? ['docker-compose'] : ['docker', 'compose']
}

async function printed(
  command: string,
  args: readonly string[],
  variables: Readonly<Record<string, string>>,
): Promise<string> {
  const options = { timeoutMs, env: { ...base(), ...variables } }
  const { code, stdout, stderr } = await run(command, args, options)
  if (code !== 0) {
    throw new Error(
      `${command} ${args.join(' ')}: code ${code}\n${stdout.slice(-4_000)}\n${stderr}`,
    )
  }
  return stdout
}

function base(): Record<string, string> {
  return { PATH: env['PATH'] ?? '', HOME: env['HOME'] ?? '/' }
}
