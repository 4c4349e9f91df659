/** From a labeler's messages to entries of `label_live`, one for each label. */
import { InvalidEventError } from '../shared/errors.ts'
import { decodeLabels, encodeLabel } from '../shared/events.ts'
import type { Logger } from '../shared/log.ts'
import { type Ipld, toLexJson } from '../shared/repo/cbor.ts'
import type { IngesterMetrics } from './metrics.ts'
import type { Translate } from './verify.ts'

/** A translation in which a label that can't be read is left out, counted, and costs no other its place. */
export function createLabelTranslation(options: {
  log: Logger
  metrics: IngesterMetrics
}): Translate {
  const { log, metrics } = options
  return async (message) => {
    if (message.type !== 'labels') return { entries: [] }
    const { seq, labels } = message
    const entries = labels.flatMap((label) => {
      try {
        return [labelEntry(label, seq)]
      } catch (error) {
        if (!(error instanceof InvalidEventError)) throw error
        metrics.droppedLabels.inc({ reason: 'invalid' })
        log.debug({ seq, err: error }, 'label refused')
        return []
      }
    })
    return { entries }
  }
}

/** The entry of a label as it came. Throws `InvalidEventError` when it is none. */
export function labelEntry(value: Ipld, seq: number): string[] {
  // Read as the indexer will read it: what passes here can't fail there.
  const event = JSON.stringify({ type: 'label', label: toLexJson(value) })
  const [label] = decodeLabels(['event', event]).labels
  if (label === undefined) throw new InvalidEventError('not a label')
  return encodeLabel(label, seq)
}
