/** How batches of frames, and of what they show, travel between threads: few objects, many bytes. Pure. */
import { cidAt, cidLength } from '../shared/repo/cid.ts'
import type { Refusal } from './commit.ts'
import type { Proved, VerifyMode } from './prove.ts'

export interface ThreadData {
  mode: VerifyMode
  collections: readonly string[]
}

/** Frames of commits and sync messages, one after the other. */
export interface Task {
  now: number
  bytes: Uint8Array<ArrayBuffer>
  /** Where each frame ends. */
  ends: readonly number[]
  /** The key of each frame's account, as far as it was at hand. */
  keys: readonly (string | null)[]
}

/** What became of one frame; a bug of ours is told of that frame only. */
export type Outcome = Proved | Failed
export type Failed = { refused: Refusal; words: string } | { bug: string }

/** Outcomes in the order of their frames. */
export interface Answer {
  /** The memory of the task, for the next one. */
  memory: ArrayBuffer
  /** Of each proved frame its flags and counts, then the lengths of its entries. */
  numbers: Uint32Array<ArrayBuffer>
  /** Of each proved frame the root of its tree, then its entries. */
  bytes: Uint8Array<ArrayBuffer>
  /** What is rare, by the place of the frame. */
  failed: ReadonlyMap<number, Failed>
  beside: ReadonlyMap<number, Pick<Proved, 'dropped' | 'unsigned' | 'sig'>>
}

/** Puts frames into some memory, or into more where that is too small. */
export function packTask(
  frames: readonly Uint8Array[],
  keys: readonly (string | null)[],
  now: number,
  memory?: ArrayBuffer,
): Task {
  let end = 0
  const ends = frames.map(({ length }) => {
    end += length
    return end
  })
  const enough = memory !== undefined && memory.byteLength >= end
  const bytes = new Uint8Array(enough ? memory : new ArrayBuffer(end))
  for (const [index, frame] of frames.entries()) bytes.set(frame, ends[index - 1] ?? 0)
  return { now, bytes, ends, keys }
}

export function frameOf({ bytes, ends }: Task, index: number): Uint8Array {
  return bytes.subarray(ends[index - 1] ?? 0, ends[index])
}

/** Where the bytes of an answer are put together; each is copied out of it. */
let scratch = Buffer.alloc(256 * 1_024)

/** Takes outcomes one by one: what each was made of need not outlive it. */
export function packOutcomes(outcomes: Iterable<Outcome>, memory: ArrayBuffer): Answer {
  const numbers: number[] = []
  const failed = new Map<number, Failed>()
  const beside: Map<number, Pick<Proved, 'dropped' | 'unsigned' | 'sig'>> = new Map()
  let length = 0
  const add = (part: Uint8Array) => {
    if (length + part.length > scratch.length) {
      const larger = Buffer.alloc(2 * (length + part.length))
      larger.set(scratch.subarray(0, length))
      scratch = larger
    }
    scratch.set(part, length)
    length += part.length
  }
  let index = 0
  for (const outcome of outcomes) {
    if ('proof' in outcome) {
      const { proof, signed, counts, data, entries, dropped, unsigned, sig } = outcome
      numbers.push(Number(proof === 'proven'), Number(signed))
      numbers.push(counts.create, counts.update, counts.delete, counts.filtered, entries.length)
      add(data.bytes)
      for (const entry of entries) {
        numbers.push(entry.length)
        add(entry)
      }
      // Copies: what is sent would take along all of the memory that it is a part of.
      const isAsked = !signed && unsigned.length > 0
      if (isAsked) beside.set(index, { dropped, unsigned: copy(unsigned), sig: copy(sig) })
      else if (dropped.length > 0) beside.set(index, { ...signedAlready, dropped })
    } else failed.set(index, outcome)
    index += 1
  }
  const bytes = new Uint8Array(length)
  bytes.set(scratch.subarray(0, length))
  return { memory, numbers: Uint32Array.from(numbers), bytes, failed, beside }
}

function copy(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

export function unpackOutcomes(answer: Answer, count: number): Outcome[] {
  const { numbers, bytes, failed, beside } = answer
  let number = 0
  let position = 0
  const next = () => numbers[number++] ?? 0
  const take = (length: number) => {
    position += length
    return Buffer.from(bytes.buffer, position - length, length)
  }
  return Array.from({ length: count }, (_, index) => {
    const failure = failed.get(index)
    if (failure !== undefined) return failure
    const proof = next() === 1 ? 'proven' : 'unproven'
    const signed = next() === 1
    const counts = { create: next(), update: next(), delete: next(), filtered: next() }
    const length = next()
    const data = cidAt(take(cidLength), 0)
    const entries = Array.from({ length }, () => take(next()))
    return { proof, signed, counts, data, entries, ...(beside.get(index) ?? signedAlready) }
  })
}

/** Nobody needs the signature of what is signed again. */
const signedAlready = { dropped: [], unsigned: new Uint8Array(0), sig: new Uint8Array(0) }
