/**
 * What the ingester costs beside `@atproto/sync` and `@atproto/repo`, on the same frames:
 * `node bench/ingester.ts [--frames <file>] [--commits <count>] [part…]`; a file that is not there is
 * made and kept. The parts are `stages full signature none peer rate`. The soak is `bench/soak.ts`.
 */
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { cborToLexRecord, readCarWithRoot, verifyCommitSig } from '@atproto/repo'
import { eventsOf, openMessage, proveOps } from '../ingester/commit.ts'
import { type CommitMessage, decodeFrame } from '../ingester/frame.ts'
import { encodeEvent } from '../shared/events.ts'
import { parseDidKey, verifySignature } from '../shared/repo/signature.ts'
import { corpusDocuments, corpusFrames } from '../test/corpus.ts'
import { makeCommits } from './commits.ts'
import { reached, startFollowing } from './following.ts'
import { runPeer } from './ingester-peer.ts'
import { firstSeq } from './replay.ts'

/** Of the frames, so many come before anything is measured: code is compiled, identities are looked up. */
const warmUp = 0.25
/** The peer takes milliseconds a commit. */
const peerSeconds = 8
const paced = { rate: 500, seconds: 16 }

const { values, positionals } = parseArgs({
  options: { frames: { type: 'string' }, commits: { type: 'string', default: '120000' } },
  allowPositionals: true,
})
const isAsked = (part: string) => positionals.length === 0 || positionals.includes(part)
const path = values.frames ?? join(tmpdir(), 'sluice-bench-commits')

if (isAsked('stages')) await stages()
if (!existsSync(`${path}.json`)) {
  const bytes = await makeCommits(path, Number(values.commits))
  console.log(`${values.commits} commits of 1,000 accounts, ${Math.round(bytes)} bytes a frame`)
}
for (const verify of ['full', 'signature', 'none'].filter(isAsked)) {
  for (const threads of [0, 1, 2]) await throughput(verify, threads)
}
if (isAsked('peer')) {
  for (const authenticated of [true, false]) {
    const { rate, micros } = await runPeer(path, { authenticated, seconds: peerSeconds })
    const how = authenticated ? 'with authentication' : 'without'
    console.log(`@atproto/sync Firehose, ${how}: ${rate} commits/s, ${micros} µs of CPU a commit`)
  }
}
if (isAsked('rate')) for (const threads of [0, 2]) await atARate(threads)

/** µs a commit on one thread, warm, of the hundred recorded frames. */
async function stages(): Promise<void> {
  const recorded = corpusFrames()
  const keys = new Map(
    corpusDocuments().map(({ id, verificationMethod: [method] = [] }) => [
      id,
      parseDidKey(String(method?.['publicKeyMultibase'])),
    ]),
  )
  const keyOf = (did: string) => {
    const key = keys.get(did)
    if (key === undefined) throw new Error(`no key of ${did}`)
    return key
  }
  const messages = recorded.map(decodeFrame).filter((message) => message.type === 'commit')
  const opened = messages.map((message) => ({ message, opened: openMessage(message, Date.now()) }))
  const open = (message: CommitMessage) => openMessage(message, Date.now())
  await measure('decode the frame', recorded, decodeFrame)
  await measure('hash the blocks, open the commit', messages, open)
  await measure('invert the ops', opened, ({ message, opened }) => proveOps(message, opened))
  await measure('verify the signature', opened, ({ message, opened: { unsigned, signed } }) =>
    verifySignature(keyOf(message.did), unsigned, signed.sig),
  )
  await measure('make the entries', opened, ({ message, opened }) =>
    eventsOf(message, opened.blocks, () => true).events.map(encodeEvent),
  )
  await measure(
    '@atproto/repo: read the car, verify the signature',
    messages,
    async ({ blocks, did }) => {
      const { root, blocks: found } = await readCarWithRoot(blocks)
      const commit = cborToLexRecord(found.get(root) ?? new Uint8Array(0))
      return verifyCommitSig(commit as never, keyOf(did).didKey)
    },
    1,
  )
}

async function measure<T>(
  name: string,
  items: readonly T[],
  work: (item: T) => unknown,
  rounds = 50,
): Promise<void> {
  for (let round = 0; round < rounds; round++) for (const item of items) await work(item)
  const began = process.cpuUsage()
  for (let round = 0; round < rounds; round++) {
    for (const item of items) {
      const result = work(item)
      if (result instanceof Promise) await result
    }
  }
  const { user, system } = process.cpuUsage(began)
  const micros = (user + system) / (rounds * items.length)
  console.log(`${name.padEnd(52)} ${micros.toFixed(1).padStart(7)} µs a commit`)
}

/** The process itself, as fast as it reads. */
async function throughput(verify: string, threads: number): Promise<void> {
  const env = { INGESTER_VERIFY: verify, INGESTER_THREADS: String(threads) }
  await using following = await startFollowing({ path, rate: 0, env })
  const commits = following.frames
  await reached(following, commits * warmUp)
  const from = await following.done()
  const before = await following.usage()
  await reached(following, commits)
  const after = await following.usage()
  const done = commits - from
  const micros = (name: 'main' | 'threads' | 'redis' | 'replay') =>
    Math.round(((after[name] - before[name]) * 1e6) / done)
  const verified = await following.metric('ingester_commits_verified_total')
  console.log(
    `${verify}, ${threads} threads: ${Math.round(done / (after.at - before.at))} commits/s;`,
    `µs of CPU a commit: ${micros('main')} main thread, ${micros('threads')} others, ${micros('redis')} Redis,`,
    `${micros('replay')} who sends;`,
    `${await following.redis.xlen('firehose_live')} entries, ${verified} verified,`,
    `${Math.round(following.memory())} MB`,
  )
}

/** The process at the network's rate: its share of a core, and how long an event takes from socket to stream. */
async function atARate(threads: number): Promise<void> {
  const { rate, seconds } = paced
  const frames = rate * seconds
  const env = { INGESTER_THREADS: String(threads) }
  await using following = await startFollowing({ path, rate, frames, env })
  await reached(following, frames * warmUp)
  const from = await following.done()
  const before = await following.usage()
  await reached(following, frames)
  const after = await following.usage()
  const sentAt = await following.sentAt
  const entries = await following.redis.xrange('firehose_live', '-', '+')
  const waits = entries.flatMap(([id, fields]) => {
    const { seq } = JSON.parse(fields[1] ?? '') as { seq: number }
    const sent = sentAt[seq - firstSeq]
    return seq - firstSeq < from || sent === undefined ? [] : [Number(id.split('-')[0]) - sent]
  })
  waits.sort((a, b) => a - b)
  const at = (share: number) => waits[Math.floor(waits.length * share)]
  const share = (name: 'main' | 'threads') =>
    (((after[name] - before[name]) * 100) / (after.at - before.at)).toFixed(1)
  console.log(
    `at ${rate}/s, ${threads} threads: ${share('main')} % of a core on the main thread,`,
    `${share('threads')} % on others; socket to stream p50 ${at(0.5)} ms, p99 ${at(0.99)} ms;`,
    `${Math.round(following.memory())} MB`,
  )
}
