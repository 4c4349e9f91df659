/**
 * Takes one guard at a time out of a copy of the code and shows that a test turns red.
 * `node test/mutations.ts [--only name]… [--room folder]… [--missing] [--write]`; `--room` tries those of the files in a
 * folder, `--missing` those that are not caught in `docs/mutations.md` yet; `--write` puts what was caught there,
 * beside what is there already.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'
import { findPlaces } from '../start/places.ts'
import { startPostgres } from '../start/postgres.ts'
import { findRedis, startRedis } from '../start/redis.ts'
import { env } from './env.ts'
import { caughtBefore, type Mutation, misfit, mutated, mutations, pageOf } from './mutation-list.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const page = join(root, 'docs/mutations.md')
/** A mutation may make a test wait for what never comes. */
const testWithinMs = 40_000
const runWithinMs = 240_000

interface TestReport {
  file: string
  /** With the names of the groups that it is in. */
  name: string
  status: string
  /** The first line of what it failed with. */
  reason: string
}

/** What a run of tests said. */
interface Report {
  tests: TestReport[]
  /** Files that could not even be loaded, with the reason. */
  unloaded: string[]
}

interface Place extends AsyncDisposable {
  /** The copy of the code. */
  tree: string
  redis: Redis
  /** Runs the named tests, one after the other, to the first that fails. */
  run(tests: readonly Pick<Mutation, 'test' | 'title'>[]): Promise<Report>
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string', multiple: true },
      room: { type: 'string', multiple: true },
      missing: { type: 'boolean' },
      write: { type: 'boolean' },
    },
  })
  const before = caughtBefore(await readFile(page, 'utf8'), mutations)
  const chosen = mutations.filter(
    ({ name, file }) =>
      (values.only?.includes(name) ?? true) &&
      (values.room?.some((room) => file.startsWith(`${room}/`)) ?? true) &&
      !(values.missing === true && before.has(name)),
  )
  for (const name of values.only ?? [])
    if (!chosen.some((mutation) => mutation.name === name)) throw new Error(`no mutation ${name}`)
  const misfits = chosen.flatMap((mutation) => misfit(root, mutation) ?? [])
  if (misfits.length > 0) throw new Error(`stale mutations:\n${misfits.join('\n')}`)

  let caught = 0
  for await (const { name, killer } of tryAll(chosen)) {
    if (killer !== null) caught += 1
    if (values.write) await write(name, killer)
  }
  process.stdout.write(`${caught} of ${chosen.length} mutations caught\n`)
  if (caught < chosen.length) process.exitCode = 1
  if (values.write) await write()
}

/** Puts what came of one into the page, which is read again: others may have been tried meanwhile. */
async function write(name?: string, killer?: TestReport | null): Promise<void> {
  const all = caughtBefore(await readFile(page, 'utf8'), mutations)
  if (name !== undefined && killer) all.set(name, killer.name)
  else if (name !== undefined) all.delete(name)
  await writeFile(page, pageOf(mutations, all))
}

/** One after the other, each with the test that caught it, or null. */
async function* tryAll(chosen: readonly Mutation[]) {
  if (chosen.length === 0) return
  await using place = await makePlace()
  await requireGreen(place, chosen)
  for (const [index, mutation] of chosen.entries()) {
    const killer = await tryMutation(place, mutation)
    const verdict = killer === null ? 'SURVIVED' : `caught: ${killer.name} (${killer.reason})`
    process.stdout.write(`${index + 1}/${chosen.length} ${mutation.name} ${verdict}\n`)
    yield { name: mutation.name, killer }
  }
}

/** Every test that is to catch something must be there and pass on the code as it is. */
async function requireGreen(place: Place, chosen: readonly Mutation[]): Promise<void> {
  const { tests, unloaded } = await place.run(chosen)
  if (unloaded.length > 0) throw new Error(`not loaded: ${unloaded.join('; ')}`)
  const red = tests.filter(({ status }) => status === 'failed')
  if (red.length > 0) {
    const names = red.map(({ file, name }) => `${file}: ${name}`)
    throw new Error(`red without any mutation:\n${names.join('\n')}`)
  }
  const missing = chosen.filter(
    ({ test, title }) =>
      !tests.some(
        ({ file, name, status }) => file === test && name.includes(title) && status === 'passed',
      ),
  )
  if (missing.length === 0) return
  const names = missing.map(({ name, test, title }) => `${name}: ${test} has no test "${title}"`)
  throw new Error(`tests that are not there:\n${names.join('\n')}`)
}

/** The test that failed, or null when none did. Throws when the code no longer loads. */
async function tryMutation(place: Place, mutation: Mutation): Promise<TestReport | null> {
  const file = join(place.tree, mutation.file)
  const original = await readFile(file, 'utf8')
  const changed = mutated(original, mutation)
  if (mutation.file.endsWith('.lua')) {
    const info = await readFile(join(dirname(file), 'info.lua'), 'utf8')
    await place.redis.script('LOAD', `${info}\n${changed}`)
  }
  await writeFile(file, changed)
  try {
    const { tests, unloaded } = await place.run([mutation])
    if (unloaded.length > 0)
      throw new Error(`${mutation.name} does not load: ${unloaded.join('; ')}`)
    return tests.find(({ status }) => status === 'failed') ?? null
  } finally {
    await writeFile(file, original)
  }
}

/** A copy of the working tree with servers of its own, which all runs use. */
async function makePlace(): Promise<Place> {
  await using resources = new AsyncDisposableStack()
  // Named as a test run's folder, so that the next run clears up after a kill.
  const folder = await mkdtemp(join(tmpdir(), 'sluice-test-'))
  resources.defer(() => rm(folder, { recursive: true, force: true }))
  await chmod(folder, 0o755)
  await writeFile(join(folder, 'pid'), String(process.pid))
  const tree = join(folder, 'copy', 'tree')
  await copyTree(tree)

  const places = await findPlaces(env)
  const program = await findRedis(places)
  const args = ['--databases', '2000', '--appendfsync', 'no']
  const redisServer = await startRedis({ places, program, dir: join(folder, 'redis'), args })
  resources.defer(() => redisServer.stop())
  const settings = { fsync: 'off', full_page_writes: 'off', synchronous_commit: 'off' }
  const postgres = await startPostgres({
    ...{ places, dir: join(folder, 'postgres'), unsafe: true, settings },
  })
  resources.defer(() => postgres.stop())
  const redis = new Redis(redisServer.url, { protocol: 2 })
  resources.defer(() => redis.disconnect())

  const report = join(folder, 'report.json')
  const servers = { TEST_REDIS_URL: redisServer.url, TEST_DATABASE_URL: postgres.url }
  const run: Place['run'] = async (tests) => {
    const files = [...new Set(tests.map(({ test }) => test))]
    const titles = [...new Set(tests.map(({ title }) => title))]
    const pattern = titles.map(escaped).join('|')
    await rm(report, { force: true })
    const child = spawn(
      process.execPath,
      [
        ...[join(tree, 'node_modules/vitest/vitest.mjs'), 'run', ...files, '-t', pattern],
        ...['--bail', '1', '--maxWorkers', '1', '--testTimeout', String(testWithinMs)],
        ...['--reporter', 'json', '--outputFile', report],
      ],
      {
        cwd: tree,
        env: { ...env, ...servers },
        stdio: 'ignore',
        ...(tests.length === 1 ? { timeout: runWithinMs } : {}),
      },
    )
    await once(child, 'exit')
    if (!existsSync(report)) throw new Error(`the run of ${files.join(', ')} gave no report`)
    return readReport(await readFile(report, 'utf8'), tree)
  }
  const held = resources.move()
  return { tree, redis, run, [Symbol.asyncDispose]: () => held.disposeAsync() }
}

/** What git knows or would add, as it is now, beside the recorded data that the tests read. */
async function copyTree(tree: string): Promise<void> {
  const listing = ['ls-files', '-z', '--cached', '--others', '--exclude-standard']
  const files = execFileSync('git', listing, { cwd: root, encoding: 'utf8' }).split('\0')
  for (const file of files.filter((name) => name !== '' && existsSync(join(root, name)))) {
    await mkdir(dirname(join(tree, file)), { recursive: true })
    await cp(join(root, file), join(tree, file))
  }
  await symlink(join(root, 'node_modules'), join(tree, 'node_modules'))
  await symlink(join(root, '../shared'), join(tree, '../shared'))
}

/** A title as a pattern that matches nothing else. */
function escaped(title: string): string {
  return title.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&')
}

function readReport(text: string, tree: string): Report {
  const { testResults } = JSON.parse(text) as {
    testResults: {
      name: string
      status: string
      message: string
      assertionResults: { fullName: string; status: string; failureMessages: string[] }[]
    }[]
  }
  const report: Report = { tests: [], unloaded: [] }
  for (const { name, status, message, assertionResults } of testResults) {
    const file = name.slice(tree.length + 1)
    for (const { fullName, status, failureMessages } of assertionResults) {
      const reason = failureMessages[0]?.split('\n', 1)[0]?.slice(0, 100) ?? ''
      report.tests.push({ file, name: fullName, status, reason })
    }
    const failed = assertionResults.some((result) => result.status === 'failed')
    if (status === 'failed' && !failed) report.unloaded.push(`${file}: ${message}`)
  }
  return report
}

await main()
