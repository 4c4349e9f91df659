/** A disk that loses at a power cut what was not synced: a real ext4 on a loop device. */
import { chmod, mkdir, mkdtemp, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { inject } from 'vitest'
import { run } from '../../start/process.ts'

export interface LossyDisk extends AsyncDisposable {
  /** Where it is mounted, also after a power cut. */
  readonly path: string
  /** Makes everything durable that is written by now. */
  sync(): Promise<void>
  /**
   * Cuts the power: what the file system had not been made to write is gone. Whoever uses the disk
   * must have been killed before. Resolves when it is mounted again, its journal read.
   */
  cutPower(): Promise<void>
}

export interface SmallDisk extends AsyncDisposable {
  readonly path: string
  /** Leaves not a byte of room. */
  fill(): Promise<void>
  /** Takes away what filled it. */
  empty(): Promise<void>
}

/** Makes a small disk for that user: a real file system in memory. Needs root. */
export async function smallDisk(options: {
  megabytes: number
  uid: number
  gid: number
}): Promise<SmallDisk> {
  const { megabytes, uid, gid } = options
  const path = await mkdtemp(join(inject('servers').folder, 'small-'))
  const settings = `size=${megabytes}m,mode=0700,uid=${uid},gid=${gid}`
  await must('mount', ['-t', 'tmpfs', '-o', settings, 'tmpfs', path])
  const ballast = join(path, 'ballast')
  return {
    path,
    async fill() {
      const file = await open(ballast, 'a')
      try {
        for (;;) await file.appendFile(Buffer.alloc(4096))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      } finally {
        await file.close()
      }
    },
    empty: () => rm(ballast),
    async [Symbol.asyncDispose]() {
      await must('umount', ['--lazy', path])
      await rm(path, { recursive: true, force: true })
    },
  }
}

/** Longer than any test: the journal is written when somebody syncs, and not by the clock. */
const journalSeconds = 3_600

/**
 * Makes an empty disk. Needs root, loop devices and the programs mkfs.ext4, mount and umount, and
 * throws where it can't be had.
 *
 * The file that backs the device holds exactly what the kernel has sent to it. Its copy, taken while
 * the file system is still mounted and knows more, is the disk after a power cut.
 */
export async function lossyDisk(options: { megabytes: number }): Promise<LossyDisk> {
  const folder = await mkdtemp(join(inject('servers').folder, 'disk-'))
  await chmod(folder, 0o755)
  const path = join(folder, 'mounted')
  await mkdir(path)
  let life = 0
  const image = () => join(folder, `image.${life}`)
  const file = await open(image(), 'w')
  await file.truncate(options.megabytes * 2 ** 20)
  await file.close()
  // Everything is laid out now, so that nothing of the kernel's own writes to the disk later.
  const layout = 'lazy_itable_init=0,lazy_journal_init=0,nodiscard'
  await must('mkfs.ext4', ['-q', '-F', '-E', layout, image()])
  const mount = () =>
    must('mount', ['-t', 'ext4', '-o', `loop,commit=${journalSeconds}`, image(), path])
  await mount()
  await chmod(path, 0o755)
  return {
    path,
    sync: () => must('sync', ['-f', path]),
    async cutPower() {
      const before = image()
      life += 1
      await must('cp', ['--sparse=always', before, image()])
      await must('umount', [path])
      await rm(before)
      await mount()
    },
    async [Symbol.asyncDispose]() {
      await must('umount', [path])
      await rm(folder, { recursive: true, force: true })
    },
  }
}

async function must(command: string, args: readonly string[]): Promise<void> {
  const path = '/usr/sbin:/usr/bin:/sbin:/bin'
  const done = await run('/usr/bin/env', [`PATH=${path}`, command, ...args], { timeoutMs: 60_000 })
  if (done.code !== 0) throw new Error(`${command} failed: ${done.stderr.trim()}`)
}
