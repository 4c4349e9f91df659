/** The previous commit and this one side by side on one Redis and one Postgres: first the schema, then each worker. */
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { run } from '../../start/process.ts'
import { env } from '../env.ts'
import { dockerAt } from './docker.ts'
import { buildSluice } from './images.ts'
import { type DeployRoom, openDeployRoom } from './room.ts'

const workers = ['backfiller1', 'ingester', 'indexer1'] as const
const rest = ['indexer2', 'indexer3', 'indexer4', 'indexer5', 'indexer6', 'backfiller2'] as const

const { host, bases, sluice } = inject('dock')
let previous: string
let room: DeployRoom

beforeAll(async () => {
  const commit = await previousCommit()
  previous = await buildSluice(dockerAt(host), { bases, name: 'previous', commit })
  room = await openDeployRoom('upgrade', { env: { SLUICE_IMAGE: previous } })
  await room.life.progress()
})
afterAll(() => room[Symbol.asyncDispose]())

test('the two images are of two commits', async () => {
  const [first, second] = await Promise.all([previous, sluice].map(revision))
  expect(first).toMatch(/^[0-9a-f]{40}$/)
  expect(second).not.toBe(first)
})

test('the new schema carries the workers of the previous commit', async () => {
  const compose = await room.stack.composeWith({ SLUICE_IMAGE: sluice })
  await compose('run', '--rm', 'migrate')
  await room.life.progress()
})

test.each(workers)(
  '%s of this commit works beside the others of the previous one',
  async (worker) => {
    await replace(worker, sluice)
    await room.life.progress()
  },
)

test.each(workers)('%s goes back to the previous commit', async (worker) => {
  await replace(worker, previous)
  await room.life.progress()
})

test('in the end all are of this commit, and the rows equal the model', async () => {
  for (const worker of [...workers, ...rest]) await replace(worker, sluice)
  await room.life.progress()
  await room.life.settle()
  for (const worker of [...workers, ...rest]) {
    const { State, RestartCount } = await room.stack.inspect(worker)
    expect({ status: State.Status, RestartCount }).toEqual({ status: 'running', RestartCount: 0 })
  }
})

/** As the guide has it: one container, by another image, and nothing else is touched. */
async function replace(worker: string, image: string): Promise<void> {
  const compose = await room.stack.composeWith({ SLUICE_IMAGE: image })
  await compose('up', '--detach', '--no-deps', worker)
  const id = await room.stack.container(worker)
  const used = await room.stack.docker('inspect', '--format', '{{.Config.Image}}', id)
  expect(used.trim()).toBe(image)
}

async function revision(image: string): Promise<string> {
  const format = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
  return (await dockerAt(host)('image', 'inspect', '--format', format, image)).trim()
}

/** The commit before what lies here: the newest one, when it has been changed since. */
async function previousCommit(): Promise<string> {
  const git = async (...args: string[]) => {
    const path = { PATH: env['PATH'] ?? '' }
    const { code, stdout, stderr } = await run('git', args, { timeoutMs: 30_000, env: path })
    if (code !== 0) throw new Error(`git ${args.join(' ')}: ${stderr}`)
    return stdout.trim()
  }
  const changed = await git('status', '--porcelain', '--untracked-files=no')
  return git('rev-parse', changed === '' ? 'HEAD~1' : 'HEAD')
}
