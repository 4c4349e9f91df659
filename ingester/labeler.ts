/** From a labeler's messages to entries of `label_live`, one for each label. */
import { errorText, InvalidEventError } from '../shared/errors.ts'
import { decodeLabels, encodeLabel, type Label } from '../shared/events.ts'
import { type Account, type Identity, IdentityError } from '../shared/identity.ts'
import type { Logger } from '../shared/log.ts'
import { encodeCbor, type Ipld, isMap, toLexJson } from '../shared/repo/cbor.ts'
import { createBudget } from './budget.ts'
import type { DeadLetters } from './dead-letter.ts'
import type { IngesterMetrics } from './metrics.ts'
import { isSignedBy } from './prove.ts'
import type { Translate } from './verify.ts'

/** Labels wait so long for the key of their labeler; then they are taken without. */
const keyWithinMs = 5_000
/** What forged labels cost the directory: one look in this time for each labeler. */
const refreshEveryMs = 10_000
/** A labeler whose document can't be had is asked for again after this. */
const awayMs = 60_000
const awayRemembered = 1_000

export interface LabelOptions {
  identity: Pick<Identity, 'resolve'>
  deadLetters: DeadLetters
  signal: AbortSignal
  log: Logger
  metrics: IngesterMetrics
  now?: () => number
}

/**
 * A translation in which a label that is none, or whose signature does not hold, is left out and
 * counted, and costs no other its place; the former is set aside too. Labels without a signature are
 * taken: most labelers sign, and none must.
 */
export function createLabelTranslation(options: LabelOptions): Translate {
  const { identity, deadLetters, signal, log, metrics, now = Date.now } = options
  const budget = { perSecond: 20, most: 100, eachMs: refreshEveryMs, now }
  const refreshes = createBudget(budget)
  const away = new Map<string, number>()

  /** Null when nobody can say in time. */
  const accountOf = async (src: string, refresh: boolean): Promise<Account | null> => {
    if (!refresh && (away.get(src) ?? 0) > now()) return null
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(keyWithinMs)])
    try {
      return await identity.resolve(src, { refresh, signal: deadline })
    } catch (error) {
      signal.throwIfAborted()
      if (!deadline.aborted && !(error instanceof IdentityError)) throw error
      if (error instanceof IdentityError && error.kind !== 'unavailable') return noAccount(src)
      if (away.size >= awayRemembered) away.clear()
      away.set(src, now() + awayMs)
      metrics.unavailable.inc()
      return null
    }
  }

  const isSigned = async (src: string, value: Ipld): Promise<boolean> => {
    const signed = signedPart(value)
    if (signed === null) return true
    const holds = (account: Account | null) =>
      account === null || isSignedBy(account.labelKey ?? null, signed)
    if (holds(await accountOf(src, false))) return true
    if (refreshes.take(src) !== 'taken') return false
    metrics.refreshes.inc()
    return holds(await accountOf(src, true))
  }

  const leaveOut = (reason: string, seq: number, error: unknown): void => {
    metrics.droppedLabels.inc({ reason })
    log.debug({ seq, reason, err: error }, 'a label was left out')
  }

  const entryOf = async (value: Ipld, seq: number): Promise<string[] | null> => {
    let label: Label
    try {
      label = readLabel(value)
    } catch (error) {
      if (!(error instanceof InvalidEventError)) throw error
      leaveOut('invalid', seq, error)
      const fault = { reason: 'label', error: errorText(error), seq: String(seq) }
      const json = JSON.stringify(toLexJson(value)).slice(0, mostText)
      await deadLetters.write({ label: json, ...fault, consumer: 'ingester' })
      return null
    }
    if (await isSigned(label.src, value)) return encodeLabel(label, seq, now())
    leaveOut('signature', seq, null)
    return null
  }

  return async (message) => {
    if (message.type !== 'labels') return { entries: [] }
    const { seq, labels } = message
    const entries: string[][] = []
    for (const label of labels) {
      const entry = await entryOf(label, seq)
      if (entry !== null) entries.push(entry)
    }
    return { entries }
  }
}

const mostText = 64 * 1024

/** The label as the indexer will read it: what passes here can't fail there. Throws `InvalidEventError`. */
export function readLabel(value: Ipld): Label {
  const [label] = decodeLabels([
    'event',
    JSON.stringify({ type: 'label', label: toLexJson(value) }),
  ]).labels
  if (label === undefined) throw new InvalidEventError('not a label')
  encodeLabel(label, 0)
  return label
}

/** What a label's signature covers: all but itself (spec: label, "Signatures"). Null without one. */
function signedPart(value: Ipld): { unsigned: Uint8Array; sig: Uint8Array } | null {
  if (!isMap(value)) return null
  const { sig, ...rest } = value
  if (sig === undefined || sig === null) return null
  const bytes = sig instanceof Uint8Array ? sig : new Uint8Array()
  return { unsigned: encodeCbor(rest), sig: bytes }
}

function noAccount(did: string): Account {
  return { did, handle: null, pds: null, signingKey: null }
}
