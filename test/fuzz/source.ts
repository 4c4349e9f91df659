/** A frame to be spoilt, taken apart by the reference's codec. */
import type { Keypair } from '@atproto/crypto'
import { isLexMap, type LexMap } from '@atproto/lex-data'
import { readFrame } from '../../simulator/frames.ts'
import { type Block, openCar } from './car.ts'

/** A frame as it was sent. */
export interface Source {
  frame: Uint8Array
  type: string
  body: LexMap
  did: string
  /** Of a commit or sync message: its blocks, the commit first. */
  blocks: readonly Block[]
  /** What its account signs with, where we made it. */
  key: Keypair | null
}

type KeyOf = (did: string) => Keypair | null

export function sourceOf(frame: Uint8Array, keyOf: KeyOf = () => null): Source {
  const read = readFrame(frame)
  if (read === null) throw new Error('a frame of the corpus is none')
  const { header, body } = read
  const did = String(body['did'] ?? body['repo'])
  const bytes = body['blocks']
  const blocks = bytes instanceof Uint8Array ? openCar(bytes) : []
  return { frame, type: String(header['t']), body, did, blocks, key: keyOf(did) }
}

/** The ops of a commit message. */
export function opsOf(body: LexMap): LexMap[] {
  const { ops } = body
  return Array.isArray(ops) ? ops.filter(isLexMap) : []
}
