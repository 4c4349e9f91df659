/** Each fault of an event stream, as a plain client sees it. */
import { once } from 'node:events'
import { decode, encode } from '@atproto/lex-cbor'
import { type Cid, cidForCbor, isLexMap, type LexMap } from '@atproto/lex-data'
import { readCar, verifyCommitSig } from '@atproto/repo'
import { expect, test } from 'vitest'
import { WebSocket } from 'ws'
import type { FrameFault } from './frame-faults.ts'
import { messageFrame, readFrame } from './frames.ts'
import { type Network, startNetwork } from './network.ts'
import { takeFrames } from './reading.ts'
import { expectFired } from './switches.ts'

const method = 'com.atproto.sync.subscribeRepos'
const plain = (seq: number) => messageFrame('#test', { seq, pad: new Uint8Array(50) })
const seqs = (frames: readonly Uint8Array[]) => frames.map((frame) => readFrame(frame)?.body['seq'])

/** What a reader gets of the frames 1 to 4 when the second is spoilt. */
async function received(fault: FrameFault, count: number) {
  const network = await startNetwork()
  const { relay } = network
  const spoilt = relay.frameFault({}, fault, { after: 1, times: 1 })
  await relay.play([1, 2, 3, 4].map(plain))
  const started = performance.now()
  const frames = await takeFrames(`${relay.url}/xrpc/${method}?cursor=0`, count)
  const milliseconds = performance.now() - started
  expectFired(spoilt)
  expect(spoilt.fired).toBe(1)
  return { relay, frames, milliseconds, [Symbol.asyncDispose]: () => network.close() }
}

test.each<[FrameFault, number[]]>([
  [{ kind: 'drop' }, [1, 3, 4]],
  [{ kind: 'duplicate' }, [1, 2, 2, 3, 4]],
  [{ kind: 'reorder' }, [1, 3, 2, 4]],
])('%o: the reader gets the frames %o', async (fault, expected) => {
  await using run = await received(fault, expected.length)
  expect(seqs(run.frames)).toEqual(expected)
})

test.each<[FrameFault]>([
  [{ kind: 'delay', ms: 200 }],
  [{ kind: 'silence', ms: 200 }],
  [{ kind: 'silence', ms: 200, pings: false }],
  [{ kind: 'slow', bytesPerSecond: 400 }],
])('%o: every frame comes whole, in order, and late', async (fault) => {
  await using run = await received(fault, 4)
  expect(run.frames.map((frame) => Uint8Array.from(frame))).toEqual([1, 2, 3, 4].map(plain))
  expect(run.milliseconds).toBeGreaterThan(140)
})

test('a truncated frame ends at its byte, a corrupt one differs in a bit, an oversized one goes on', async () => {
  const frame = plain(2)
  await using cut = await received({ kind: 'truncate', atByte: 20 }, 4)
  expect(cut.frames[1]?.equals(frame.subarray(0, 20))).toBe(true)
  await using spoilt = await received({ kind: 'corrupt', atByte: 7 }, 4)
  const mended = Uint8Array.from(spoilt.frames[1] ?? [])
  mended[7] = (mended[7] ?? 0) ^ 1
  expect(mended).toEqual(frame)
  await using long = await received({ kind: 'oversize', bytes: 1000 }, 4)
  expect(long.frames.map(({ length }) => length)).toEqual(
    [1, 11, 1, 1].map((n) => (n === 1 ? frame.length : frame.length + 1000)),
  )
})

test('a connection that ends within a frame leaves nothing of it, and the next one gets it whole', async () => {
  await using run = await received({ kind: 'disconnect', atByte: 30 }, 9)
  expect(seqs(run.frames)).toEqual([1])
  const again = await takeFrames(`${run.relay.url}/xrpc/${method}?cursor=1`, 4)
  expect(seqs(again)).toEqual([1, 2, 3, 4])
})

test('a silent connection pings, and without pings does not even answer one', async () => {
  await using network = await startNetwork()
  const { relay } = network
  await relay.play([plain(1)])
  for (const pings of [true, false]) {
    relay.frameFault({}, { kind: 'silence', pings }, { times: 1, always: true })
    const socket = new WebSocket(`${relay.url}/xrpc/${method}?cursor=0`)
    const heard: string[] = []
    for (const kind of ['ping', 'pong', 'message']) socket.on(kind, () => heard.push(kind))
    await once(socket, 'open')
    if (pings) await once(socket, 'ping')
    socket.ping()
    if (pings) await once(socket, 'pong')
    else await new Promise((resolve) => setTimeout(resolve, 100))
    expect(heard.includes('ping')).toBe(pings)
    expect(heard.includes('pong')).toBe(pings)
    expect(heard).not.toContain('message')
    socket.terminate()
  }
})

test('a reader is refused, or cut off, before it is connected', async () => {
  await using network = await startNetwork()
  const { relay } = network
  const headers = { 'retry-after': '7' }
  relay.fault({ method }, { kind: 'status', status: 429, headers }, 1)
  const url = `${relay.url}/xrpc/${method}`
  const socket = new WebSocket(url)
  const [, response] = await once(socket, 'unexpected-response')
  expect([response.statusCode, response.headers['retry-after']]).toEqual([429, '7'])
  const drop = relay.fault({ method }, { kind: 'drop' }, 1)
  await expect(takeFrames(url, 1)).rejects.toThrow()
  expect(drop.fired).toBe(1)
})

/** The third commit of an account as it comes when it is spoilt, and as it is. */
async function commits(network: Network, about: 'signature' | 'cid' | 'rev') {
  const { relay } = network
  const account = await network.account()
  for (const text of ['one', 'two', 'three']) {
    const record = { text, createdAt: '2026-01-01T00:00:00.000Z' }
    await account.create('app.bsky.feed.post', record)
  }
  const target = { type: '#commit', did: account.did }
  const fault = relay.frameFault(target, { kind: 'lie', about }, { after: 2, times: 1 })
  const frames = await takeFrames(`${relay.url}/xrpc/${method}?cursor=0`, relay.lastSeq)
  expectFired(fault)
  const bodies = (all: readonly Uint8Array[]) =>
    all.map((frame) => readFrame(frame)).filter((frame) => frame?.header['t'] === '#commit')
  const [lie, truth] = [bodies(frames), bodies(relay.frames())].map((of) => of[2]?.body)
  if (lie === undefined || truth === undefined) throw new Error('no third commit')
  return { account, lie, truth, before: bodies(frames)[1]?.body ?? {} }
}

async function opened(body: LexMap) {
  const car = await readCar(body['blocks'] as Uint8Array, { skipCidVerification: true })
  const bytes = car.blocks.get(car.roots[0] as Cid) ?? new Uint8Array()
  return { ...car, bytes, root: car.roots[0] as Cid }
}

test('a forged commit has its own CID, and a signature that is not of the account', async () => {
  await using network = await startNetwork()
  const { account, lie, truth } = await commits(network, 'signature')
  const { root, bytes } = await opened(lie)
  expect(lie['commit']).toEqual(root)
  expect(root).toEqual(await cidForCbor(bytes))
  expect(lie['ops']).toEqual(truth['ops'])
  const verify = async (of: Uint8Array) =>
    verifyCommitSig(decode(of) as Parameters<typeof verifyCommitSig>[0], account.signingKey)
  expect(await verify(bytes)).toBe(false)
  expect(await verify((await opened(truth)).bytes)).toBe(true)
})

test('content under a wrong CID is the only thing that is wrong', async () => {
  await using network = await startNetwork()
  const { lie, truth } = await commits(network, 'cid')
  const { blocks } = await opened(lie)
  const wrong = []
  for (const [cid, bytes] of blocks) if (!(await cidForCbor(bytes)).equals(cid)) wrong.push(cid)
  expect(wrong).toHaveLength(1)
  expect({ ...lie, blocks: null }).toEqual({ ...truth, blocks: null })
})

test('an old rev is the commit before, signed as it was, at the new position', async () => {
  await using network = await startNetwork()
  const { lie, truth, before } = await commits(network, 'rev')
  const { seq, time } = truth
  expect(encode(lie)).toEqual(encode({ ...before, seq, time } as LexMap))
})

test('a forged label has another signature', async () => {
  await using network = await startNetwork()
  const { labeler } = network
  const [label] = await labeler.label({ uri: 'did:plc:someone', val: 'spam' })
  const fault = labeler.frameFault({}, { kind: 'lie', about: 'signature' })
  const url = `${labeler.url}/xrpc/com.atproto.label.subscribeLabels?cursor=0`
  const [frame] = await takeFrames(url, 1)
  const [lie] = (readFrame(frame ?? Buffer.of())?.body['labels'] ?? []) as LexMap[]
  expectFired(fault)
  expect(isLexMap(lie) && lie['sig']).not.toEqual(label?.sig)
  expect({ ...lie, sig: null }).toEqual({ ...label, sig: null })
})

test('the seed decides which frames are met, whoever reads them and how often', async () => {
  const met = async (seed: string) => {
    await using network = await startNetwork({ seed })
    const { relay } = network
    const fault = relay.frameFault({}, { kind: 'drop' }, { chance: 0.3, always: true })
    await relay.play(Array.from({ length: 60 }, (_, n) => plain(n + 1)))
    await relay.play([messageFrame('#end', { seq: 61 })])
    const read = async () => {
      const frames = await takeFrames(`${relay.url}/xrpc/${method}?cursor=0`, 61 - 1 - dropped)
      return seqs(frames)
    }
    let dropped = 0
    const first = takeFrames(`${relay.url}/xrpc/${method}?cursor=0`, 1_000)
    await relay.subscribed()
    await relay.delivered()
    relay.disconnect()
    const found = seqs(await first)
    dropped = fault.fired - 1
    expect(await read()).toEqual(found)
    return found
  }
  const runs = [await met('one'), await met('one'), await met('two')]
  expect(runs[0]).toEqual(runs[1])
  expect(runs[0]).not.toEqual(runs[2])
})

test('a fault that never fired fails the test that wants it', async () => {
  await using network = await startNetwork()
  const fault = network.relay.frameFault({}, { kind: 'drop' })
  expect(() => expectFired(fault)).toThrow('never fired: relay frames: drop')
  expect(network.faults()).toEqual([fault])
})
