/** The indexer's metrics. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'

export type IndexerMetrics = ReturnType<typeof createMetrics>

/** All metrics of the indexer; those without labels have the names that older dashboards read. */
export function createMetrics(registry: Registry) {
  const registers = [registry]
  const counter = (name: string, help: string) =>
    new Counter({ name: `indexer_${name}`, help, registers })
  const counterBy = <L extends string>(name: string, help: string, ...labelNames: L[]) =>
    new Counter({ name: `indexer_${name}`, help, labelNames, registers })
  const gauge = (name: string, help: string) =>
    new Gauge({ name: `indexer_${name}`, help, registers })

  return {
    events: counter('events_processed_total', 'Events with an outcome, redelivered ones included.'),
    byType: {
      create: counter('create_events_total', 'Create events with an outcome.'),
      update: counter('update_events_total', 'Update events with an outcome.'),
      delete: counter('delete_events_total', 'Delete events with an outcome.'),
      repo: counter('repo_events_total', 'Repo events with an outcome.'),
      account: counter('account_events_total', 'Account events with an outcome.'),
      identity: counter('identity_events_total', 'Identity events with an outcome.'),
    },
    byCollection: {
      'app.bsky.feed.post': counter('post_events_total', 'Events about posts.'),
      'app.bsky.feed.like': counter('like_events_total', 'Events about likes.'),
      'app.bsky.feed.repost': counter('repost_events_total', 'Events about reposts.'),
      'app.bsky.graph.follow': counter('follow_events_total', 'Events about follows.'),
      'app.bsky.graph.block': counter('block_events_total', 'Events about blocks.'),
      'app.bsky.actor.profile': counter('profile_events_total', 'Events about profiles.'),
    } as Readonly<Record<string, Counter>>,
    rowsWritten: counter('db_writes_total', 'Records written to or removed from Postgres.'),
    expectedErrors: counter('expected_errors_total', 'Records refused for what they hold.'),
    unexpectedErrors: counter(
      'unexpected_errors_total',
      'Batches that failed and were tried again or halved, and records refused as a bug of ours.',
    ),
    errors: counter('errors_total', 'Expected and unexpected errors together.'),
    ackFailures: counter(
      'ack_failures_total',
      'Entries applied that were delivered again: their acknowledgement had not reached Redis.',
    ),
    labelsProcessed: counter('labels_processed_total', 'Labels with an outcome.'),
    labelsAdded: counter('labels_added_total', 'Labels that were put on something.'),
    labelsRemoved: counter('labels_removed_total', 'Labels that were taken back.'),
    pending: gauge('pending_messages', 'Entries delivered to our groups and not acknowledged.'),
    active: gauge('active_tasks', 'Transactions in hand.'),
    refused: counterBy(
      'records_refused_total',
      'Records that are not stored, by collection and reason.',
      'collection',
      'reason',
    ),
    altered: counterBy(
      'records_altered_total',
      'Records stored without text that Postgres can not hold, by collection.',
      'collection',
    ),
    applySeconds: new Histogram({
      name: 'indexer_apply_seconds',
      help: 'How long the transaction of a batch took.',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    }),
    handles: counterBy('handles_resolved_total', 'Handles looked at, by result.', 'result'),
    purges: counterBy(
      'purges_total',
      'Accounts said to be deleted: what their host answered (hosted, gone, unsure), and those purged.',
      'result',
    ),
    handlesQueued: gauge('handles_queued', 'Accounts in hand whose handle is to be looked at.'),
  }
}
