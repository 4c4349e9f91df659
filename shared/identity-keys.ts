/** The signing keys of accounts as Redis keeps them: some 55 bytes each. */
import { hash } from 'node:crypto'
import type { Redis } from 'ioredis'
import { redisFailure } from './redis.ts'
import { keysKey } from './streams/names.ts'
import { script } from './streams/script.ts'

/** Above this a hash takes three times the memory (`hash-max-listpack-entries`, and its default). */
const mostOfBucket = 128
/** 8 million accounts fit; fewer buckets would hold less, more would cost their own names. */
const bucketBytes = 2
/** Of a DID so many bytes: those of two accounts are the same once in 2^80. */
export const nameBytes = 10
const hourMs = 3_600_000

export interface StoredKey {
  /** As `packKey` gives it. */
  key: string
  /** When it was seen, to the hour. */
  at: number
}

export interface KeyStore {
  /** Null when there is none, or when Redis is away: what is kept here can be had elsewhere. */
  get(did: string): Promise<StoredKey | null>
  /** With `newer`, what is there and was seen later stays. Throws what Redis answers. */
  put(entries: readonly (StoredKey & { did: string })[], mode?: 'newer'): Promise<void>
  /** Throws what Redis answers. */
  remove(dids: readonly string[]): Promise<void>
}

const remember = script('keys.lua')

export function createKeyStore(redis: Redis, now: () => number = Date.now): KeyStore {
  return {
    async get(did) {
      const name = nameOf(did)
      try {
        const value = await redis.hgetBuffer(bucketOf(name), fieldOf(name))
        return value === null ? null : stored(value, now())
      } catch (error) {
        if (redisFailure(error) === 'fault') throw error
        return null
      }
    },
    async put(entries, mode) {
      if (entries.length === 0) return
      const names = entries.map(({ did }) => nameOf(did))
      const values = entries.flatMap((entry, index) => {
        const name = names[index] as Buffer
        return [fieldOf(name), encodeValue(entry)]
      })
      const args = [mode ?? '', mostOfBucket, ...values]
      await remember(redis, names.map(bucketOf), args)
    },
    async remove(dids) {
      const pipeline = redis.pipeline()
      for (const did of dids) {
        const name = nameOf(did)
        pipeline.hdel(bucketOf(name), fieldOf(name))
      }
      const results = await pipeline.exec()
      for (const [error] of results ?? []) if (error !== null) throw error
    },
  }
}

/** The first bytes of what is behind a did:plc, which is a hash; of any other DID those of its hash. */
export function nameOf(did: string): Buffer {
  const name = Buffer.allocUnsafe(nameBytes)
  if (did.length !== plcLength || !did.startsWith('did:plc:')) {
    hash('sha256', did, 'buffer').copy(name, 0, 0, nameBytes)
    return name
  }
  let bits = 0
  let held = 0
  for (let index = 8, at = 0; at < nameBytes; index += 1) {
    held = (held << 5) | (base32[did.charCodeAt(index)] ?? 0)
    bits += 5
    if (bits < 8) continue
    bits -= 8
    name[at] = held >> bits
    at += 1
    held &= (1 << bits) - 1
  }
  return name
}

const plcLength = 'did:plc:'.length + 24
const base32 = new Uint8Array(128)
for (const [value, char] of [...'abcdefghijklmnopqrstuvwxyz234567'].entries()) {
  base32[char.charCodeAt(0)] = value
}

function bucketOf(name: Buffer): string {
  return keysKey(name.toString('hex', 0, bucketBytes))
}

function fieldOf(name: Buffer): Buffer {
  return name.subarray(bucketBytes)
}

/** Two bytes of the hour, which come round every seven years; the key; for P-256 its parity plus 2. */
function encodeValue({ key, at }: StoredKey): Buffer {
  const value = Buffer.allocUnsafe(2 + packedPoint)
  value.writeUInt16BE(Math.floor(at / hourMs) % 0x1_0000)
  packPoint(key, value, 2)
  return value
}

function stored(value: Buffer, now: number): StoredKey | null {
  if (value.length !== 2 + packedPoint) return null
  const hour = Math.floor(now / hourMs)
  const age = (hour - value.readUInt16BE() + 0x1_0000) % 0x1_0000
  return { key: unpackPoint(value, 2), at: (hour - age) * hourMs }
}

/** Bytes of a key that stands for itself: its curve is told by its first byte. */
export const packedPoint = 33
const p256 = '\x80\x24'
const k256 = '\xe7\x01'

/** Writes a key of `packKey`. */
export function packPoint(key: string, into: Buffer, at: number): void {
  into.write(key.slice(2), at, packedPoint, 'latin1')
  if (key.startsWith(p256)) into[at] = (into[at] ?? 0) + 2
}

export function unpackPoint(from: Buffer, at: number): string {
  const first = from[at] ?? 0
  if (first <= 3) return k256 + from.toString('latin1', at, at + packedPoint)
  return p256 + String.fromCharCode(first - 2) + from.toString('latin1', at + 1, at + packedPoint)
}
