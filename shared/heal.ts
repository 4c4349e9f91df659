/** Records as the Rust workers wrote them: links and bytes as arrays of numbers, healed and proved by the CID. */
import { encodeCbor, fromLexJson, toLexJson } from './repo/cbor.ts'
import { cidFromBytes, cidOf } from './repo/cid.ts'

type Json = Record<string, unknown>

/**
 * The record with its links and bytes in their JSON form. An array of numbers is taken for a link
 * where it holds a CID, for bytes only where the record's own CID proves it.
 */
export function healRecord(record: Json, cid: string): Json {
  if (!hasByteArray(record)) return record
  const linked = rewrite(record, (bytes) => linkOf(bytes)) as Json
  if (hashesTo(linked, cid)) return linked
  const whole = rewrite(record, (bytes) => linkOf(bytes) ?? toLexJson(bytes)) as Json
  return hashesTo(whole, cid) ? whole : linked
}

function hasByteArray(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (Array.isArray(value)) return isByteArray(value) || value.some(hasByteArray)
  return Object.values(value).some(hasByteArray)
}

function isByteArray(value: readonly unknown[]): value is number[] {
  const isByte = (item: unknown) =>
    Number.isInteger(item) && Number(item) >= 0 && Number(item) < 256
  return value.length > 0 && value.every(isByte)
}

function rewrite(value: unknown, replace: (bytes: Uint8Array) => unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) {
    const replaced = isByteArray(value) ? replace(Uint8Array.from(value)) : undefined
    return replaced ?? value.map((item) => rewrite(item, replace))
  }
  const entries = Object.entries(value).map(([key, item]) => [key, rewrite(item, replace)])
  return Object.fromEntries(entries)
}

/** A CIDv1 with a sha-256, with or without the zero byte that DAG-CBOR puts before it. */
function linkOf(bytes: Uint8Array): { $link: string } | undefined {
  const plain = bytes.length === 37 && bytes[0] === 0 ? bytes.subarray(1) : bytes
  if (plain.length !== 36) return undefined
  const [version, codec, hash, length] = plain
  const isCid =
    version === 1 && (codec === 0x71 || codec === 0x55) && hash === 0x12 && length === 32
  return isCid ? { $link: cidFromBytes(plain).toString() } : undefined
}

function hashesTo(record: Json, cid: string): boolean {
  try {
    return cidOf(encodeCbor(fromLexJson(record))) === cid
  } catch {
    return false // what can't be encoded is certainly not the record that was signed
  }
}
