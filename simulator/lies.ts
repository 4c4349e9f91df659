/** Lies: what a host says that is well-formed and not true. */
import { decode, encode } from '@atproto/lex-cbor'
import { type Cid, cidForCbor, isLexMap, type LexMap, type LexValue } from '@atproto/lex-data'
import { BlockMap, blocksToCarFile, readCarWithRoot } from '@atproto/repo'
import { messageFrame, readFrame } from './frames.ts'

/** A forged signature, content that is not what its CID says, or an older rev. */
export type Lie = 'signature' | 'cid' | 'rev'
/** In a frame also: a commit of which ops and `prevData` are left out, as if it were an old one. */
export type FrameLie = Lie | 'ops'

/** A key that nobody has. */
const strangersKey = 'zQ3shVc2UkAfJCdc1TR8E66J85h48P43r93q8jGPkPpjF9Ef9'
const oldRev = '2222222222222'

/**
 * The same frame with a lie in it; null when it holds nothing to lie about. For `rev`, `before`
 * gives the account's commit before this one, which is sent in this one's place.
 */
export async function lyingFrame(
  frame: Uint8Array,
  lie: FrameLie,
  before: (did: string) => LexMap | null,
): Promise<Uint8Array | null> {
  const { header, body } = readFrame(frame) ?? { header: {}, body: {} }
  const type = String(header['t'])
  const [label, ...labels] = Array.isArray(body['labels']) ? body['labels'] : []
  if (isLexMap(label) && lie === 'signature') {
    const sig = flipped(label['sig'] as Uint8Array)
    return messageFrame(type, { ...body, labels: [{ ...label, sig }, ...labels] })
  }
  if (!(body['blocks'] instanceof Uint8Array)) return null
  const { seq, time, ops, prevData, ...rest } = body
  if (lie === 'ops') {
    if (!Array.isArray(ops) || prevData === undefined || ops.length === 0) return null
    return messageFrame(type, { ...rest, seq, time, ops: ops.slice(1) } as LexMap)
  }
  if (lie === 'rev') {
    const older = type === '#commit' ? before(String(body['repo'])) : null
    return older === null ? null : messageFrame(type, { ...older, seq, time } as LexMap)
  }
  const { bytes: blocks, root } = await lyingCar(body['blocks'], lie)
  const commit = type === '#commit' && { commit: root }
  return messageFrame(type, { ...body, ...commit, blocks })
}

/** The same blocks, of which the commit has another signature, or one is not what its CID says. */
export async function lyingCar(
  car: Uint8Array,
  lie: 'signature' | 'cid',
): Promise<{ bytes: Uint8Array; root: Cid }> {
  const { root, blocks } = await readCarWithRoot(car)
  const commitBytes = blocks.get(root)
  const commit = commitBytes && decode(commitBytes)
  if (!isLexMap(commit)) throw new RangeError('a car without a commit')
  if (lie === 'signature') {
    const forged = encode({ ...commit, sig: flipped(commit['sig'] as Uint8Array) })
    const cid = await cidForCbor(forged)
    blocks.delete(root)
    const all = new BlockMap([[cid, forged], ...blocks])
    return { bytes: await blocksToCarFile(cid, all), root: cid }
  }
  const records = [...blocks].filter(
    ([cid]) => !cid.equals(root) && !cid.equals(commit['data'] as Cid),
  )
  const [cid, bytes] = records.at(-1) ?? [root, commitBytes ?? new Uint8Array()]
  blocks.set(cid, flipped(bytes))
  return { bytes: await blocksToCarFile(root, blocks), root }
}

/** The same blocks in another order, or each twice: both are legal. */
export function rearrangedCar(car: Uint8Array, how: 'reorder' | 'duplicate'): Uint8Array {
  const { header, sections } = splitCar(car)
  const order = how === 'reorder' ? sections.toReversed() : [...sections, ...sections]
  return Buffer.concat([header, ...order])
}

/** A DID document with another key, or repos of another commit or rev; null where there is none of it. */
export function lyingJson(value: unknown, lie: Lie): unknown {
  let lied = false
  const lieAbout = (name: string, held: unknown): unknown => {
    const other = lies[lie][name]
    if (other === undefined || typeof held !== 'string') return changed(held)
    lied = true
    return other
  }
  const changed = (held: unknown): unknown => {
    if (Array.isArray(held)) return held.map(changed)
    if (typeof held !== 'object' || held === null) return held
    return Object.fromEntries(Object.entries(held).map(([name, of]) => [name, lieAbout(name, of)]))
  }
  const result = changed(value)
  return lied ? result : null
}

const strangersCid = 'bafyreigfqgn6a3n2ompaemnuvl2cmuv7gga5ehrn4q46ukmwwhq3j6x3u4'
const lies: Record<Lie, Record<string, string>> = {
  signature: { publicKeyMultibase: strangersKey },
  cid: { head: strangersCid, cid: strangersCid },
  rev: { rev: oldRev },
}

/** The list in a JSON answer turned around or with each entry twice; null when it holds no list. */
export function rearrangedJson(value: unknown, how: 'reorder' | 'duplicate'): unknown {
  const turn = (list: readonly unknown[]) =>
    how === 'reorder' ? list.toReversed() : list.flatMap((entry) => [entry, entry])
  if (Array.isArray(value)) return turn(value)
  if (typeof value !== 'object' || value === null) return null
  const lists = Object.entries(value).filter(([, held]) => Array.isArray(held))
  const [name, list] = lists[0] ?? []
  return name === undefined ? null : { ...value, [name]: turn(list as unknown[]) }
}

/** The bytes with the last one changed. */
function flipped(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes)
  copy[copy.length - 1] = (copy.at(-1) ?? 0) ^ 1
  return copy
}

function splitCar(car: Uint8Array): { header: Uint8Array; sections: Uint8Array[] } {
  const parts: Uint8Array[] = []
  for (let at = 0; at < car.length; ) {
    let size = 0
    let digits = 0
    for (let more = true; more; digits++) {
      const byte = car[at + digits] ?? 0
      size += (byte & 127) * 2 ** (7 * digits)
      more = byte > 127
    }
    parts.push(car.subarray(at, at + digits + size))
    at += digits + size
  }
  const [header = new Uint8Array(), ...sections] = parts
  return { header, sections }
}

/** What a frame says it is about. */
export function subjectOf(frame: Uint8Array): { type: string; did: string | null; body: LexMap } {
  const { header, body } = readFrame(frame) ?? { header: {}, body: {} }
  const did: LexValue | undefined = body['did'] ?? body['repo']
  return { type: String(header['t']), did: typeof did === 'string' ? did : null, body }
}
