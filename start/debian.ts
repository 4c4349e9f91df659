/** Programs of Debian and Ubuntu packages, unpacked (not installed) into the cache folder. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { findProgram, type Places } from './places.ts'
import { run } from './process.ts'

/** A program that runs on this machine. */
export interface Program {
  command: string
  /** What it needs in its environment to find its libraries. */
  env: Record<string, string>
  /** Where it comes from, in words. */
  origin: string
}

/** Packages to unpack together, and the program among their files. */
export interface PackageSet {
  packages: readonly string[]
  program: string
}

export interface FetchOptions {
  /** Ends a download. */
  signal?: AbortSignal
  /** Called once when the program has to be fetched. */
  onFetch?: () => void
}

export interface UnpackOptions extends FetchOptions {
  /** Names the folder in the cache. */
  name: string
  /** The first that can be had is taken. */
  sets: readonly PackageSet[]
}

/** Thrown when the packages can't be had here; the message says why, as half a sentence. */
export class NoPackageError extends Error {}

const downloadTimeoutMs = 120_000

/** Whether the program starts at all. */
export async function runs({ command, env }: Pick<Program, 'command' | 'env'>): Promise<boolean> {
  const { code } = await run(command, ['--version'], { timeoutMs: 10_000, env })
  return code === 0
}

/**
 * The program of the distribution's package with the libraries that this machine lacks, fetched
 * and unpacked once. Needs no rights. Safe to call from several processes at once. Throws
 * `NoPackageError`.
 */
export async function unpackedProgram(places: Places, options: UnpackOptions): Promise<Program> {
  const { name, sets } = options
  const aptGet = await findProgram(places, 'apt-get')
  const dpkg = await findProgram(places, 'dpkg')
  if (aptGet === null || dpkg === null) throw new NoPackageError('this is not a Debian or Ubuntu')

  const release = await readFile('/etc/os-release', 'utf8').catch(() => '')
  const version = /^VERSION_CODENAME="?([\w.-]+)/m.exec(release)?.[1] ?? 'unknown'
  const folder = join(places.cache, `${name}-${version}-${process.arch}`)
  const ready = await programIn(folder, sets)
  if (ready !== null) return ready

  options.onFetch?.()
  await rm(folder, { recursive: true, force: true })
  const building = `${folder}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    await build({ folder: building, sets, signal: options.signal })
    // Two processes may come here at once; whoever is second takes what the first has made.
    await rename(building, folder).catch(() => undefined)
  } finally {
    await rm(building, { recursive: true, force: true })
  }
  const built = await programIn(folder, sets)
  if (built === null) throw new NoPackageError(`what was unpacked into ${folder} does not run`)
  return built
}

/** The program unpacked in this folder, if there is one and it runs. */
async function programIn(folder: string, sets: readonly PackageSet[]): Promise<Program | null> {
  const env = { LD_LIBRARY_PATH: (await libraryFolders(folder)).join(':') }
  for (const { program } of sets) {
    const command = join(folder, program)
    if (await runs({ command, env })) return { command, env, origin: command }
  }
  return null
}

async function libraryFolders(folder: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true }).catch(() => [])
  const libraries = names.filter((name) => /\.so(\.[\d.]+)?$/.test(name))
  return [...new Set(libraries.map((name) => join(folder, dirname(name))))]
}

interface Building {
  folder: string
  sets: readonly PackageSet[]
  signal?: AbortSignal | undefined
}

/** Fetches the packages and the libraries that the machine lacks, and unpacks them into the folder. */
async function build({ folder, sets, signal }: Building): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o755 })
  const apt = join(folder, '.apt')
  const own = await privateLists(apt)
  let problem = ''
  // First the machine's own package lists; where they are missing or too old, fresh private ones.
  for (const options of [[], own]) {
    if (options === own) {
      const update = await run('apt-get', [...own, '-q', 'update'], {
        timeoutMs: downloadTimeoutMs,
        signal,
      })
      // A mirror that can't be reached is only a warning of apt's.
      problem = lastLine(update.stderr) || problem
    }
    for (const set of sets) {
      const failed = await unpack(set, { folder, signal }, options)
      if (failed === null) return rm(apt, { recursive: true, force: true })
      problem ||= failed
    }
  }
  throw new NoPackageError(`the distribution's package could not be fetched (${problem})`)
}

async function privateLists(folder: string): Promise<string[]> {
  await mkdir(join(folder, 'lists', 'partial'), { recursive: true })
  await mkdir(join(folder, 'cache', 'archives', 'partial'), { recursive: true })
  return [
    `-oDir::State::lists=${join(folder, 'lists')}`,
    `-oDir::Cache=${join(folder, 'cache')}`,
    // Under root, apt would fetch as a user who can't write here.
    '-oAPT::Sandbox::User=root',
  ]
}

type Unpacking = Omit<Building, 'sets'>

/** Unpacks the set and, round by round, the libraries it lacks; null on success, else the problem. */
async function unpack(
  set: PackageSet,
  building: Unpacking,
  options: readonly string[],
): Promise<string | null> {
  const { folder } = building
  const known = new Set<string>(set.packages)
  let wanted: string[] = [...set.packages]
  for (let round = 0; round < 4; round++) {
    const failed = await fetchAndUnpack(wanted, building, options)
    if (failed !== null) return failed
    const missing = await missingLibraries(join(folder, set.program), folder)
    if (missing.length === 0) return null
    wanted = (await libraryPackages(wanted, options)).filter((name) => !known.has(name))
    if (wanted.length === 0) return `no package has ${missing.join(', ')}`
    for (const name of wanted) known.add(name)
  }
  return 'its libraries need too many others'
}

async function fetchAndUnpack(
  packages: readonly string[],
  { folder, signal }: Unpacking,
  options: readonly string[],
): Promise<string | null> {
  const archives = join(folder, '.apt', 'archives')
  await mkdir(archives, { recursive: true })
  const fetched = await run('apt-get', [...options, '-q', 'download', ...packages], {
    timeoutMs: downloadTimeoutMs,
    cwd: archives,
    signal,
  })
  if (fetched.code !== 0) return lastLine(fetched.stderr)
  for (const name of await readdir(archives)) {
    const archive = join(archives, name)
    const unpacked = await run('dpkg', ['-x', archive, folder], { timeoutMs: 30_000 })
    if (unpacked.code !== 0) return lastLine(unpacked.stderr)
    await rm(archive)
  }
  return null
}

async function missingLibraries(program: string, folder: string): Promise<string[]> {
  const env = { LD_LIBRARY_PATH: (await libraryFolders(folder)).join(':') }
  const ldd = await run('ldd', [program], { timeoutMs: 10_000, env })
  return [...ldd.stdout.matchAll(/^\s*(\S+) => not found/gm)].map(([, name]) => name ?? '')
}

/** The library packages that these depend on and that are not installed. Never the C library. */
async function libraryPackages(
  packages: readonly string[],
  options: readonly string[],
): Promise<string[]> {
  const listed = await run('apt-cache', [...options, 'depends', ...packages], {
    timeoutMs: 30_000,
  })
  const lacking = new Set<string>()
  for (const choice of alternatives(listed.stdout)) {
    const [first] = choice
    if (first === undefined || choice.includes('libc6')) continue
    if (!(await anyInstalled(choice))) lacking.add(first)
  }
  return [...lacking]
}

/** What apt-cache lists as needed: of each choice, one package. A `|` says that another follows. */
function alternatives(listed: string): string[][] {
  const choices: string[][] = []
  let choice: string[] = []
  for (const [, more, name] of listed.matchAll(/^\s*(\|?)(?:Pre)?Depends: <?([\w.+-]+)/gm)) {
    if (name?.startsWith('lib')) choice.push(name)
    if (more === '|') continue
    choices.push(choice)
    choice = []
  }
  return choices
}

async function anyInstalled(names: readonly string[]): Promise<boolean> {
  for (const name of names) {
    const status = await run('dpkg', ['-s', name], { timeoutMs: 10_000 })
    if (/^Status: install ok installed$/m.test(status.stdout)) return true
  }
  return false
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? ''
}
