/** Public keys and signatures of accounts, K-256 and P-256 (spec: cryptography). */
import { createPublicKey, hash, type KeyObject, verify } from 'node:crypto'
import { createRequire } from 'node:module'

export type Curve = 'k256' | 'p256'

/** A public key, valid on its curve. */
export interface PublicKey {
  readonly curve: Curve
  /** `did:key:z…`, the compressed form whatever form it was read from. */
  readonly didKey: string
  /** The point, compressed: 33 bytes. */
  readonly bytes: Uint8Array
  /** Checks a signature over the sha-256 of the message; the form of `sig` is already checked. */
  readonly verify: (message: Uint8Array, sig: Uint8Array) => boolean
}

/** Not a public key that atproto knows. */
export class KeyError extends Error {
  override name = 'KeyError'
}

/** The part of `secp256k1`'s native binding that is used here. */
interface NativeSecp256k1 {
  publicKeyConvert(key: Uint8Array, compressed: boolean): Uint8Array
  ecdsaVerify(signature: Uint8Array, hash: Uint8Array, key: Uint8Array): boolean
}

/**
 * Native K-256 verifies in 43 µs, `node:crypto` in 273; the package's JavaScript fallback takes
 * milliseconds, so it is passed over.
 */
const native = loadNative()

function loadNative(): NativeSecp256k1 | null {
  try {
    return createRequire(import.meta.url)('secp256k1/bindings') as NativeSecp256k1
  } catch {
    return null // No binary for this platform: node:crypto it is.
  }
}

const curves = {
  k256: {
    multicodec: [0xe7, 0x01],
    suite: 'EcdsaSecp256k1VerificationKey2019',
    halfOrder: Buffer.from(
      '7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0',
      'hex',
    ),
    spki: Buffer.from('3036301006072a8648ce3d020106052b8104000a032200', 'hex'),
  },
  p256: {
    multicodec: [0x80, 0x24],
    suite: 'EcdsaSecp256r1VerificationKey2019',
    halfOrder: Buffer.from(
      '7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8',
      'hex',
    ),
    spki: Buffer.from('3039301306072a8648ce3d020106082a8648ce3d030107032200', 'hex'),
  },
} as const

const didKeyPrefix = 'did:key:'
const compressedLength = 33
const packedLength = 2 + compressedLength
const uncompressedLength = 65
const signatureLength = 64

/** Keys read lately. Importing one costs 7 to 200 µs; an entry takes 2 KB, in each thread. */
const known = new Map<string, PublicKey>()
const maxKnown = 2_000

/** Reads `did:key:z…`, its bare multibase, or the short form of `packKey`. Throws KeyError. */
export function parseDidKey(text: string): PublicKey {
  const multibase = text.startsWith(didKeyPrefix) ? text.slice(didKeyPrefix.length) : text
  const found = known.get(multibase)
  if (found) return found
  const packed = multibase.length === packedLength && multibase[0] !== 'z'
  const bytes = packed ? Buffer.from(multibase, 'latin1') : fromMultibase(multibase)
  for (const curve of ['k256', 'p256'] as const) {
    const [first, second] = curves[curve].multicodec
    if (bytes[0] !== first || bytes[1] !== second) continue
    const point = bytes.subarray(2)
    if (point.length !== compressedLength) throw new KeyError('the key is not a compressed point')
    return remember(multibase, publicKey(curve, point))
  }
  throw new KeyError('a key of an unknown kind')
}

/** The bytes behind `did:key:z…`, as Latin-1 text: a third of its length. Throws KeyError. */
export function packKey(didKey: string): string {
  const packed = Buffer.from(fromMultibase(didKey.slice(didKeyPrefix.length))).toString('latin1')
  if (packed.length === packedLength) return packed
  throw new KeyError('the key is not a compressed point')
}

/**
 * Reads a verification method of a DID document: `Multikey`, or the two suites of 2019, whose
 * multibase has no prefix and whose point may be uncompressed. Throws KeyError.
 */
export function parseVerificationKey(type: string, multibase: string): PublicKey {
  if (type === 'Multikey') return parseDidKey(multibase)
  const curve = (['k256', 'p256'] as const).find((name) => curves[name].suite === type)
  if (curve === undefined) throw new KeyError(`a verification method of unknown type`)
  return publicKey(curve, compress(fromMultibase(multibase)))
}

/** Verifies 64 bytes of r and s, s in the lower half of the order; false for every other form. */
export function verifySignature(key: PublicKey, message: Uint8Array, sig: Uint8Array): boolean {
  if (sig.length !== signatureLength || !isLowS(curves[key.curve].halfOrder, sig)) return false
  return key.verify(message, sig)
}

function isLowS(halfOrder: Uint8Array, sig: Uint8Array): boolean {
  for (let index = 0; index < 32; index++) {
    const order = (sig[32 + index] ?? 0) - (halfOrder[index] ?? 0)
    if (order !== 0) return order < 0
  }
  return true
}

function publicKey(curve: Curve, point: Uint8Array): PublicKey {
  const bytes = new Uint8Array(point)
  try {
    const check =
      curve === 'k256' && native ? nativeVerifier(native, bytes) : verifier(curve, bytes)
    return {
      curve,
      bytes,
      verify: check,
      // Half of what importing would cost, and whoever verifies has no use for it.
      get didKey() {
        return `${didKeyPrefix}z${toBase58([...curves[curve].multicodec, ...bytes])}`
      },
    }
  } catch (cause) {
    throw new KeyError('the key is not a point of its curve', { cause })
  }
}

function nativeVerifier(binding: NativeSecp256k1, point: Uint8Array): PublicKey['verify'] {
  // Kept uncompressed: finding y again for every signature would cost 4 µs.
  const key = binding.publicKeyConvert(point, false)
  return (message, sig) => {
    try {
      return binding.ecdsaVerify(sig, hash('sha256', message, 'buffer'), key)
    } catch {
      return false // r or s is not below the order: not a signature at all.
    }
  }
}

/** Verification by `node:crypto`. Exported for the test that holds both ways against each other. */
export function verifier(curve: Curve, point: Uint8Array): PublicKey['verify'] {
  const der = Buffer.concat([curves[curve].spki, point])
  const key: KeyObject = createPublicKey({ key: der, format: 'der', type: 'spki' })
  return (message, sig) => verify('sha256', message, { key, dsaEncoding: 'ieee-p1363' }, sig)
}

/** True when K-256 is verified by the native binding. */
export const hasNativeK256 = native !== null

function compress(point: Uint8Array): Uint8Array {
  if (point.length === compressedLength) return point
  if (point.length !== uncompressedLength || point[0] !== 4) throw new KeyError('not a point')
  const compressed = point.slice(0, compressedLength)
  compressed[0] = 2 + ((point[uncompressedLength - 1] ?? 0) & 1)
  return compressed
}

function remember(multibase: string, key: PublicKey): PublicKey {
  for (const oldest of known.keys()) {
    if (known.size < maxKnown) break
    known.delete(oldest)
  }
  known.set(multibase, key)
  return key
}

const base58 = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
/** 65 bytes with a prefix take 91 characters. */
const longestMultibase = 100

function fromMultibase(multibase: string): Uint8Array {
  if (multibase[0] !== 'z' || multibase.length > longestMultibase) {
    throw new KeyError('not a base58 multibase')
  }
  const bytes: number[] = []
  for (const char of multibase.slice(1)) {
    let carry = base58.indexOf(char)
    if (carry < 0) throw new KeyError('not a base58 multibase')
    for (let index = 0; index < bytes.length; index++) {
      carry += (bytes[index] ?? 0) * 58
      bytes[index] = carry & 0xff
      carry >>= 8
    }
    for (; carry > 0; carry >>= 8) bytes.push(carry & 0xff)
  }
  const zeros = /^1*/.exec(multibase.slice(1))?.[0].length ?? 0
  return Uint8Array.from([...new Array<number>(zeros).fill(0), ...bytes.reverse()])
}

function toBase58(bytes: readonly number[]): string {
  const digits: number[] = []
  for (const byte of bytes) {
    let carry = byte
    for (let index = 0; index < digits.length; index++) {
      carry += (digits[index] ?? 0) * 256
      digits[index] = carry % 58
      carry = Math.floor(carry / 58)
    }
    for (; carry > 0; carry = Math.floor(carry / 58)) digits.push(carry % 58)
  }
  return digits
    .reverse()
    .map((digit) => base58[digit])
    .join('')
}
