/** Event stream frames: made, looked into, and read from a recording. */
import { readFile } from 'node:fs/promises'
import { decodeAll, encode } from '@atproto/lex-cbor'
import { isLexMap, type LexMap } from '@atproto/lex-data'

/** A message frame: header and body, DAG-CBOR each. */
export function messageFrame(type: string, body: LexMap): Uint8Array {
  const header = encode({ op: 1, t: type })
  const rest = encode(body)
  // Memory of its own: in Node's 64 KiB pool, kept frames were measured to hold four times their size.
  const frame = new Uint8Array(header.length + rest.length)
  frame.set(header)
  frame.set(rest, header.length)
  return frame
}

/** An error frame; the socket is closed after it. */
export function errorFrame(error: string, message: string): Uint8Array {
  return Buffer.concat([encode({ op: -1 }), encode({ error, message })])
}

/** Header and body of a frame; null when the bytes are no frame. */
export function readFrame(frame: Uint8Array): { header: LexMap; body: LexMap } | null {
  try {
    const [header, body] = [...decodeAll(frame)]
    return isLexMap(header) && isLexMap(body) ? { header, body } : null
  } catch {
    return null
  }
}

/** The position a frame claims; null when it has none or cannot be read. */
export function frameSeq(frame: Uint8Array): number | null {
  const seq = readFrame(frame)?.body['seq']
  return typeof seq === 'number' ? seq : null
}

/** The frames of a recording: `[u32 little-endian length][frame]`, repeated. Throws a RangeError on a cut file. */
export async function loadFrames(path: string): Promise<Uint8Array[]> {
  const file = await readFile(path)
  const frames: Uint8Array[] = []
  for (let at = 0; at < file.length; ) {
    const start = at + 4
    const end = start + file.readUInt32LE(at)
    if (end > file.length) throw new RangeError(`${path} ends within frame ${frames.length}`)
    frames.push(file.subarray(start, end))
    at = end
  }
  return frames
}
