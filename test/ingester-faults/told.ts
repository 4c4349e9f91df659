/** What a network told its relays, and what became of it on the stream. */
import type { LexMap } from '@atproto/lex-data'
import { expect } from 'vitest'

/**
 * Of what a relay makes up about accounts. Nobody signs such a thing: it comes through, for the indexer
 * to ask the account's host about, and must stop no commit.
 */
export const forgedTime = '2020-01-01T00:00:00.000Z'

/** An event as it stands on the stream. */
export interface Wire {
  type: string
  did: string
  time: string
  [field: string]: unknown
}

export function parse(fields: readonly string[]): Wire {
  return JSON.parse(fields[fields.indexOf('event') + 1] ?? 'null') as Wire
}

const isHint = ({ type }: Wire): boolean => type === 'account' || type === 'identity'

/** What makes an event on the stream the one that it is: of a hint all that it says. */
export function nameOf(event: Wire): string {
  const { type, did, active, status, handle, rev, collection, rkey, cid = '' } = event
  if (type === 'account') return `${did} account ${active} ${status}`
  if (type === 'identity') return `${did} identity ${handle}`
  return `${did} ${rev} ${type} ${collection}/${rkey} ${cid}`
}

/** The names of the events that a message becomes. */
export function namesOf(type: string, body: LexMap): string[] {
  const did = String(body['did'] ?? body['repo'])
  const { active, status = null, handle, rev } = body
  if (type === '#account') return [`${did} account ${active} ${status}`]
  if (type === '#identity') return [`${did} identity ${handle}`]
  if (type !== '#commit') return []
  const ops = body['ops'] as { action: string; path: string; cid: unknown }[]
  return ops.map(({ action, path, cid }) => `${did} ${rev} ${action} ${path} ${cid ?? ''}`)
}

/** What the network told its relays, and the comparison with what became of it. */
export function createTold() {
  const commits = new Map<string, string[]>()
  const hints = new Map<string, string[]>()
  const note = (type: string, body: LexMap) => {
    const did = String(body['did'] ?? body['repo'])
    addTo(type === '#commit' ? commits : hints, did, ...namesOf(type, body))
  }
  return {
    note,
    /** `resyncs`: the rev by DID that a repo must reach when it is read whole. */
    compare(events: readonly Wire[], resyncs: Readonly<Record<string, string>>) {
      const found = new Map<string, string[]>()
      const heard = new Map<string, Wire[]>()
      for (const event of events) {
        if (event.time === forgedTime) continue
        if (isHint(event)) addTo(heard, event.did, event)
        else addTo(found, event.did, nameOf(event))
      }
      for (const [did, all] of commits) {
        const list = found.get(did) ?? []
        const there = new Set(list)
        const restored = (name: string) => revOf(name) <= (resyncs[did] ?? '')
        expect(
          all.filter((name) => !there.has(name) && !restored(name)),
          `lost`,
        ).toEqual([])
        expect(list, `order of ${did}`).toEqual(all.filter((name) => there.has(name)))
        found.delete(did)
      }
      expect([...found.values()]).toEqual([])
      // A hint may come twice: whoever applies them takes the newest, whatever came how often.
      for (const [did, said] of hints) {
        const list = (heard.get(did) ?? []).toSorted(byTime)
        expect(new Set(list.map(nameOf)), did).toEqual(new Set(said))
        for (const type of ['account', 'identity']) {
          const newest = list.findLast((hint) => hint.type === type)
          expect(newest && nameOf(newest)).toBe(said.findLast((name) => name.includes(` ${type} `)))
        }
      }
    },
  }
}

function addTo<T>(lists: Map<string, T[]>, key: string, ...values: T[]): void {
  const list = lists.get(key) ?? []
  list.push(...values)
  if (list.length > 0) lists.set(key, list)
}

function byTime(a: Wire, b: Wire): number {
  return a.time < b.time ? -1 : a.time > b.time ? 1 : 0
}

/** Of the name of a commit's event. */
function revOf(name: string): string {
  return name.split(' ')[1] ?? ''
}
