import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { createMetrics } from './metrics.ts'

/** The names that dashboards and alerts of the older workers read (contract: streams, 5). */
const contract = `
  firehose_events_total firehose_create_events_total firehose_update_events_total
  firehose_delete_events_total firehose_filtered_operations_total stream_events_total errors_total
  labeler_events_total labels_written_total backfill_repos_fetched_total
  backfill_repos_written_total backfill_fetch_errors_total backfill_cursor_skips_total
  firehose_live_length firehose_backfill_length label_live_length repo_backfill_length
  backpressure_active websocket_connections events_in_memory backfill_complete
`

test('every name of the older dashboards is there from the start, without labels', async () => {
  const registry = new Registry()
  createMetrics(registry)
  const page = (await registry.metrics()).split('\n')
  const names = contract.trim().split(/\s+/)
  const absent = names.filter((name) => !page.includes(`ingester_${name} 0`))
  expect(absent).toEqual([])
})
