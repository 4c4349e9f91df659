/** One process at a time on a folder of data. */
import { randomBytes } from 'node:crypto'
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { commandLine } from './process.ts'

/** Somebody else holds the folder; the message says who. */
export class LockedError extends Error {
  constructor(dir: string, pid: number) {
    super(`another npm start is running on ${dir} (pid ${pid}): end it first, or give --data`)
  }
}

interface Holder {
  pid: number
  /** Tells the holder from a process that has got its pid later. */
  command: string
}

/**
 * Takes the folder for this process, also from a holder that is dead; disposing gives it back. Throws
 * `LockedError` while another process holds it.
 */
export async function lockFolder(dir: string): Promise<AsyncDisposable> {
  const file = join(dir, 'lock')
  const own = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`
  const command = (await commandLine(process.pid)) ?? ''
  await writeFile(own, JSON.stringify({ pid: process.pid, command } satisfies Holder))
  try {
    // Each turn takes the lock, finds a living holder, or moves one dead holder's lock away.
    for (let turn = 0; turn < 10; turn++) {
      // A link appears with its content, whole or not at all.
      const taken = await link(own, file).then(
        () => true,
        () => false,
      )
      if (taken) return { [Symbol.asyncDispose]: () => rm(file, { force: true }) }
      await clearDead(dir, file)
    }
  } finally {
    await rm(own, { force: true })
  }
  throw new Error(`the lock ${file} can't be taken`)
}

async function clearDead(dir: string, file: string): Promise<void> {
  const text = await readFile(file, 'utf8').catch(() => null)
  if (text === null) return
  const holder = await livingHolder(text)
  if (holder !== null) throw new LockedError(dir, holder.pid)

  const aside = `${file}.dead.${process.pid}`
  await rename(file, aside).catch(() => undefined)
  const moved = await readFile(aside, 'utf8').catch(() => null)
  // Somebody was quicker, and what we moved away is his new lock: give it back.
  if (moved !== null && moved !== text) await link(aside, file).catch(() => undefined)
  await rm(aside, { force: true })
}

async function livingHolder(text: string): Promise<Holder | null> {
  const holder = readHolder(text)
  // A container that starts again gives the same pid to the same command.
  if (holder === null || holder.pid === process.pid) return null
  const command = await commandLine(holder.pid)
  return command !== null && command === holder.command ? holder : null
}

function readHolder(text: string): Holder | null {
  try {
    const { pid, command } = JSON.parse(text) as Partial<Holder>
    return typeof pid === 'number' && typeof command === 'string' ? { pid, command } : null
  } catch {
    return null
  }
}
