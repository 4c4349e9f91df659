/** Accounts by their number, with keys: as the key store keeps them, and as they sign. */
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { createRequire } from 'node:module'
import type { Redis } from 'ioredis'
import { createKeyStore } from '../shared/identity-keys.ts'
import { writeCar } from '../shared/repo/car.ts'
import { encodeCbor } from '../shared/repo/cbor.ts'
import { linkOf } from '../shared/repo/cid.ts'
import { encodeCommit } from '../shared/repo/commit.ts'
import { tidOf } from '../shared/repo/tid.ts'
import { firstSeq, framed } from './replay.ts'

const { ecdsaSign, publicKeyCreate } = createRequire(import.meta.url)('secp256k1') as {
  ecdsaSign(hash: Uint8Array, key: Uint8Array): { signature: Uint8Array }
  publicKeyCreate(key: Uint8Array): Uint8Array
}
/** More than anything remembers of keys that were read; each has the accounts of its remainder. */
const pairs = 50_000
const atOnce = 1_000
const header = encodeCbor({ t: '#sync', op: 1 })
const base32 = 'abcdefghijklmnopqrstuvwxyz234567'

/** Named as the directory names them. */
export function didOf(number: number): string {
  const bytes = hash('sha256', String(number), 'buffer')
  let name = ''
  for (let index = 0; index < 24; index += 1) name += base32[(bytes[index] ?? 0) & 31]
  return `did:plc:${name}`
}

const secretOf = (number: number) =>
  new Uint8Array(hash('sha256', `key ${number % pairs}`, 'buffer'))

const packed: string[] = []

/** The key of an account, as `packKey` gives it. */
export function keyOf(number: number): string {
  packed[number % pairs] ??=
    `\xe7\x01${Buffer.from(publicKeyCreate(secretOf(number))).toString('latin1')}`
  return packed[number % pairs] ?? ''
}

/** Puts the keys of so many accounts where an ingester looks for them before it asks the directory. */
export async function storeKeys(redis: Redis, accounts: number): Promise<void> {
  const store = createKeyStore(redis)
  const at = Date.now()
  for (let number = 0; number < accounts; ) {
    const some = Array.from({ length: Math.min(atOnce, accounts - number) }, () => {
      const entry = { did: didOf(number), key: keyOf(number), at }
      number += 1
      return entry
    })
    await store.put(some)
  }
}

/** Writes a signed #sync of each of so many accounts, for `bench/replay.ts`. */
export async function makeSyncs(path: string, accounts: number): Promise<void> {
  const file = createWriteStream(path)
  const data = linkOf(encodeCbor({ e: [], l: null }))
  const now = Date.now() * 1_000 - 3_600e6
  const time = new Date(now / 1_000).toISOString()
  for (let number = 0; number < accounts; number += 1) {
    const unsigned = { did: didOf(number), rev: tidOf(now + number), data, prev: null }
    const digest = new Uint8Array(hash('sha256', encodeCommit(unsigned), 'buffer'))
    const sig = ecdsaSign(digest, secretOf(number)).signature
    const bytes = encodeCommit({ ...unsigned, sig })
    const cid = linkOf(bytes)
    const { did, rev } = unsigned
    const body = { did, rev, blocks: writeCar([cid], [{ cid, bytes }]), seq: firstSeq, time }
    const message = framed(Buffer.concat([header, encodeCbor(body)]))
    if (!file.write(message)) await once(file, 'drain')
  }
  file.end()
  await once(file, 'finish')
}
