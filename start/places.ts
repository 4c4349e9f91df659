/** Where things lie on this machine: the cache folder, and the programs on PATH. */
import { constants } from 'node:fs'
import { access, chmod, mkdir, stat } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { delimiter, isAbsolute, join } from 'node:path'

export interface Places {
  /** A folder of ours that may be deleted at any time while nothing runs. */
  cache: string
  /** The folders where programs are looked for. */
  path: readonly string[]
}

const rootCache = '/var/cache/sluice'

/**
 * The places for the user that runs this process: for root `/var/cache/sluice`, which the user that
 * PostgreSQL then runs as can reach; else `$XDG_CACHE_HOME/sluice` or `~/.cache/sluice`; and where
 * the home can't be written (a service account), a private folder beside the temporary files.
 */
export async function findPlaces(
  env: Readonly<Record<string, string | undefined>>,
): Promise<Places> {
  const path = (env['PATH'] ?? '').split(delimiter).filter(isAbsolute)
  const cache = await firstWritable(candidates(env['XDG_CACHE_HOME']))
  return { cache, path }
}

function candidates(xdgCache: string | undefined): string[] {
  const uid = process.getuid?.() ?? 0
  const fallback = join(tmpdir(), `sluice-${uid}`)
  if (uid === 0 && process.platform !== 'win32') return [rootCache, fallback]
  const own = xdgCache && isAbsolute(xdgCache) ? xdgCache : join(homedir(), '.cache')
  return [join(own, 'sluice'), fallback]
}

async function firstWritable(folders: readonly string[]): Promise<string> {
  const problems: string[] = []
  for (const folder of folders) {
    try {
      await makeOwnFolder(folder)
      return folder
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error))
    }
  }
  throw new Error(`no folder can be written for the cache: ${problems.join('; ')}`)
}

/** A folder that another user made for us is refused: what lies in it is run as a program. */
async function makeOwnFolder(folder: string): Promise<void> {
  const made = await mkdir(folder, { recursive: true })
  // The umask must not hide it from the user that PostgreSQL runs as.
  if (made !== undefined) await chmod(folder, 0o755)
  const { uid } = await stat(folder)
  if (uid !== process.getuid?.()) throw new Error(`${folder} belongs to another user`)
  await access(folder, constants.W_OK | constants.X_OK)
}

/** The first of the named programs that is on PATH, or null. */
export async function findProgram(
  places: Places,
  ...names: readonly string[]
): Promise<string | null> {
  for (const name of names) {
    for (const folder of places.path) {
      const file = join(folder, name)
      const found = await access(file, constants.X_OK).then(
        () => true,
        () => false,
      )
      if (found) return file
    }
  }
  return null
}
