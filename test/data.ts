/** Where the recorded test data lie: real frames, repos and DID documents, and the protocol's vectors. */
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'

const root = fileURLToPath(new URL('../../shared/data/', import.meta.url))

/** The path of a file or folder of the recorded data. Throws when they are not there. */
export function sharedData(path: string): string {
  const full = root + path
  if (existsSync(full)) return full
  throw new Error(
    `test data missing: ${full}. The tests need the folder shared/ beside the checkout (see its data/README.md).`,
  )
}

/** The bytes of a file of the recorded data, unpacked when it ends in `.gz`. */
export function sharedBytes(path: string): Uint8Array {
  const bytes = readFileSync(sharedData(path))
  return path.endsWith('.gz') ? gunzipSync(bytes) : bytes
}

/** A JSON file of the recorded data; the type is the caller's claim. */
export function sharedJson<T>(path: string): T {
  return JSON.parse(Buffer.from(sharedBytes(path)).toString('utf8'))
}

/** The lines of a JSONL file of the recorded data; the type is the caller's claim. */
export function sharedJsonLines<T>(path: string): T[] {
  return sharedLines(path).map((line) => JSON.parse(line))
}

/** The lines of a text file of the recorded data, without comments and empty lines. */
export function sharedLines(path: string): string[] {
  const lines = Buffer.from(sharedBytes(path)).toString('utf8').split('\n')
  return lines.filter((line) => line !== '' && !line.startsWith('#'))
}

/** The frames of a recording: each a length (32 bits, little-endian) and its bytes. */
export function sharedFrames(path: string): Uint8Array[] {
  const bytes = sharedBytes(path)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const frames: Uint8Array[] = []
  for (let position = 0; position < bytes.length; ) {
    const end = position + 4 + view.getUint32(position, true)
    frames.push(bytes.subarray(position + 4, end))
    position = end
  }
  return frames
}
