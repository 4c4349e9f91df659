/** Blocks of repos: found again whatever their number, in memory or in a file, within the memory for all. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test, vi } from 'vitest'
import { writeRepo } from '../bench/whole-repo.ts'
import { linkOf } from '../shared/repo/cid.ts'
import { env } from '../test/env.ts'
import { Blocks } from './blocks.ts'
import { failureOf } from './failures.ts'
import { createMemory } from './memory.ts'

const { signal } = new AbortController()
const folder = await mkdtemp(join(tmpdir(), 'sluice-blocks-'))
afterAll(() => rm(folder, { recursive: true }))

const block = (number: number) => Buffer.from(`block ${number}${'.'.repeat(number % 700)}`)
const numbers = (count: number) => Array.from({ length: count }, (_, number) => number)

test.each([
  ['in memory', 1e9, false],
  ['in a file', 1_000_000, true],
])('every block is found again, and no other, %s', (_, bytes, spilled) => {
  using blocks = new Blocks(createMemory(bytes))
  for (const number of numbers(20_000)) blocks.add(linkOf(block(number)), block(number))
  expect(blocks.isSpilled).toBe(spilled)
  expect(blocks.count).toBe(20_000)
  for (const number of numbers(20_000).map((index) => (index * 7_919) % 20_000)) {
    expect(Buffer.compare(blocks.get(linkOf(block(number))) ?? block(0), block(number))).toBe(0)
    expect(Buffer.compare(blocks.peek(linkOf(block(number))) ?? block(0), block(number))).toBe(0)
  }
  for (const number of numbers(1_000)) {
    const absent = linkOf(block(20_000 + number))
    expect(blocks.has(absent)).toBe(false)
    expect(blocks.get(absent)).toBeUndefined()
  }
})

test('blocks can be added after some were read, also in a file', () => {
  using blocks = new Blocks(createMemory(1))
  for (const number of numbers(3_000)) {
    blocks.add(linkOf(block(number)), block(number))
    expect(blocks.get(linkOf(block(number >> 1)))?.length).toBe(block(number >> 1).length)
  }
})

test('a block that comes twice is kept once', () => {
  using blocks = new Blocks(createMemory(1e9))
  for (let times = 0; times < 3; times += 1) blocks.add(linkOf(block(5)), block(5))
  expect([blocks.count, blocks.bytes]).toEqual([1, block(5).length])
})

test('repos share one memory, and give back what they had', async () => {
  const memory = createMemory(3_000_000)
  {
    using first = new Blocks(memory)
    using second = new Blocks(memory)
    for (const number of numbers(6_000)) {
      first.add(linkOf(block(number)), block(number))
      await first.settle(signal)
      second.add(linkOf(block(number)), block(number))
      await second.settle(signal)
      expect(memory.taken).toBeLessThanOrEqual(3_000_000)
    }
    expect([first.isSpilled, second.isSpilled]).toContain(true)
  }
  expect(memory.taken).toBe(0)
})

test('of repos whose tables are larger than the memory, one goes on at a time', async () => {
  const memory = createMemory(100_000)
  const both = [new Blocks(memory), new Blocks(memory)]
  const counts: number[] = []
  const fill = async (blocks: Blocks) => {
    for (const number of numbers(8_000)) {
      blocks.add(linkOf(block(number)), block(number))
      await blocks.settle(signal)
    }
    counts.push(...both.map(({ count }) => count).sort())
    blocks[Symbol.dispose]()
  }
  await Promise.all(both.map(fill))
  const [waited = 0, ...rest] = counts
  expect(waited).toBeLessThan(6_000)
  expect(rest).toEqual([8_000, 8_000, 8_000])
  expect(memory.taken).toBe(0)
})

test('who waits for memory leaves when the work is stopped', async () => {
  const memory = createMemory(0)
  const [first, second] = [memory.share(), memory.share()]
  await first.exceed(signal)
  const stopping = new AbortController()
  const waiting = second.exceed(stopping.signal)
  stopping.abort(new Error('stopped'))
  await expect(waiting).rejects.toThrow('stopped')
  for (const share of [second, first]) share[Symbol.dispose]()
  await expect(memory.share().exceed(signal)).resolves.toBeUndefined()
})

test('a temporary file that can not be had is a failure that may pass', () => {
  vi.stubEnv('TMPDIR', join(folder, 'nowhere'))
  try {
    using blocks = new Blocks(createMemory(0))
    blocks.add(linkOf(block(1)), block(1))
    expect.unreachable()
  } catch (error) {
    expect(failureOf(error)).toMatchObject({ reason: 'temporary-file', kind: 'transient' })
  } finally {
    vi.unstubAllEnvs()
  }
})

test('a kill leaves no temporary file behind', async () => {
  const code = `
    import { Blocks } from ${JSON.stringify(new URL('blocks.ts', import.meta.url).href)}
    import { createMemory } from ${JSON.stringify(new URL('memory.ts', import.meta.url).href)}
    import { linkOf } from ${JSON.stringify(new URL('../shared/repo/cid.ts', import.meta.url).href)}
    const blocks = new Blocks(createMemory(0))
    for (let n = 0; n < 2000; n++) blocks.add(linkOf(Buffer.alloc(1000, String(n))), Buffer.alloc(1000, String(n)))
    console.log(blocks.isSpilled, blocks.count)
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code], {
    env: { ...env, TMPDIR: folder },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [said] = await once(child.stdout, 'data')
  expect(String(said)).toMatch(/^true/)
  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(await readdir(folder)).toEqual([])
})

test.each(['prove', 'events'])(
  'a repo of 100,000 records, in any order of blocks, takes at most 200 MB: %s',
  async (way) => {
    const path = join(folder, `${way}.car`)
    const { key } = await writeRepo(path, { records: 100_000, order: 'shuffled' })
    const bench = fileURLToPath(new URL('../bench/backfiller.ts', import.meta.url))
    const { stdout } = spawnSync(process.execPath, [bench, way, path, '', key], {
      encoding: 'utf8',
    })
    const [, records, megabytes] = /(\d+) records,.* (\d+) MB RSS/.exec(stdout) ?? []
    expect(Number(records)).toBe(100_000)
    expect(Number(megabytes)).toBeLessThan(200)
    await rm(path)
  },
)
