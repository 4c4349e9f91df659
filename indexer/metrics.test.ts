import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { createMetrics } from './metrics.ts'

test('every name that older dashboards read is there from the start, at zero', async () => {
  const registry = new Registry()
  createMetrics(registry)
  const page = await registry.metrics()
  const counters =
    'events_processed create_events update_events delete_events repo_events account_events identity_events db_writes expected_errors unexpected_errors errors ack_failures post_events like_events repost_events follow_events block_events profile_events labels_processed labels_added labels_removed'
  for (const name of counters.split(' ')) expect(page).toContain(`\nindexer_${name}_total 0`)
  for (const name of ['pending_messages', 'active_tasks'])
    expect(page).toContain(`\nindexer_${name} 0`)
})
