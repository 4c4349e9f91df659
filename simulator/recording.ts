/** Recordings of a living network: made once by a seed, played as fast as they are read. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import type { DidDocument } from './documents.ts'
import { createWorld } from './living.ts'
import { startNetwork } from './network.ts'
import type { Deed } from './plan.ts'

export interface RecordingOptions {
  seed: string
  accounts: number
  /** Steps of the living network: some more commits than that. */
  steps: number
  /** Told after every thousand steps. */
  onProgress?: (steps: number) => void
}

export interface Recording {
  /** What the directory must serve for the frames to be verified. */
  documents: DidDocument[]
  frames: number
  commits: number
}

/** Identities stay as they are, so that one document verifies every commit of its account. */
const without: readonly Deed[] = ['signingKey', 'migration', 'deletion', 'handle', 'rotationKey']
/** Frames are taken over in pieces, so that a recording needs little memory. */
const stepsAtOnce = 1_000

/**
 * Writes `[u32 little-endian length][frame]`, repeated, to the path, and beside it, with `.json`
 * after its name, the rest. The same options give the same bytes.
 */
export async function record(path: string, options: RecordingOptions): Promise<Recording> {
  const { seed, accounts, steps, onProgress } = options
  await using network = await startNetwork({ seed, pds: 2, relay: { windowBytes: 2 ** 31 } })
  const world = createWorld(network, { web: false, without })
  const file = openSync(path, 'w')
  let frames = 0
  try {
    await world.populate({ accounts, older: 0, history: 0 })
    for (let done = 0; done < steps; done += stepsAtOnce) {
      for (let step = 0; step < Math.min(stepsAtOnce, steps - done); step++) await world.step()
      const all = network.relay.frames()
      for (const frame of all.slice(frames)) writeSync(file, withLength(frame))
      frames = all.length
      onProgress?.(done)
    }
  } finally {
    closeSync(file)
  }
  const dids = [...network.accounts.keys()]
  const documents = dids.flatMap((did) => network.directory.document(did) ?? [])
  const kinds = [...storedFrames(path)].filter((frame) => isCommit(frame))
  const recording = { documents, frames, commits: kinds.length }
  await writeFile(`${path}.json`, JSON.stringify(recording))
  return recording
}

/** What is written beside the frames. */
export async function openRecording(path: string): Promise<Recording> {
  return JSON.parse(await readFile(`${path}.json`, 'utf8')) as Recording
}

/** The frames of a file, read a mebibyte at a time. Throws a RangeError when the file ends within one. */
export function* storedFrames(path: string): Generator<Uint8Array> {
  const file = openSync(path, 'r')
  try {
    let rest: Buffer = Buffer.alloc(0)
    for (;;) {
      const chunk = Buffer.allocUnsafe(1024 * 1024)
      const size = readSync(file, chunk)
      if (size === 0) break
      rest = Buffer.concat([rest, chunk.subarray(0, size)])
      let at = 0
      while (at + 4 <= rest.length) {
        const end = at + 4 + rest.readUInt32LE(at)
        if (end > rest.length) break
        yield rest.subarray(at + 4, end)
        at = end
      }
      rest = rest.subarray(at)
    }
    if (rest.length > 0) throw new RangeError(`${path} ends within a frame`)
  } finally {
    closeSync(file)
  }
}

function withLength(frame: Uint8Array): Uint8Array {
  const head = Buffer.alloc(4)
  head.writeUInt32LE(frame.length)
  return Buffer.concat([head, frame])
}

const commitHeader = Buffer.from('#commit')

/** By its header, which is the first 20 bytes or so. */
function isCommit(frame: Uint8Array): boolean {
  return Buffer.from(frame.buffer, frame.byteOffset, Math.min(24, frame.length)).includes(
    commitHeader,
  )
}
