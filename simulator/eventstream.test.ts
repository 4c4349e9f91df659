/** Cursors, slow readers and the end of an event stream. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { encode } from '@atproto/lex-cbor'
import { expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { messageFrame, readFrame } from './frames.ts'
import { type NetworkOptions, startNetwork } from './network.ts'
import { readFrames, takeFrames } from './reading.ts'

const method = 'com.atproto.sync.subscribeRepos'
const frame = (seq: number, size = 10) => messageFrame('#test', { seq, pad: new Uint8Array(size) })
const range = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, n) => from + n)

/** A relay that has sent the frames 1 to `last`. */
async function relayed(last: number, options: NetworkOptions['relay'] = {}, size?: number) {
  const network = await startNetwork({ relay: options })
  await network.relay.play(range(1, last).map((seq) => frame(seq, size)))
  const url = `${network.relay.url}/xrpc/${method}`
  return { relay: network.relay, url, [Symbol.asyncDispose]: () => network.close() }
}

const seqs = (frames: Uint8Array[]) => frames.map((bytes) => readFrame(bytes)?.body['seq'])

test('a cursor replays from itself on, and then comes what is new', async () => {
  await using network = await relayed(10)
  const reading = takeFrames(`${network.url}?cursor=7`, 5)
  await network.relay.subscribed()
  await network.relay.play([frame(11)])
  expect(seqs(await reading)).toEqual([7, 8, 9, 10, 11])
})

test('without a cursor only what is new comes', async () => {
  await using network = await relayed(10)
  const reading = takeFrames(network.url, 1)
  await network.relay.subscribed()
  await network.relay.play([frame(11)])
  expect(seqs(await reading)).toEqual([11])
})

test('a cursor of 0 replays the whole window, without a warning', async () => {
  await using network = await relayed(100, { windowBytes: 1000 }, 40)
  const oldest = network.relay.oldestSeq ?? 0
  expect(oldest).toBeGreaterThan(80)
  const frames = await takeFrames(`${network.url}?cursor=0`, 100 - oldest + 1)
  expect(seqs(frames)).toEqual(range(oldest, 100))
})

test('a cursor older than the window gets OutdatedCursor, then the window', async () => {
  await using network = await relayed(100, { windowBytes: 1000 }, 40)
  const [info, first] = await takeFrames(`${network.url}?cursor=5`, 2)
  expect(info && readFrame(info)).toMatchObject({
    header: { op: 1, t: '#info' },
    body: { name: 'OutdatedCursor' },
  })
  expect(first && readFrame(first)?.body['seq']).toBe(network.relay.oldestSeq)
})

test('a cursor in the future gets an error frame and the end', async () => {
  await using network = await relayed(10)
  const frames = await takeFrames(`${network.url}?cursor=11`, 5)
  expect(frames.map(readFrame)).toMatchObject([
    { header: { op: -1 }, body: { error: 'FutureCursor' } },
  ])
})

test('a cursor that is no number is refused before the upgrade', async () => {
  await using network = await relayed(1)
  await expect(takeFrames(`${network.url}?cursor=x`, 1)).rejects.toThrow('400')
})

test('frames that are no frames are played as they are', async () => {
  await using network = await relayed(3)
  const broken = [new Uint8Array([0xff, 0x00]), encode({ op: 1, t: '#test' })]
  const reading = takeFrames(`${network.url}?cursor=3`, 4)
  await network.relay.play([...broken, frame(4)])
  expect((await reading).slice(1, 3).map((bytes) => Uint8Array.from(bytes))).toEqual(broken)
})

test('a reader that does not read is told so and closed, and others are not held up', async () => {
  const options = { windowBytes: 4_000_000, maxBufferedBytes: 100_000 }
  await using network = await relayed(1, options)
  const slow = new WebSocket(network.url.replace('http', 'ws'))
  await once(slow, 'open')
  slow.pause()
  const fast: Buffer[] = []
  const other = new WebSocket(`${network.url.replace('http', 'ws')}?cursor=1`)
  other.on('message', (bytes: Buffer) => fast.push(bytes))
  await network.relay.subscribed(2)
  const received: Buffer[] = []
  slow.on('message', (bytes: Buffer) => received.push(bytes))
  const closed = once(slow, 'close')
  // The other one keeps up because nothing is sent that it has not read.
  for (let seq = 2; seq <= 300; seq++) {
    await network.relay.play([frame(seq, 100_000)], { rate: 10_000 })
    while (fast.length < seq) await once(other, 'message')
  }
  expect(network.relay.readers).toBe(1)
  slow.resume()
  await closed
  other.terminate()
  expect(readFrame(received.at(-1) ?? Buffer.of())?.body['error']).toBe('ConsumerTooSlow')
  expect(seqs(fast)).toEqual(range(1, 300))
})

test('play without a rate waits for its readers, so that none falls out of the window', async () => {
  await using network = await relayed(1, { windowBytes: 2_000_000, maxBufferedBytes: 100_000 })
  const reading = takeFrames(`${network.url}?cursor=1`, 500)
  await network.relay.subscribed()
  await network.relay.play(range(2, 500).map((seq) => frame(seq, 50_000)))
  expect(seqs(await reading)).toEqual(range(1, 500))
})

test('a rate is kept', async () => {
  await using network = await relayed(0)
  const started = performance.now()
  await network.relay.play(
    range(1, 100).map((seq) => frame(seq)),
    { rate: 500 },
  )
  expect(performance.now() - started).toBeGreaterThan(190)
})

test('closing ends every reader and frees the port', async () => {
  const network = await relayed(3)
  const reading = (async () => {
    let count = 0
    for await (const _ of readFrames(`${network.url}?cursor=1`)) count++
    return count
  })()
  await network.relay.subscribed()
  await network.relay.delivered()
  await network[Symbol.asyncDispose]()
  expect(await reading).toBeLessThanOrEqual(3)
  const { hostname, port } = new URL(network.url)
  const socket = connect(Number(port), hostname)
  const [error] = await once(socket, 'error')
  expect(error.code).toBe('ECONNREFUSED')
})
