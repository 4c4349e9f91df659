/** What the screen of `npm start` shows. Pure. */
import type { Style } from './view-text.ts'
import type { Service } from './worker.ts'

/** How a worker or a server is; `away` once lived and does not answer. */
export type Condition = 'starting' | 'ready' | 'waiting' | 'away' | 'ended'

export const conditions: Readonly<Record<Condition, readonly [text: string, style: Style]>> = {
  starting: ['◌ starting', 'dim'],
  ready: ['● ready', 'good'],
  waiting: ['◐ waiting', 'warn'],
  away: ['✕ no reply', 'bad'],
  ended: ['✕ ended', 'bad'],
}

/** `failing` while it lasts, `healing` until all works again, `stuck` when that takes too long. */
export type FaultStage = 'failing' | 'healing' | 'healed' | 'stuck'

export interface ShownFault {
  /** The time of day. */
  at: string
  text: string
  stage: FaultStage
  /** Since it began, or until it had healed. */
  seconds: number
}

/** What the screen shows; null is what is not known yet. */
export interface ViewState {
  title: string
  stage: 'starting' | 'running' | 'stopping'
  upSeconds: number
  workers: Readonly<Record<Service, Condition>>
  servers: Readonly<Record<'redis' | 'postgres', Condition>>
  /** Each a second. */
  rates: Readonly<Record<'frames' | 'labels' | 'repos' | 'events', number | null>>
  /** Events a second, one value a second, newest last. */
  history: readonly number[]
  peak: number
  /** Entries of each stream that are not acknowledged. */
  waiting: Readonly<Record<'live' | 'labels' | 'backfill' | 'requests', number | null>>
  /** Age of the newest event that is durable. */
  behindSeconds: number | null
  /** Rows by table; `record` is all of them. */
  rows: Readonly<Record<string, number>>
  /** Null while nobody has asked for a repo. */
  backfill: { done: number; total: number; leftSeconds: number | null } | null
  deadLetters: number | null
  /** Where things can be reached on this machine, by name. */
  ports: readonly (readonly [name: string, ports: readonly number[]])[]
  faults: readonly ShownFault[]
  log: readonly string[]
  footer: string
}
