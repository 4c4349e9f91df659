/** Counts what became of a batch, and tells of the records that were refused. */
import type { Event } from '../shared/events.ts'
import type { Logger } from '../shared/log.ts'
import type { Entry } from '../shared/streams/consumer.ts'
import type { Applied } from './apply.ts'
import type { IndexerMetrics } from './metrics.ts'
import type { Sample } from './sample.ts'

export interface Tally {
  metrics: IndexerMetrics
  log: Logger
  /** Bounds the label of collections: any other is `other`. */
  known: ReadonlySet<string>
  /** Of what may be a flood, some lines are enough. */
  sample: Sample
}

/** Every refusal is counted by collection and reason; the log has examples, and every bug of ours. */
export function tally(
  { metrics, log, known, sample }: Tally,
  entries: readonly Entry<Event>[],
  { outcomes, changes, rowsWritten }: Applied,
): void {
  metrics.events.inc(entries.length)
  metrics.rowsWritten.inc(rowsWritten)
  for (const [index, { event, id, deliveries }] of entries.entries()) {
    metrics.byType[event.type].inc()
    const outcome = outcomes[index]
    if (outcome === 'stale' && deliveries > 1) metrics.ackFailures.inc()
    if (!('collection' in event)) continue
    metrics.byCollection[event.collection]?.inc()
    const collection = known.has(event.collection) ? event.collection : 'other'
    const change = changes[index]
    if (change?.came?.altered) {
      metrics.altered.inc({ collection })
      const leftOut = sample(`altered ${collection}`)
      const fields = { entry: id, uri: change.uri, leftOut }
      if (leftOut !== null) log.info(fields, 'record altered: text that postgres can not hold')
    }
    if (typeof outcome !== 'string' || !outcome.startsWith('refused:')) continue
    const reason = outcome.slice('refused:'.length)
    metrics.refused.inc({ collection, reason })
    metrics.errors.inc()
    const isBug = reason === 'bug'
    if (isBug) metrics.unexpectedErrors.inc()
    else metrics.expectedErrors.inc()
    if (!change?.refused) continue
    const { uri, rev, refused } = change
    const fields = { entry: id, uri, rev, reason, detail: refused.detail }
    if (isBug) log.error(fields, 'record refused: a bug of ours')
    const leftOut = isBug ? null : sample(`${reason} ${collection}`)
    if (leftOut !== null) log.info({ ...fields, leftOut }, 'record refused')
  }
}
