import { createECDH, createHash, generateKeyPairSync, sign } from 'node:crypto'
import { expect, test } from 'vitest'
import { sharedJson } from '../../test/data.ts'
import {
  hasNativeK256,
  KeyError,
  type PublicKey,
  parseDidKey,
  parseVerificationKey,
  verifier,
  verifySignature,
} from './signature.ts'

const crypto = 'vectors/atproto-interop-tests/crypto'

interface SignatureFixture {
  comment: string
  messageBase64: string
  algorithm: string
  didDocSuite: string
  publicKeyDid: string
  publicKeyMultibase: string
  signatureBase64: string
  validSignature: boolean
}

test.each(sharedJson<SignatureFixture[]>(`${crypto}/signature-fixtures.json`))(
  '$comment',
  (fixture) => {
    const key = parseDidKey(fixture.publicKeyDid)
    const message = Buffer.from(fixture.messageBase64, 'base64')
    const signature = Buffer.from(fixture.signatureBase64, 'base64')
    expect(verifySignature(key, message, signature)).toBe(fixture.validSignature)
    expect(verifySignature(key, Buffer.from('another'), signature)).toBe(false)
    expect(key.curve).toBe(fixture.algorithm === 'ES256' ? 'p256' : 'k256')
    const legacy = parseVerificationKey(fixture.didDocSuite, fixture.publicKeyMultibase)
    expect(legacy.didKey).toBe(fixture.publicKeyDid)
  },
)

test.each(
  sharedJson<{ privateKeyBytesHex: string; publicDidKey: string }[]>(
    `${crypto}/w3c_didkey_K256.json`,
  ),
)('did:key of a K-256 key: $publicDidKey', ({ privateKeyBytesHex, publicDidKey }) => {
  expect(didKeyOf('secp256k1', Buffer.from(privateKeyBytesHex, 'hex'))).toBe(publicDidKey)
})

test.each(
  sharedJson<{ privateKeyBytesBase58: string; publicDidKey: string }[]>(
    `${crypto}/w3c_didkey_P256.json`,
  ),
)('did:key of a P-256 key: $publicDidKey', ({ privateKeyBytesBase58, publicDidKey }) => {
  expect(didKeyOf('prime256v1', fromBase58(privateKeyBytesBase58))).toBe(publicDidKey)
})

/** The did:key of a secret, made of the legacy form by way of an uncompressed point. */
function didKeyOf(curve: 'secp256k1' | 'prime256v1', secret: Buffer): string {
  const ecdh = createECDH(curve)
  ecdh.setPrivateKey(secret)
  const suite =
    curve === 'secp256k1'
      ? 'EcdsaSecp256k1VerificationKey2019'
      : 'EcdsaSecp256r1VerificationKey2019'
  return parseVerificationKey(suite, base58(ecdh.getPublicKey())).didKey
}

const alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'

function base58(bytes: Uint8Array): string {
  let value = BigInt(`0x${Buffer.from(bytes).toString('hex')}`)
  let text = ''
  for (; value > 0n; value /= 58n) text = alphabet[Number(value % 58n)] + text
  return `z${text}`
}

function fromBase58(text: string): Buffer {
  let value = 0n
  for (const char of text) value = value * 58n + BigInt(alphabet.indexOf(char))
  return Buffer.from(value.toString(16).padStart(64, '0'), 'hex')
}

test('the bare multibase, did:key and Multikey give the same key', () => {
  const multibase = 'zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc'
  const keys = [
    parseDidKey(multibase),
    parseDidKey(`did:key:${multibase}`),
    parseVerificationKey('Multikey', multibase),
  ]
  for (const key of keys) expect(key.didKey).toBe(`did:key:${multibase}`)
})

test.each([
  '',
  'z',
  'did:key:',
  'zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJw',
  'zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJw0',
  'mQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc',
  'did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK',
  `z${'1'.repeat(1_000_000)}`,
])('what is no key of ours is refused: %.60s', (text) => {
  expect(() => parseDidKey(text)).toThrow(KeyError)
  expect(() => parseVerificationKey('EcdsaSecp256k1VerificationKey2019', text)).toThrow(KeyError)
})

test('a point that is not on its curve is refused', () => {
  // x = 5 has no y on K-256.
  const point = Buffer.alloc(33)
  point[0] = 2
  point[32] = 5
  expect(() => parseVerificationKey('EcdsaSecp256k1VerificationKey2019', base58(point))).toThrow(
    KeyError,
  )
  expect(() => parseVerificationKey('UnknownKey2030', base58(point))).toThrow(KeyError)
})

const order = {
  k256: 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n,
  p256: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
}

function signer(namedCurve: 'secp256k1' | 'prime256v1') {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve })
  const { x = '', y = '' } = publicKey.export({ format: 'jwk' })
  const point = Buffer.concat([
    Buffer.of(4),
    Buffer.from(x, 'base64url'),
    Buffer.from(y, 'base64url'),
  ])
  const suite =
    namedCurve === 'secp256k1'
      ? 'EcdsaSecp256k1VerificationKey2019'
      : 'EcdsaSecp256r1VerificationKey2019'
  const key = parseVerificationKey(suite, base58(point))
  const signed = (message: Buffer) => {
    const signature = sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' })
    const s = BigInt(`0x${signature.subarray(32).toString('hex')}`)
    const low = s > order[key.curve] / 2n ? order[key.curve] - s : s
    return {
      low: withS(signature, low),
      high: withS(signature, order[key.curve] - low),
    }
  }
  return { key, signed }
}

function withS(signature: Buffer, s: bigint): Buffer {
  const bytes = Buffer.from(signature)
  bytes.write(s.toString(16).padStart(64, '0'), 32, 'hex')
  return bytes
}

test.each(['secp256k1', 'prime256v1'] as const)(
  'only the lower s, of 64 bytes, is a signature: %s',
  (curve) => {
    for (let round = 0; round < 20; round++) {
      const { key, signed } = signer(curve)
      const message = createHash('sha256').update(String(round)).digest()
      const { low, high } = signed(message)
      expect(verifySignature(key, message, low)).toBe(true)
      expect(verifySignature(key, message, high)).toBe(false)
      expect(verifySignature(key, message, low.subarray(0, 63))).toBe(false)
      expect(verifySignature(key, message, Buffer.concat([low, Buffer.of(0)]))).toBe(false)
    }
  },
)

test.each([
  ['zeros', Buffer.alloc(64)],
  ['r beyond the order', Buffer.concat([Buffer.alloc(32, 0xff), Buffer.alloc(32, 1)])],
])('64 bytes that are no signature are false, not an error: %s', (_, signature) => {
  for (const curve of ['secp256k1', 'prime256v1'] as const) {
    expect(verifySignature(signer(curve).key, Buffer.from('a'), signature)).toBe(false)
  }
})

test('the native binding is there where it comes prebuilt, and node:crypto agrees with it', () => {
  const prebuilt = ['linux-x64', 'darwin-arm64', 'win32-x64']
  expect(hasNativeK256).toBe(prebuilt.includes(`${process.platform}-${process.arch}`))
  const { key, signed } = signer('secp256k1')
  const byNode: PublicKey = { ...key, verify: verifier('k256', key.bytes) }
  const message = Buffer.from('message')
  const { low, high } = signed(message)
  for (const signature of [low, high, Buffer.alloc(64), Buffer.alloc(64, 1)]) {
    expect(verifySignature(byNode, message, signature)).toBe(
      verifySignature(key, message, signature),
    )
  }
})
