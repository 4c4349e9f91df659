/**
 * How fast whole repos are read and proved, and in what memory, beside `@atproto/repo` on the same
 * bytes: `node bench/backfiller.ts [records] [written|shuffled] [padding of a post]`. Each way runs in
 * a process of its own; those that a way is not asked to do are left out above 200,000 records.
 */
import { spawnSync } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as others } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Blocks } from '../backfiller/blocks.ts'
import { createMemory, type Memory } from '../backfiller/memory.ts'
import { options } from '../backfiller/options.ts'
import { isSignedBy, readBlocks } from '../backfiller/read.ts'
import { openRepo, proveTree, recordsOf } from '../backfiller/walk.ts'
import { encodeEvent } from '../shared/events.ts'
import { type BlockOrder, did, writeRepo } from './whole-repo.ts'

/** `prove`: read, hash, verify, walk. `events`: also made into entries. `twenty`: as many at once. */
const ways = ['prove', 'events', 'twenty', 'reference'] as const
type Way = (typeof ways)[number]

const memoryBytes = options.memoryBytes.parse(options.memoryBytes.default)
const referenceMost = 200_000
const stepsAtOnce = 1_000

async function prove(file: string, key: string, memory: Memory, eachRecord = false) {
  using blocks = new Blocks(memory)
  const roots = await readBlocks(createReadStream(file), blocks, new AbortController().signal)
  const repo = openRepo(did, roots, blocks, Date.now())
  if (!isSignedBy(key, repo)) throw new Error('not signed')
  const steps = proveTree(repo.commit.data, blocks)
  let step = steps.next()
  // As a worker does it: others get their turns.
  for (; !step.done; step = steps.next()) await others()
  if (!eachRecord) return step.value.records
  const head = { seq: -1, time: new Date().toISOString(), did, commit: repo.cid, rev: '' }
  let count = 0
  let seen = 0
  for (const found of recordsOf(repo.commit.data, blocks, () => true)) {
    if (++seen % stepsAtOnce === 0) await others()
    if ('record' in found) count += encodeEvent({ type: 'create', ...head, ...found }).length / 2
  }
  return count
}

async function run(way: Way, file: string, key: string): Promise<number> {
  const memory = createMemory(memoryBytes)
  switch (way) {
    case 'prove':
      return prove(file, key, memory)
    case 'events':
      return prove(file, key, memory, true)
    case 'twenty': {
      const all = Array.from({ length: 20 }, () => prove(file, key, memory))
      return (await Promise.all(all)).reduce((sum, records) => sum + records, 0)
    }
    case 'reference': {
      // Loaded here, so that its memory is not counted as ours.
      const { verifyRepoCar } = await import('@atproto/repo')
      const { creates } = await verifyRepoCar(await readFile(file), did, key)
      return creates.length
    }
  }
}

const [mode = '100000', second = 'written', third = '0', fourth = ''] = process.argv.slice(2)
const way = ways.find((known) => known === mode)
if (way !== undefined) {
  const started = performance.now()
  const cpu = process.cpuUsage()
  const records = await run(way, second, fourth)
  const seconds = (performance.now() - started) / 1_000
  const rssMb = Math.round(process.resourceUsage().maxRSS / 1_024)
  // On a machine that others use too, the rate by processor time is the one to compare.
  const { user, system } = process.cpuUsage(cpu)
  const rates = [seconds, (user + system) / 1e6].map((time) => Math.round(records / time))
  process.stdout.write(
    `${way.padEnd(10)} ${records} records, ${rates[0]}/s, ${rates[1]}/s of CPU, ${rssMb} MB RSS at most\n`,
  )
} else {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  try {
    const records = Number(mode)
    const path = join(folder, 'repo.car')
    const order = second as BlockOrder
    const { key, bytes } = await writeRepo(path, { records, order, padding: Number(third) })
    process.stdout.write(`${records} records, ${(bytes / 1e6).toFixed(1)} MB, blocks ${order}\n`)
    for (const name of records > referenceMost ? (['prove', 'events'] as const) : ways) {
      const self = fileURLToPath(import.meta.url)
      spawnSync(process.execPath, [self, name, path, '', key], { stdio: 'inherit' })
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}
