/**
 * The two families of older workers as the streams show them, in our own words: T, the TypeScript
 * set, and R, the Rust set. Reading is as strict as theirs: what one of them could not have read ends
 * the stand-in.
 */
import { parseCid } from '../../../shared/repo/cid.ts'

export type Family = 'T' | 'R'
export type Json = Record<string, unknown>

/** Exit code of a stand-in that was given what its family can't read. */
export const unreadable = 3

/** The marker of what a backfill found. */
export const backfillSeq: Readonly<Record<Family, number>> = { T: -2, R: -1 }

/** Links and bytes as lists of numbers, as R writes them on the live stream. */
export function asNumbers(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(asNumbers)
  const { $link: link, $bytes: bytes } = value as Json
  if (typeof link === 'string') return [0, ...parseCid(link).bytes]
  if (typeof bytes === 'string') return [...Buffer.from(bytes, 'base64')]
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, asNumbers(item)]))
}

let written = 0
/** R takes its own clock, in as many digits as its library finds needful: 0 to 9. */
export function clockOfR(now = new Date()): string {
  const digits = `${String(now.getMilliseconds()).padStart(3, '0')}417309`.slice(0, written++ % 10)
  return `${now.toISOString().slice(0, 19)}${digits === '' ? '' : `.${digits}`}+00:00`
}

/** The time of an event: T has the relay's. */
export function timeOf(family: Family, relayTime: string): string {
  return family === 'T' ? relayTime : clockOfR()
}

const required: Readonly<Record<string, readonly string[]>> = {
  create: ['seq', 'time', 'did', 'commit', 'rev', 'collection', 'rkey', 'cid', 'record'],
  update: ['seq', 'time', 'did', 'commit', 'rev', 'collection', 'rkey', 'cid', 'record'],
  delete: ['seq', 'time', 'did', 'commit', 'rev', 'collection', 'rkey'],
  repo: ['time', 'did', 'commit', 'rev'],
  account: ['seq', 'time', 'did'],
  identity: ['seq', 'time', 'did'],
}
const statuses = ['takendown', 'suspended', 'deleted', 'deactivated', 'desynchronized', 'throttled']

/** Reads an event as this family does, or throws. */
export function readEvent(family: Family, text: string): Json & { type: string } {
  const json = JSON.parse(text) as Json & { type: string }
  const keys = required[json.type]
  if (keys === undefined) throw new Error(`no such type: ${text}`)
  for (const key of keys) if (json[key] === undefined) throw new Error(`no ${key}: ${text}`)
  if (json.type !== 'account') return json
  const { active, status } = json
  if (family === 'R' && typeof active !== 'boolean') throw new Error(`no active: ${text}`)
  const known = family === 'T' ? statuses : [...statuses, ...statuses.map(capital)]
  if (status != null && !known.includes(String(status))) throw new Error(`no status: ${text}`)
  return json
}

/** `Takendown` */
export function capital(status: string): string {
  return status.slice(0, 1).toUpperCase() + status.slice(1)
}

/** Says something that a test waits for. */
export function say(what: string): void {
  process.stdout.write(`${what}\n`)
}

/** T counts its workers in words; R's have its name in theirs. */
export function consumerOf(family: Family, name: string): string {
  const number = Number(name.at(-1)) || 1
  if (family === 'T') return ['one', 'two'][number - 1] ?? 'more'
  return `rust-${name.replace(/^old-/, '')}`
}
