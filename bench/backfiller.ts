/** How fast a whole repo is read and proved, and in what memory, beside `@atproto/repo` on the same bytes. */
import { spawnSync } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isSignedBy, readBlocks } from '../backfiller/read.ts'
import { openRepo, proveTree, recordsOf } from '../backfiller/walk.ts'
import { encodeEvent } from '../shared/events.ts'
import { writeCar } from '../shared/repo/car.ts'
import { encodeCbor } from '../shared/repo/cbor.ts'
import { cidOf, parseCid } from '../shared/repo/cid.ts'
import { encodeCommit } from '../shared/repo/commit.ts'
import { openTree } from '../shared/repo/mst.ts'
import { tidOf } from '../shared/repo/tid.ts'

const did = 'did:plc:bench234bench234bench234'
const ways = ['prove', 'events', 'reference'] as const
type Way = (typeof ways)[number]

/** A signed repo of posts and likes, its blocks in the order of the tree or shuffled. */
async function makeRepo(records: number): Promise<{ car: Uint8Array; key: string }> {
  const blocks = new Map<string, Uint8Array>()
  const tree = openTree(null, blocks)
  for (let number = 0; number < records; number += 1) {
    const rkey = tidOf(1_700_000_000_000_000 + number * 1_000_003)
    const record = number % 4 === 0 ? post(number) : like(number)
    const bytes = encodeCbor(record)
    const cid = cidOf(bytes)
    blocks.set(cid, bytes)
    tree.set(`${record.$type}/${rkey}`, parseCid(cid))
  }
  const { root, blocks: nodes } = tree.write()
  const { Secp256k1Keypair } = await import('@atproto/crypto')
  const key = await Secp256k1Keypair.create()
  const unsigned = { did, rev: tidOf(1_750_000_000_000_000), data: parseCid(root), prev: null }
  const sig = await key.sign(encodeCommit(unsigned))
  const commit = encodeCommit({ ...unsigned, sig })
  const all = [[cidOf(commit), commit] as const, ...nodes, ...blocks]
  const car = writeCar(
    [cidOf(commit)],
    all.map(([cid, bytes]) => ({ cid, bytes })),
  )
  return { car, key: key.did() }
}

function like(number: number) {
  return {
    $type: 'app.bsky.feed.like',
    subject: {
      cid: 'bafyreihrulqpzqf2vrjc6ef3phj27x2ohidkpf2ctk23mlk2fdyitegqeu',
      uri: `at://did:plc:5zspv27pk4iqtrl2ql2nykjh/app.bsky.feed.post/${tidOf(number * 1_000)}`,
    },
    createdAt: new Date(1_700_000_000_000 + number).toISOString(),
  }
}

function post(number: number) {
  return {
    $type: 'app.bsky.feed.post',
    langs: ['en'],
    text: `post number ${number}, ${'and so on '.repeat(number % 20)}`,
    createdAt: new Date(1_700_000_000_000 + number).toISOString(),
  }
}

async function prove(file: string, key: string) {
  const { roots, blocks } = await readBlocks(createReadStream(file))
  const repo = openRepo(did, roots, blocks, Date.now())
  if (!isSignedBy(key, repo)) throw new Error('not signed')
  const steps = proveTree(repo.commit.data, blocks)
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done) return { repo, blocks, records: step.value.records }
  }
}

async function run(way: Way, file: string, key: string): Promise<number> {
  if (way === 'reference') {
    // Loaded here, so that its memory is not counted as ours.
    const { verifyRepoCar } = await import('@atproto/repo')
    const { creates } = await verifyRepoCar(await readFile(file), did, key)
    return creates.length
  }
  const { repo, blocks, records } = await prove(file, key)
  if (way === 'prove') return records
  const head = { seq: -1, time: new Date().toISOString(), did, commit: repo.cid, rev: '' }
  let count = 0
  for (const found of recordsOf(repo.commit.data, blocks, () => true)) {
    if ('record' in found) count += encodeEvent({ type: 'create', ...head, ...found }).length / 2
  }
  return count
}

const [mode = '', file = '', key = ''] = process.argv.slice(2)
const way = ways.find((known) => known === mode)
if (way !== undefined) {
  const started = performance.now()
  const cpu = process.cpuUsage()
  const records = await run(way, file, key)
  const seconds = (performance.now() - started) / 1_000
  const rssMb = Math.round(process.resourceUsage().maxRSS / 1_024)
  // On a machine that others use too, the rate by processor time is the one to compare.
  const { user, system } = process.cpuUsage(cpu)
  const rates = [seconds, (user + system) / 1e6].map((time) => Math.round(records / time))
  process.stdout.write(
    `${way.padEnd(10)} ${records} records, ${rates[0]}/s, ${rates[1]}/s of CPU, ${rssMb} MB RSS\n`,
  )
} else {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  try {
    const repo = await makeRepo(Number(mode || 100_000))
    const path = join(folder, 'repo.car')
    await writeFile(path, repo.car)
    process.stdout.write(
      `a repo of ${(repo.car.length / 1e6).toFixed(1)} MB; in processes of their own:\n`,
    )
    for (const name of ways) {
      const self = fileURLToPath(import.meta.url)
      spawnSync(process.execPath, [self, name, path, repo.key], { stdio: 'inherit' })
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}
