/** What the ingester costs: µs a commit for each proof, and commits/s from a relay's socket to Redis. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { eventsOf, openMessage, proveOps } from '../ingester/commit.ts'
import { type CommitMessage, decodeFrame } from '../ingester/frame.ts'
import { environment } from '../shared/config.ts'
import { encodeEvent } from '../shared/events.ts'
import { decodeCbor, decodeFirst, encodeCbor, isMap } from '../shared/repo/cbor.ts'
import { parseDidKey, verifySignature } from '../shared/repo/signature.ts'
import { startNetwork } from '../simulator/network.ts'
import { findPlaces } from '../start/places.ts'
import { freePort } from '../start/process.ts'
import { startRedis } from '../start/redis.ts'
import { corpusDocuments } from '../test/corpus.ts'
import { sharedFrames } from '../test/data.ts'

/** How often the hundred recorded frames are sent, each time with new positions. */
const rounds = 300
const recorded = sharedFrames('firehose/jetstream-corpus/frames.bin')

stages()
await throughput()

/** µs a commit, on one thread, warm. */
function stages(): void {
  const keys = new Map(
    corpusDocuments().map(({ id, verificationMethod: [method] = [] }) => [
      id,
      parseDidKey(String(method?.['publicKeyMultibase'])),
    ]),
  )
  const messages = recorded.map(decodeFrame).filter((message) => message.type === 'commit')
  const opened = messages.map((message) => ({ message, opened: openMessage(message, Date.now()) }))
  const all = () => true
  measure('decode the frame', recorded, decodeFrame)
  measure('hash the blocks, open the commit', messages, (message: CommitMessage) =>
    openMessage(message, Date.now()),
  )
  measure('invert the ops', opened, ({ message, opened }) => proveOps(message, opened))
  measure('verify the signature', opened, ({ message, opened: { unsigned, signed } }) => {
    const key = keys.get(message.did)
    return key !== undefined && verifySignature(key, unsigned, signed.sig)
  })
  measure('make the entries', opened, ({ message, opened }) =>
    eventsOf(message, opened.blocks, all).events.map(encodeEvent),
  )
}

function measure<T>(name: string, items: readonly T[], work: (item: T) => unknown): void {
  for (let round = 0; round < 20; round++) items.forEach(work)
  const began = performance.now()
  for (let round = 0; round < 50; round++) items.forEach(work)
  const micros = ((performance.now() - began) * 1_000) / (50 * items.length)
  console.log(`${name.padEnd(36)} ${micros.toFixed(1).padStart(7)} µs a commit`)
}

/** The process itself, following a relay on loopback into a Redis with everything verified. */
async function throughput(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  const places = await findPlaces(environment)
  const redisServer = await startRedis({ places, dir: folder, port: await freePort(), args: [] })
  const network = await startNetwork({ relay: { windowBytes: 2 ** 31 } })
  for (const document of corpusDocuments()) network.plc.serve(document)
  await network.relay.play(numbered())
  const redisUrl = redisServer.url
  const child = spawn(process.execPath, ['ingester/main.ts'], {
    env: {
      REDIS_URL: redisUrl,
      REDIS_MEMORY_LIMIT_BYTES: String(4e9),
      PLC_URL: network.plc.url,
      INGESTER_RELAY_HOSTS: network.relay.url,
      INGESTER_MODE: 'firehose',
      INGESTER_COLLECTIONS: '*',
      INGESTER_HIGH_WATER_MARK: '100000000',
      METRICS_PORT: '0',
      LOG_LEVEL: 'warn',
    },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const redis = new Redis(redisUrl)
  try {
    const [{ listening }] = (await once(child, 'message')) as [{ listening: number }]
    const metric = async (name: string) => {
      const page = await (await fetch(`http://127.0.0.1:${listening}/metrics`)).text()
      const lines = page.split('\n').filter((line) => line.match(`^${name}[{ ]`))
      return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
    }
    const commits = rounds * recorded.length
    const cursor = `firehose_live:cursor:${network.relay.host}`
    const began = performance.now()
    while ((await redis.get(cursor)) !== String(network.relay.lastSeq)) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const seconds = (performance.now() - began) / 1_000
    const cpu = await metric('process_cpu_seconds_total')
    const rss = await metric('process_resident_memory_bytes')
    const verified = await metric('ingester_commits_verified_total')
    console.log(
      `${commits} commits in ${seconds.toFixed(1)} s: ${Math.round(commits / seconds)} commits/s,`,
      `${Math.round((cpu * 1e6) / commits)} µs of CPU a commit, ${verified} verified,`,
      `${await redis.xlen('firehose_live')} entries, ${Math.round(rss / 1e6)} MB`,
    )
  } finally {
    child.kill('SIGTERM')
    await once(child, 'exit')
    redis.disconnect()
    await network.close()
    await redisServer.stop()
    await rm(folder, { recursive: true, force: true })
  }
}

/** The recorded frames again and again, with rising positions. */
function* numbered(): Generator<Uint8Array> {
  const parts = recorded.map((frame) => {
    const [header, rest] = decodeFirst(frame)
    const body = decodeCbor(rest)
    if (!isMap(body)) throw new Error('a recorded frame without a body')
    return { header: encodeCbor(header), body }
  })
  let seq = 1
  for (let round = 0; round < rounds; round++) {
    for (const { header, body } of parts) {
      yield Buffer.concat([header, encodeCbor({ ...body, seq })])
      seq += 1
    }
  }
}
