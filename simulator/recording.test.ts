/** Recordings: the same each time they are made, and what a reader gets is what was recorded. */
import { mkdtemp, readFile, rm, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { loadFrames } from './frames.ts'
import { startNetwork } from './network.ts'
import { takeFrames } from './reading.ts'
import { openRecording, record, storedFrames } from './recording.ts'

const options = { seed: 'recorded', accounts: 5, steps: 60 }

async function recorded() {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-recording-'))
  const path = join(folder, 'frames')
  const made = await record(path, options)
  return { path, made, [Symbol.asyncDispose]: () => rm(folder, { recursive: true }) }
}

test('the same options give the same bytes', async () => {
  await using first = await recorded()
  await using second = await recorded()
  expect(await readFile(first.path)).toEqual(await readFile(second.path))
  expect(first.made.commits).toBeGreaterThan(50)
})

test('a reader gets every frame of a recording, whose directory knows every account', async () => {
  await using own = await recorded()
  await using network = await startNetwork()
  await network.relay.play(storedFrames(own.path))
  const url = `${network.relay.url}/xrpc/com.atproto.sync.subscribeRepos?cursor=0`
  const frames = await takeFrames(url, own.made.frames)
  expect(frames).toEqual(await loadFrames(own.path))
  const { documents } = await openRecording(own.path)
  expect(documents.length).toBeGreaterThanOrEqual(options.accounts)
})

test('a file that ends within a frame is not taken for a whole one', async () => {
  await using own = await recorded()
  const { length } = await readFile(own.path)
  await truncate(own.path, length - 3)
  expect(() => [...storedFrames(own.path)]).toThrow(RangeError)
})
