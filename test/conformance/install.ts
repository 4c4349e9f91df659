/** The reference network from npm: installed once in the cache folder, linked where its scripts find it. */
import { execFile } from 'node:child_process'
import { hash } from 'node:crypto'
import {
  cp,
  mkdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { findPlaces } from '../../start/places.ts'
import { env } from '../env.ts'
import { tinyJpeg } from './jpeg.ts'

const run = promisify(execFile)
const here = fileURLToPath(new URL('reference', import.meta.url))
const project = fileURLToPath(new URL('../../', import.meta.url))
const files = ['package.json', 'package-lock.json', '.npmrc']
const timeoutMs = 600_000

export interface Installation {
  /** Where the seeds of the reference find `../dev-env/assets`, relative to it. */
  workingFolder: string
  /** Whether it was there already. */
  cached: boolean
}

/**
 * Installs what the lock file names, runs no script but the build of the one native module, and makes the
 * pictures that the package lacks. Takes about two minutes and needs the npm registry; a second run takes none.
 */
export async function installReference(): Promise<Installation> {
  const { cache } = await findPlaces(env)
  const what = await readFile(join(here, 'package-lock.json'), 'utf8')
  const how = await readFile(fileURLToPath(import.meta.url), 'utf8')
  const version = hash('sha256', `${process.version}${what}${how}`, 'hex').slice(0, 12)
  const folder = join(cache, `reference-${version}`)
  const cached = await exists(folder)
  if (!cached) await installInto(folder)
  await link(join(folder, 'node_modules'), join(here, 'node_modules'))
  return { workingFolder: join(folder, 'seeds'), cached }
}

/** Beside its place, then moved there: a half installation is never taken for a whole one. */
async function installInto(folder: string): Promise<void> {
  const unfinished = `${folder}.${process.pid}`
  await mkdir(unfinished, { recursive: true })
  try {
    for (const file of files) await cp(join(here, file), join(unfinished, file))
    const options = {
      cwd: unfinished,
      timeout: timeoutMs,
      maxBuffer: 64 << 20,
      env: {
        ...env,
        PATH: [dirname(process.execPath), env['PATH'] ?? ''].join(delimiter),
        npm_config_nodedir: await copyHeaders(unfinished),
      },
    }
    await run('npm', ['ci', '--ignore-scripts'], options)
    await run('npm', ['run', 'build'], options)
    await addPictures(unfinished)
    await rename(unfinished, folder)
  } finally {
    await rm(unfinished, { recursive: true, force: true })
  }
}

/**
 * This Node's own headers, whatever else is installed, and without a fault of theirs: as of 24.21 the end of a
 * wrapped object asks for the environment, and where the collector runs outside of any script there is none, which
 * ends the process (seen in one of three runs).
 */
async function copyHeaders(unfinished: string): Promise<string> {
  const headers = join(unfinished, 'headers')
  const beside = join(dirname(dirname(process.execPath)), 'include')
  const inPackage = `node_modules/node-${process.platform}-${process.arch}/include`
  const source = (await exists(beside)) ? beside : join(project, inPackage)
  await cp(source, join(headers, 'include'), { recursive: true })
  const file = join(headers, 'include/node/node_object_wrap.h')
  const text = await readFile(file, 'utf8')
  await writeFile(file, text.replaceAll(/^ +(Add|Remove)CleanupHook\(\);$/gm, ''))
  return headers
}

/** The seeds read them by these paths; the package is published without them. */
async function addPictures(folder: string): Promise<void> {
  const inPackage = join(folder, 'node_modules/@atproto/dev-env/assets')
  const besideSeeds = join(folder, 'dev-env/assets')
  await mkdir(join(folder, 'seeds'))
  await mkdir(inPackage, { recursive: true })
  await mkdir(besideSeeds, { recursive: true })
  await writeFile(join(inPackage, 'key-portrait-small.jpg'), tinyJpeg(1))
  await writeFile(join(besideSeeds, 'key-landscape-small.jpg'), tinyJpeg(2))
  await writeFile(join(besideSeeds, 'key-alt.jpg'), tinyJpeg(3))
}

async function link(target: string, path: string): Promise<void> {
  if ((await readlink(path).catch(() => null)) === target) return
  await rm(path, { recursive: true, force: true })
  await symlink(target, path)
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
