/** Dead letters as operators deal with them: found, counted, appended again, thrown away. */
import type { Redis } from 'ioredis'
import { isDid } from '../repo/syntax.ts'
import { deadLetterStream, streams } from './names.ts'
import { script } from './script.ts'

const requeueLetter = script('letter_requeue.lua')
const pageEntries = 500

/** An entry of a dead-letter stream. */
export interface Letter {
  /** The dead-letter stream that it is on. */
  on: string
  id: string
  /** What the older backfillers wrote has `repo`, `reason` and `attempts` only. */
  fields: Readonly<Record<string, string>>
  reason: string
  /** Of a repo: the host that was asked; else the relay where that is known; or ''. */
  host: string
  /** Of whose repo it is; '' where nobody can tell, as of labels. */
  did: string
  /** When it was set aside, in milliseconds since 1970. */
  failedAt: number
}

/** What is asked of letters; what is left out is not asked. */
export interface Wanted {
  reason?: string
  host?: string
  did?: string
  /** Set aside before, and after, these times. */
  before?: number
  after?: number
}

/** The dead-letter streams that the workers have. */
export const letterStreams: readonly string[] = [
  streams.live,
  streams.backfill,
  streams.labels,
  streams.requests,
].map(deadLetterStream)

/** The letters of a stream that are wanted, the oldest first; those written meanwhile are left out. */
export async function* findLetters(
  redis: Redis,
  on: string,
  wanted: Wanted,
): AsyncGenerator<Letter, void, undefined> {
  const [last] = await redis.xrevrange(on, '+', '-', 'COUNT', 1)
  if (last === undefined) return
  for (let after = '-'; ; ) {
    const page = await redis.xrange(on, after, last[0], 'COUNT', pageEntries)
    for (const [id, fields] of page) {
      const letter = letterOf(on, id, fields)
      if (isWanted(letter, wanted)) yield letter
    }
    const end = page.at(-1)
    if (end === undefined || page.length < pageEntries) return
    after = `(${end[0]}`
  }
}

/** One letter; null where it is not. Of two streams each may have a letter of the same id. */
export async function readLetter(redis: Redis, on: string, id: string): Promise<Letter | null> {
  const [found] = await redis.xrange(on, id, id)
  return found === undefined ? null : letterOf(on, ...found)
}

function letterOf(on: string, id: string, flat: readonly string[]): Letter {
  const fields: Record<string, string> = {}
  for (let at = 0; at + 1 < flat.length; at += 2) fields[flat[at] ?? ''] = flat[at + 1] ?? ''
  const event = eventOf(fields)
  const failedAt = Date.parse(fields['failed_at'] ?? '')
  return {
    ...{ on, id, fields },
    reason: fields['reason'] ?? '',
    host: fields['host'] ?? '',
    did: fields['did'] ?? textOf(event?.['did']) ?? didOfFrame(fields['frame'] ?? ''),
    // Redis gives the time of writing where nobody else does.
    failedAt: Number.isNaN(failedAt) ? Number(id.split('-')[0]) : failedAt,
  }
}

const textOf = (value: unknown) => (typeof value === 'string' ? value : null)

/** Key and length of the CBOR text that names the account: `repo` in a commit, `did` elsewhere. */
const accountInFrame = /(?:drepo|cdid)(?:x(.)|([`-w]))(did:[a-z]+:[\w.:%-]+)/s

/** The account that a frame is about, though nobody can decode it; '' where that can't be read either. */
function didOfFrame(base64: string): string {
  const bytes = Buffer.from(base64, 'base64').toString('latin1')
  const [, long, short, text = ''] = accountInFrame.exec(bytes) ?? []
  const length = long?.charCodeAt(0) ?? (short?.charCodeAt(0) ?? 0x60) - 0x60
  const did = text.slice(0, length)
  return isDid(did) ? did : ''
}

function eventOf(fields: Readonly<Record<string, string>>): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(fields['repo'] ?? fields['event'] ?? 'null')
    return typeof value === 'object' ? (value as Record<string, unknown> | null) : null
  } catch {
    return null
  }
}

/** Whether it is what was asked for. */
export function isWanted(letter: Letter, { reason, host, did, before, after }: Wanted): boolean {
  return (
    (reason === undefined || letter.reason === reason) &&
    (host === undefined || letter.host === host) &&
    (did === undefined || letter.did === did) &&
    (before === undefined || letter.failedAt < before) &&
    (after === undefined || letter.failedAt >= after)
  )
}

/** What entries carry; all else in a letter was added when it was set aside. */
const original = ['repo', 'event', 'labels', 'seq']
/** What a request has gathered on its way: it begins anew. */
const gathered = ['attempts', 'first_failed_at', 'not_before', 'pds']

/** The fields that the entry had, or null for what never was one, such as a frame. */
export function originalFields({ fields }: Letter): string[] | null {
  const kept = Object.entries(fields).filter(([name]) => original.includes(name))
  if (kept.length === 0) return null
  return kept.flatMap(([name, value]) => [name, name === 'repo' ? afresh(value) : value])
}

function afresh(request: string): string {
  try {
    const kept = Object.entries(JSON.parse(request)).filter(([name]) => !gathered.includes(name))
    return JSON.stringify(Object.fromEntries(kept))
  } catch {
    return request
  }
}

/** Appends a letter's entry to its stream again, and removes the letter: false when it can't be, or is gone. */
export async function requeueLetterAgain(redis: Redis, letter: Letter): Promise<boolean> {
  const fields = originalFields(letter)
  if (fields === null) return false
  const stream = letter.fields['stream'] ?? letter.on.replace(/_dlq$/, '')
  return (await requeueLetter(redis, [letter.on, stream], [letter.id, ...fields])) !== ''
}

/** Removes letters; gives how many were there. */
export function dropLetters(redis: Redis, on: string, ids: readonly string[]): Promise<number> {
  return ids.length === 0 ? Promise.resolve(0) : redis.xdel(on, ...ids)
}
