/** What the relay was told, for the model, and how often each record was written or deleted. */
import type { LexMap } from '@atproto/lex-data'
import { createHeard, type Heard } from '../../simulator/model/heard.ts'

export interface Told {
  readonly heard: Heard
  /** Takes in one event of the network. */
  note: (type: string, body: LexMap) => void
  /** How often the relay was told of this record. */
  times: (uri: string) => number
}

export function createTold(): Told {
  const heard = createHeard()
  const times = new Map<string, number>()
  return {
    heard,
    note(type, body) {
      heard.note(type, body)
      if (type !== '#commit') return
      for (const { path } of body['ops'] as { path: string }[]) {
        const uri = `at://${body['repo']}/${path}`
        times.set(uri, (times.get(uri) ?? 0) + 1)
      }
    },
    times: (uri) => times.get(uri) ?? 0,
  }
}
