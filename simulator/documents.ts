/** DID documents and PLC operations. */
import { createHash } from 'node:crypto'
import type { Keypair } from '@atproto/crypto'
import { encode } from '@atproto/lex-cbor'
import { cidForCbor, type LexMap } from '@atproto/lex-data'

export interface DidDocument {
  id: string
  alsoKnownAs?: string[]
  verificationMethod?: { id: string; type: string; [field: string]: unknown }[]
  service?: { id: string; type: string; serviceEndpoint: string }[]
  [field: string]: unknown
}

/** What a PLC operation leaves an identity with. */
export interface PlcData {
  rotationKeys: string[]
  verificationMethods: Record<string, string>
  alsoKnownAs: string[]
  services: Record<string, { type: string; endpoint: string }>
}

/** One line of an audit log. */
export interface PlcEntry {
  did: string
  operation: PlcOperation
  cid: string
  nullified: boolean
  createdAt: string
}

export type PlcOperation = { type: string; sig: string; prev: string | null } & LexMap

const contexts = [
  'https://www.w3.org/ns/did/v1',
  'https://w3id.org/security/multikey/v1',
  'https://w3id.org/security/suites/secp256k1-2019/v1',
]

/** The document that the directory makes of an identity's data. */
export function documentOf(did: string, data: Omit<PlcData, 'rotationKeys'>): DidDocument {
  return {
    '@context': contexts,
    id: did,
    alsoKnownAs: data.alsoKnownAs,
    verificationMethod: Object.entries(data.verificationMethods).map(([name, key]) => ({
      id: `${did}#${name}`,
      type: 'Multikey',
      controller: did,
      publicKeyMultibase: key.replace(/^did:key:/, ''),
    })),
    service: Object.entries(data.services).map(([name, { type, endpoint }]) => ({
      id: `#${name}`,
      type,
      serviceEndpoint: endpoint,
    })),
  }
}

/** A plain account's data. `signingKey` is a did:key. */
export function accountData(account: {
  signingKey: string
  handle?: string | undefined
  pds: string
}): Omit<PlcData, 'rotationKeys'> {
  return {
    alsoKnownAs: account.handle === undefined ? [] : [`at://${account.handle}`],
    verificationMethods: { atproto: account.signingKey },
    services: { atproto_pds: { type: 'AtprotoPersonalDataServer', endpoint: account.pds } },
  }
}

/** The same document with its PDS elsewhere. */
export function withPds(document: DidDocument, pds: string): DidDocument {
  const service = (document.service ?? []).map((service) =>
    service.id.endsWith('#atproto_pds') ? { ...service, serviceEndpoint: pds } : service,
  )
  return { ...document, service }
}

/** The handle a document claims. */
export function claimedHandle({ alsoKnownAs = [] }: DidDocument): string | null {
  const first = alsoKnownAs.find((name) => name.startsWith('at://'))
  return first?.slice('at://'.length).toLowerCase() ?? null
}

/** A signed operation as the audit log has it; the first one (`prev` null) decides the DID. */
export async function signOperation(
  data: PlcData,
  {
    key,
    prev,
    did,
    createdAt,
  }: {
    key: Keypair
    prev: string | null
    did: string | null
    createdAt: string
  },
): Promise<PlcEntry> {
  const unsigned = { type: 'plc_operation', ...data, prev }
  const sig = Buffer.from(await key.sign(encode(unsigned))).toString('base64url')
  const operation = { ...unsigned, sig }
  const bytes = encode(operation)
  const cid = (await cidForCbor(bytes)).toString()
  return { did: did ?? plcDid(bytes), operation, cid, nullified: false, createdAt }
}

/** The operation that ends an identity. */
export async function signTombstone(
  did: string,
  { key, prev, createdAt }: { key: Keypair; prev: string; createdAt: string },
): Promise<PlcEntry> {
  const unsigned = { type: 'plc_tombstone', prev }
  const sig = Buffer.from(await key.sign(encode(unsigned))).toString('base64url')
  const operation = { ...unsigned, sig }
  const cid = (await cidForCbor(encode(operation))).toString()
  return { did, operation, cid, nullified: false, createdAt }
}

/** The data after the last operation that counts; null after a tombstone; undefined without any. */
export function latestData(entries: readonly PlcEntry[]): PlcData | null | undefined {
  const last = entries.findLast(({ nullified }) => !nullified)
  if (last === undefined) return undefined
  const { operation } = last
  switch (operation.type) {
    case 'plc_tombstone':
      return null
    case 'create':
      return legacyData(operation)
    default:
      return operation as unknown as PlcData
  }
}

function legacyData(operation: PlcOperation): PlcData {
  const { signingKey, recoveryKey, handle, service } = operation
  return {
    rotationKeys: [String(recoveryKey), String(signingKey)],
    ...accountData({
      signingKey: String(signingKey),
      handle: String(handle),
      pds: String(service),
    }),
  }
}

function plcDid(genesis: Uint8Array): string {
  const digest = createHash('sha256').update(genesis).digest()
  return `did:plc:${base32(digest).slice(0, 24)}`
}

function base32(bytes: Uint8Array): string {
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567'
  let text = ''
  let buffer = 0
  let bits = 0
  for (const byte of bytes) {
    buffer = (buffer << 8) | byte
    for (bits += 8; bits >= 5; bits -= 5) text += alphabet.charAt((buffer >>> (bits - 5)) & 31)
    buffer &= (1 << bits) - 1
  }
  return bits > 0 ? text + alphabet.charAt((buffer << (5 - bits)) & 31) : text
}
