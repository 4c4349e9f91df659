/**
 * The chain of each repo: its newest commit as the appending script holds it, in 19 bytes
 * (docs/chain-state.md). Here is how a link is packed for the script, and how a state is read.
 */
import { hash } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { Cid } from '../repo/cid.ts'
import { chainBucketKey, chainKey } from './names.ts'

/** What a proved commit or #sync says of its repo's chain. */
export interface Link {
  kind: 'commit' | 'sync'
  did: string
  rev: string
  /** The rev before, as the commit claims. */
  since: string | null
  /** The tree before; null in commits from before sync 1.1. */
  prevData: Cid | null
  /** The tree after. */
  data: Cid
  /** Whether its ops were shown to lead from `prevData` to `data`. */
  proven: boolean
  /** True when nobody could verify its signature: then it vouches for nothing. */
  doubtful: boolean
}

/** A link among the entries of a batch. */
export interface PlacedLink {
  link: Link
  /** How many entries stand between the link before and this one's own. */
  before: number
  /** How many are its own: appended only when it is new. */
  own: number
}

/** What the script finds, in the order of its counts. */
export const judgements = [
  /** Of a repo of which nothing was known. */
  'start',
  'continued',
  /** Its rev is not above the one that is held. */
  'duplicate',
  'broken',
  /** A #sync of the same tree. */
  'moved',
  /** Counted beside the others: the chain has a link without proof. */
  'unproven',
  /** Counted beside `broken`: too many resyncs are under way, the state stays as it is. */
  'held-back',
  /** Entries of duplicates. */
  'dropped-entries',
  /** Its rev is below the one at which its repo was met a few hours ago: new all the same. */
  'earlier',
] as const
export type Judgement = (typeof judgements)[number]

/** At 50 million repos a hash holds 381: below the 512 up to which Redis keeps it compact. */
export const chainBucketBits = 17

const fieldBytes = 10
const shortBytes = 8
/** Behind the version, codec and hash type of a CID. */
const digestAt = 4
const flags = { sync: 1, unproved: 2, doubtful: 4, legacy: 8 }
const fixedBytes = 2 + 2 + 4 + fieldBytes + 4 * shortBytes + 1 + 2

/** The links of a batch as one argument of `append.lua`, which unpacks `>HHI4c10c8c8c8c8BHc0`. */
export function packLinks(placed: readonly PlacedLink[]): Buffer {
  const names = placed.map(({ link: { did, rev } }) => `${did} ${rev}`)
  const size = names.reduce((sum, name) => sum + fixedBytes + name.length, 0)
  const packed = Buffer.alloc(size)
  let at = 0
  for (const [index, { link, before, own }] of placed.entries()) {
    const name = names[index] ?? ''
    const { bucket, field } = placeOf(link.did)
    at = packed.writeUInt16BE(before, at)
    at = packed.writeUInt16BE(own, at)
    at = packed.writeUInt32BE(bucket, at)
    at += packed.write(field, at, 'hex')
    at = writeTid(packed, at, link.rev)
    at = link.since === null ? at + shortBytes : writeTid(packed, at, link.since)
    at = writeCid(packed, at, link.prevData)
    at = writeCid(packed, at, link.data)
    at = packed.writeUInt8(flagsOf(link), at)
    at = packed.writeUInt16BE(name.length, at)
    at += packed.write(name, at, 'latin1')
  }
  return packed
}

/** The revs that are held for these repos in the present epoch; null where there is none. */
export async function readRevs(redis: Redis, dids: readonly string[]): Promise<(string | null)[]> {
  const pipeline = redis.pipeline()
  pipeline.hget(chainKey, 'epoch')
  for (const did of dids) {
    const { bucket, field } = placeOf(did)
    pipeline.hgetBuffer(chainBucketKey(bucket), Buffer.from(field, 'hex'))
  }
  const [epoch, ...states] = (await pipeline.exec()) ?? []
  const present = Number(answerOf(epoch) ?? 0)
  return states.map((reply) => {
    const state = answerOf(reply) as Buffer | null
    return state === null || state.readUInt16BE(17) !== present ? null : readTid(state)
  })
}

/** A command of a pipeline that failed has its error where its value would be. */
function answerOf(reply: [error: Error | null, value: unknown] | undefined): unknown {
  if (reply === undefined) throw new Error('a reply is missing')
  if (reply[0] !== null) throw reply[0]
  return reply[1]
}

/** Where a repo's state is: spread by a hash of its DID, of which nobody can choose many bits. */
export function placeOf(did: string): { bucket: number; field: string } {
  const digest = hash('sha256', did, 'hex')
  const bucket = Number.parseInt(digest.slice(0, 8), 16) >>> (32 - chainBucketBits)
  return { bucket, field: digest.slice(8, 8 + 2 * fieldBytes) }
}

function flagsOf({ kind, proven, doubtful, prevData }: Link): number {
  return (
    (kind === 'sync' ? flags.sync : 0) |
    (proven || kind === 'sync' ? 0 : flags.unproved) |
    (doubtful ? flags.doubtful : 0) |
    (prevData === null ? flags.legacy : 0)
  )
}

/** The first bytes of its digest; zeros for none. */
function writeCid(target: Buffer, at: number, cid: Cid | null): number {
  if (cid !== null) target.set(cid.bytes.subarray(digestAt, digestAt + shortBytes), at)
  return at + shortBytes
}

const alphabet = '234567abcdefghijklmnopqrstuvwxyz'
const values = new Uint8Array(128)
for (const [value, char] of [...alphabet].entries()) values[char.charCodeAt(0)] = value

/** The 64 bits of a valid TID, in the order of its text. */
function writeTid(target: Buffer, at: number, tid: string): number {
  const value = (index: number) => values[tid.charCodeAt(index)] ?? 0
  let high = 0
  for (let index = 0; index < 6; index++) high = (high << 5) | value(index)
  const middle = value(6)
  let low = middle & 3
  for (let index = 7; index < 13; index++) low = (low << 5) | value(index)
  target.writeUInt32BE(((high << 3) | (middle >>> 2)) >>> 0, at)
  return target.writeUInt32BE(low >>> 0, at + 4)
}

function readTid(source: Buffer): string {
  let value = source.readBigUInt64BE(0)
  let text = ''
  for (let index = 0; index < 13; index++) {
    text = alphabet[Number(value & 31n)] + text
    value >>= 5n
  }
  return text
}
