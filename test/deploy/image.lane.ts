/** The image: what it holds, how large it is, and that two builds of it are alike. */
import { readFile } from 'node:fs/promises'
import { expect, inject, test } from 'vitest'
import { dockerAt } from './docker.ts'
import { buildSluice } from './images.ts'

const { host, bases, sluice } = inject('dock')
const docker = dockerAt(host)

/** What a shell prints in a container of the image. */
const inside = (command: string, image = sluice) =>
  docker('run', '--rm', '--read-only', '--entrypoint', 'sh', image, '-c', command)

test('it is at most 250 MB over its base', async () => {
  const size = async (image: string) =>
    Number(await docker('image', 'inspect', '--format', '{{.Size}}', image))
  const added = (await size(sluice)) - (await size(bases.debian))
  console.log(`the image is ${Math.round(added / 1e6)} MB over its base`)
  expect(added).toBeGreaterThan(0)
  expect(added).toBeLessThanOrEqual(250e6)
})

test('it says what it is', async () => {
  const labels = JSON.parse(
    await docker('image', 'inspect', '--format', '{{json .Config.Labels}}', sluice),
  )
  expect(labels).toEqual({
    'org.opencontainers.image.title': 'sluice',
    'org.opencontainers.image.description': expect.any(String),
    'org.opencontainers.image.licenses': 'MIT',
    'org.opencontainers.image.version': expect.any(String),
    'org.opencontainers.image.revision': 'checkout',
  })
})

test('it runs as nobody, by the number, and asks its worker whether it lives', async () => {
  const config = JSON.parse(
    await docker('image', 'inspect', '--format', '{{json .Config}}', sluice),
  )
  expect(config.User).toBe('10001:10001')
  expect(config.Healthcheck.Test).toEqual(['CMD', 'node', '/app/deploy/health.ts'])
  expect(config.Entrypoint).toEqual(['node', '/app/cli/main.ts'])
})

test('no package for development, no test and no secret is in it', async () => {
  const packages = JSON.parse(await readFile('package.json', 'utf8'))
  const files = (await inside('cd /app; find . -not -path "./node_modules/*/*/*"')).split('\n')
  for (const name of Object.keys(packages.dependencies)) {
    expect(files).toContain(`./node_modules/${name}`)
  }
  for (const name of Object.keys(packages.devDependencies)) {
    expect(files).not.toContain(`./node_modules/${name}`)
  }
  const own = files.filter((file) => !file.startsWith('./node_modules'))
  expect(own).toContain('./ingester/main.ts')
  expect(own.filter((file) => /\.test\.ts$|\.fixture\.ts$|\.env|secret|\.git$/.test(file))).toEqual(
    [],
  )
})

test('the list of its parts names every package that is in it', async () => {
  const list = JSON.parse(await inside('cat /app/sbom.cdx.json'))
  expect(list.bomFormat).toBe('CycloneDX')
  const parts = (list.components as { name: string; version: string }[]).map(
    ({ name, version }) => `${name}@${version}`,
  )
  const script = `
    const { packages } = require('/app/node_modules/.package-lock.json')
    for (const [path, { version }] of Object.entries(packages))
      if (require('fs').existsSync('/app/' + path))
        console.log(path.split('node_modules/').at(-1) + '@' + version)`
  const printed = await docker('run', '--rm', '--entrypoint', 'node', sluice, '--eval', script)
  const installed = printed.trim().split('\n')
  expect(installed.length).toBeGreaterThan(70)
  expect(parts).toEqual(expect.arrayContaining(installed))
})

test.each(['ingester', 'indexer', 'backfiller'])(
  'a %s without its settings says what it lacks, and ends with code 2',
  async (worker) => {
    const run = docker('run', '--rm', sluice, worker)
    await expect(run).rejects.toThrow(/code 2\n[\s\S]*REDIS_URL is not set/)
  },
)

test('it names its commands', async () => {
  const help = await docker('run', '--rm', '--read-only', sluice)
  for (const name of ['migrate', 'status', 'dlq', 'doctor']) expect(help).toContain(name)
})

test('two builds from one lock file hold the same files', async () => {
  const args = ['--no-cache']
  const again = await buildSluice(docker, { bases, name: 'again', args })
  const [first, second] = [await tree(sluice), await tree(again)]
  expect(first.length).toBeGreaterThan(2_000)
  expect(second).toEqual(first)
})

/** Each path with its kind, rights, owner and the hash of what is in it. */
async function tree(image: string): Promise<string[]> {
  const printed = await inside(
    `cd /; find app spill usr/local/bin/sluice -printf '%p %y %m %U:%G %l\\n' | sort; \
     find app usr/local/bin/sluice -type f -exec sha256sum {} + | sort -k 2`,
    image,
  )
  return printed.split('\n')
}
