/** The images of this lane: bases and servers from Debian's packages, and the project's own. */
import { hash } from 'node:crypto'
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '../../start/process.ts'
import { env } from '../env.ts'
import type { Docker } from './docker.ts'

/** By the names that docker-compose.prod.yml reads, but for Grafana, which Debian does not have. */
export type Images = Readonly<
  Record<'REDIS_IMAGE' | 'POSTGRES_IMAGE' | 'PROMETHEUS_IMAGE' | 'PGBOUNCER_IMAGE', string>
>

/** What deploy/Dockerfile builds on. */
export interface Bases {
  /** Debian alone, for the argument BASE. */
  debian: string
  /** With Node and npm, for BUILD_BASE. */
  node: string
}

const project = fileURLToPath(new URL('../../', import.meta.url))
const recipes = fileURLToPath(new URL('./images/', import.meta.url))
/** Checkouts of the project may share an engine. */
const checkout = hash('sha256', project, 'hex').slice(0, 8)
const suite = 'bookworm'
const minutes = 60_000

/** Made by debootstrap once per engine; a second run finds them. */
export async function baseImages(docker: Docker): Promise<Bases> {
  const debian = `sluice-base/debian:${suite}`
  if (!(await isThere(docker, debian))) await bootstrap(docker, debian)
  const node = `sluice-base/node:${process.version}`
  if (!(await isThere(docker, node))) await buildNode(docker, { debian, node }, process.execPath)
  return { debian, node }
}

/** The same for arm64, with this Node for it; this machine must run its programs. */
export async function arm64Images(docker: Docker, program: string): Promise<Bases> {
  const debian = `sluice-base/debian:${suite}-arm64`
  if (!(await isThere(docker, debian))) await bootstrap(docker, debian, '--arch=arm64')
  const node = `sluice-base/node:${process.version}-arm64`
  if (!(await isThere(docker, node))) await buildNode(docker, { debian, node }, program)
  return { debian, node }
}

/** Redis (Sentinel too), Postgres, Prometheus and the project's pgbouncer. */
export async function serverImages(docker: Docker, { debian }: Bases): Promise<Images> {
  const build = async (target: string) => {
    const tag = `sluice-base/${target}:${suite}`
    if (await isThere(docker, tag)) return tag
    const args = ['--build-arg', `BASE=${debian}`, '--target', target, '--tag', tag]
    await docker('build', '--quiet', ...args, recipes)
    return tag
  }
  return {
    REDIS_IMAGE: await build('redis'),
    POSTGRES_IMAGE: await build('postgres'),
    PROMETHEUS_IMAGE: await build('prometheus'),
    PGBOUNCER_IMAGE: await buildPgbouncer(docker, debian),
  }
}

export interface BuildOptions {
  bases: Bases
  /** Tells it from other images of this checkout. */
  name: string
  /** A commit; without it, what lies in this checkout. */
  commit?: string
  /** Further arguments of `docker build`, such as `--no-cache`. */
  args?: readonly string[]
}

/** Builds deploy/Dockerfile, as an operator does but for its bases, and gives the tag. */
export async function buildSluice(docker: Docker, options: BuildOptions): Promise<string> {
  const { bases, name, commit, args = [] } = options
  const tag = `sluice-test/${name}:${checkout}`
  const folder = commit === undefined ? project : await checkOut(commit)
  try {
    await docker(
      ...['build', '--quiet', '--file', join(folder, 'deploy/Dockerfile'), '--tag', tag],
      ...['--build-arg', `BASE=${bases.debian}`, '--build-arg', `BUILD_BASE=${bases.node}`],
      ...['--build-arg', `REVISION=${commit ?? 'checkout'}`],
      ...args,
      folder,
    )
  } finally {
    if (commit !== undefined) await rm(folder, { recursive: true })
  }
  return tag
}

async function buildPgbouncer(docker: Docker, debian: string): Promise<string> {
  const tag = `sluice-test/pgbouncer:${checkout}`
  const folder = join(project, 'deploy/pgbouncer')
  await docker('build', '--quiet', '--build-arg', `BASE=${debian}`, '--tag', tag, folder)
  return tag
}

async function isThere(docker: Docker, image: string): Promise<boolean> {
  return docker('image', 'inspect', image).then(
    () => true,
    () => false,
  )
}

/** A Debian with what its image "slim" has: no documentation, no package lists. */
async function bootstrap(docker: Docker, tag: string, ...args: string[]): Promise<void> {
  await inFolder(async (folder) => {
    const root = join(folder, 'root')
    await must('debootstrap', ['--variant=minbase', ...args, suite, root])
    for (const path of ['var/cache/apt/archives', 'var/lib/apt/lists', 'usr/share/doc']) {
      await rm(join(root, path), { recursive: true, force: true })
      await mkdir(join(root, path))
    }
    await importRoot(docker, root, tag)
  })
}

async function importRoot(docker: Docker, root: string, tag: string): Promise<void> {
  const archive = `${root}.tar`
  await must('tar', ['--create', '--file', archive, '--directory', root, '--numeric-owner', '.'])
  await docker('import', '--change', 'CMD ["bash"]', archive, tag)
}

/** A Node, and the npm that started this run. */
async function buildNode(docker: Docker, { debian, node }: Bases, program: string): Promise<void> {
  const npm = env['npm_execpath']
  if (npm === undefined) throw new Error('this lane is started by npm')
  await inFolder(async (folder) => {
    await cp(program, join(folder, 'node'))
    await cp(dirname(dirname(npm)), join(folder, 'npm'), { recursive: true })
    await cp('/etc/ssl/certs/ca-certificates.crt', join(folder, 'ca.pem'))
    const file = join(recipes, 'node.Dockerfile')
    await docker(
      ...['build', '--quiet', '--file', file, '--build-arg', `BASE=${debian}`, '--tag', node],
      folder,
    )
  })
}

/** The files of a commit of this repository, in a folder of their own. */
async function checkOut(commit: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-commit-'))
  const archive = join(folder, '.tar')
  await must('git', ['-C', project, 'archive', '--output', archive, commit])
  await must('tar', ['--extract', '--file', archive, '--directory', folder])
  await rm(archive)
  return folder
}

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-image-'))
  try {
    await work(folder)
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function must(command: string, args: readonly string[]): Promise<void> {
  const path = { PATH: env['PATH'] ?? '' }
  const { code, stdout, stderr } = await run(command, args, { timeoutMs: 20 * minutes, env: path })
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}: ${stdout.slice(-2_000)}${stderr}`)
}
