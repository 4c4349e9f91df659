import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { startNetwork } from '../simulator/network.ts'
import { corpusDocuments } from '../test/corpus.ts'
import { sharedFrames } from '../test/data.ts'
import { RefusedError } from './commit.ts'
import { type CommitMessage, decodeFrame } from './frame.ts'
import type { Proved, VerifyMode } from './prove.ts'
import { createProver, type Prover, ProverError } from './prover.ts'
import { startIngester, testRoom } from './testing.ts'

const frames = sharedFrames('firehose/jetstream-corpus/frames.bin')
const now = () => Date.parse('2026-07-04T14:39:00Z')
const keys = new Map(
  corpusDocuments().map(({ id, verificationMethod: [method] = [] }) => [
    id,
    `did:key:${method?.['publicKeyMultibase']}`,
  ]),
)

function aProver(
  threads: number,
  signal = new AbortController().signal,
  mode: VerifyMode = 'full',
) {
  return createProver({ mode, collections: ['app.bsky.*'], threads, signal, now })
}

function commitOf(frame: Uint8Array): CommitMessage | null {
  try {
    const message = decodeFrame(frame)
    return message.type === 'commit' ? message : null
  } catch {
    return null
  }
}
const recorded = frames.map(commitOf).filter((message) => message !== null)

/** What is found, in a form that can be compared. */
async function found(prover: Prover, message: CommitMessage, key: string | null) {
  const outcome = await prover.prove(message, key).catch((error: unknown) => error)
  if (outcome instanceof RefusedError) return [outcome.reason, outcome.message]
  if (outcome instanceof Error) return ['bug', outcome.name]
  const { data, entries, unsigned, sig, signed, ...rest } = outcome as Proved
  const texts = entries.map(String)
  // Whose signature was checked is not asked again.
  const again = signed
    ? null
    : [Buffer.from(unsigned).toString('hex'), Buffer.from(sig).toString('hex')]
  return [{ ...rest, signed }, data.toString(), texts, again]
}

test.each(['full', 'signature', 'none'] as const)(
  'every message shows the same here, on one thread and on three (%s)',
  async (mode) => {
    const { signal } = new AbortController()
    await using here = aProver(0, signal, mode)
    await using one = aProver(1, signal, mode)
    await using three = aProver(3, signal, mode)
    for (const keyOf of [(did: string) => keys.get(did) ?? null, () => null]) {
      const all = (prover: Prover) =>
        Promise.all(recorded.map((message) => found(prover, message, keyOf(message.did))))
      const truth = await all(here)
      expect(truth).toHaveLength(recorded.length)
      expect(await all(one)).toEqual(truth)
      expect(await all(three)).toEqual(truth)
    }
  },
)

test('a spoiled message is refused for the same reason wherever it is proved', async () => {
  await using here = aProver(0)
  await using there = aProver(2)
  const places = fc.tuple(fc.nat(frames.length - 1), fc.nat(), fc.integer({ min: 1, max: 255 }))
  const spoiled = fc.sample(places, { numRuns: 3_000, seed: 4 }).map(([which, where, by]) => {
    const bytes = Uint8Array.from(frames[which] ?? [])
    const place = where % bytes.length
    bytes[place] = (bytes[place] ?? 0) ^ by
    return commitOf(bytes)
  })
  // All at once: a few by themselves would not leave this thread.
  const all = (prover: Prover) =>
    Promise.all(
      spoiled
        .filter((message) => message !== null)
        .map((message) => found(prover, message, keys.get(message.did) ?? null)),
    )
  const truth = await all(here)
  expect(await all(there)).toEqual(truth)
  const reasons = new Set(truth.map(([reason]) => reason))
  for (const reason of ['block-hash', 'car', 'cid', 'op', 'prev-data', 'rev', 'root']) {
    expect(reasons).toContain(reason)
  }
})

test('answers come to their messages, whatever is asked at the same time', async () => {
  await using prover = aProver(2)
  const many = Array.from({ length: 500 }, (_, index) => recorded[(index * 7) % recorded.length])
  const answers = await Promise.all(
    many.map(async (message) => {
      if (message === undefined) throw new Error('no message')
      return [message.did, await prover.prove(message, keys.get(message.did) ?? null)] as const
    }),
  )
  for (const [did, { signed, entries }] of answers) {
    expect(signed).toBe(true)
    for (const entry of entries) expect(JSON.parse(String(entry)).did).toBe(did)
  }
})

test('whoever reads waits while too many wait to be proved, and goes on when they are', async () => {
  const stopping = new AbortController()
  await using prover = aProver(1, stopping.signal)
  await prover.notTooMany()
  const ask = () => Promise.all(Array.from({ length: 400 }, () => prover.prove(aMessage(), null)))
  let proved = 0
  const asked = ask().then(() => {
    proved += 1
  })
  let goesOn = false
  const waits = prover.notTooMany().then(() => {
    goesOn = true
  })
  await Promise.resolve()
  expect(goesOn).toBe(false)
  await waits
  expect(proved).toBe(0)
  await asked
  const left = Promise.allSettled([ask(), prover.notTooMany()])
  stopping.abort()
  expect((await left).map(({ status }) => status)).toEqual(['rejected', 'fulfilled'])
})

test('at the stop what is not proved yet is rejected with the reason of the stop', async () => {
  const stopping = new AbortController()
  await using prover = aProver(1, stopping.signal)
  const asked = Promise.allSettled(recorded.map((message) => prover.prove(message, null)))
  const reason = new Error('stop')
  stopping.abort(reason)
  expect(await asked).toEqual(recorded.map(() => ({ status: 'rejected', reason })))
  await expect(prover.prove(aMessage(), null)).rejects.toBe(reason)
})

/** Calls with each thread that is given work. */
function whenThreadsWork(tell: (thread: Worker) => void): Disposable {
  const post = Worker.prototype.postMessage
  Worker.prototype.postMessage = function (this: Worker, ...given: Parameters<typeof post>) {
    post.apply(this, given)
    tell(this)
  }
  return {
    [Symbol.dispose]() {
      Worker.prototype.postMessage = post
    },
  }
}

test('threads are started as there is work for them, and a few messages are none', async () => {
  const working = new Set<Worker>()
  using _ = whenThreadsWork((thread) => working.add(thread))
  await using prover = aProver(3)
  const ask = (count: number) =>
    Promise.all(Array.from({ length: count }, () => prover.prove(aMessage(), null)))
  await ask(16)
  expect(working.size).toBe(0)
  await ask(17)
  expect(working.size).toBe(1)
  await ask(1_000)
  expect(working.size).toBe(3)
})

test('a thread that dies is an error for all that it was given, and for all that comes after', async () => {
  const threads: Worker[] = []
  using _ = whenThreadsWork((thread) => threads.push(thread))
  await using prover = aProver(1)
  await Promise.all(recorded.map((message) => prover.prove(message, null)))
  expect(threads.length).toBeGreaterThan(0)
  const asked = Promise.allSettled(recorded.map((message) => prover.prove(message, null)))
  await threads[0]?.terminate()
  expect((await asked).every(({ status }) => status === 'rejected')).toBe(true)
  await expect(prover.prove(aMessage(), null)).rejects.toBeInstanceOf(ProverError)
})

test('a thread that dies ends the ingester, and the next one lacks nothing', async () => {
  await using room = await testRoom(await startNetwork())
  for (const document of corpusDocuments()) room.network.plc.serve(document)
  await room.network.relay.play(frames)
  {
    let deaths = 0
    using _ = whenThreadsWork((thread) => {
      deaths += 1
      void thread.terminate()
    })
    await using ingester = startIngester(room.env)
    await expect(ingester.ended).rejects.toBeInstanceOf(ProverError)
    expect(deaths).toBeGreaterThan(0)
    expect(Number(await room.cursor())).toBeLessThan(room.network.relay.lastSeq)
  }
  await using _ = startIngester(room.env)
  await room.caughtUp()
  const events = (await room.events()).map((event) => JSON.stringify(event))
  expect(events).toHaveLength(102)
  expect(new Set(events).size).toBe(102)
})

function aMessage(): CommitMessage {
  const [message] = recorded
  if (message === undefined) throw new Error('no commit was recorded')
  return message
}
