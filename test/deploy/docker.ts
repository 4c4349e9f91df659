/** The docker and compose commands, as an operator types them. */
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

/** `docker-compose` for this project: 1.29 where there is one, else v2. */
export async function composeFor(options: ComposeOptions): Promise<Docker> {
  const { host, project, files, env: variables } = options
  const [command, ...first] = await composeCommand()
  const args = [...first, '--project-name', project, ...files.flatMap((file) => ['--file', file])]
  return (...rest) => printed(command, [...args, ...rest], { DOCKER_HOST: host, ...variables })
}

async function composeCommand(): Promise<[string, ...string[]]> {
  const { code } = await run('docker-compose', ['version'], { timeoutMs: 10_000, env: base() })
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
