/** The ingester's metrics. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { judgements } from '../shared/streams/chain.ts'
import { refusals } from './commit.ts'

export type IngesterMetrics = ReturnType<typeof createMetrics>

/** All metrics of the ingester; those without labels have the names that older dashboards read. */
export function createMetrics(registry: Registry) {
  const registers = [registry]
  const counter = (name: string, help: string) =>
    new Counter({ name: `ingester_${name}`, help, registers })
  const counterBy = <L extends string>(name: string, help: string, ...labelNames: L[]) =>
    new Counter({ name: `ingester_${name}`, help, labelNames, registers })
  const gauge = (name: string, help: string) =>
    new Gauge({ name: `ingester_${name}`, help, registers })
  const gaugeBy = <L extends string>(name: string, help: string, ...labelNames: L[]) =>
    new Gauge({ name: `ingester_${name}`, help, labelNames, registers })

  const newest = new Map<string, number>()
  const metrics = {
    // The names of the Rust ingester, without labels.
    firehoseEvents: counter('firehose_events_total', 'Frames received from relays.'),
    creates: counter('firehose_create_events_total', 'Create operations in scope.'),
    updates: counter('firehose_update_events_total', 'Update operations in scope.'),
    deletes: counter('firehose_delete_events_total', 'Delete operations in scope.'),
    filtered: counter('firehose_filtered_operations_total', 'Operations out of scope.'),
    streamEvents: counter('stream_events_total', 'Entries appended to firehose_live.'),
    errors: counter('errors_total', 'Frames refused, connections lost, and lists that failed.'),
    labelerEvents: counter('labeler_events_total', 'Frames received from labelers.'),
    labelsWritten: counter('labels_written_total', 'Labels appended to label_live.'),
    reposFetched: counter('backfill_repos_fetched_total', 'Repos in the lists that hosts gave us.'),
    reposWritten: counter('backfill_repos_written_total', 'Requests appended to repo_backfill.'),
    fetchErrors: counter('backfill_fetch_errors_total', 'Pages of repos that could not be had.'),
    cursorSkips: counter('backfill_cursor_skips_total', 'Repos in a list set aside as unreadable.'),
    liveLength: gauge('firehose_live_length', 'Entries on firehose_live.'),
    backfillLength: gauge('firehose_backfill_length', 'Entries on firehose_backfill.'),
    labelLength: gauge('label_live_length', 'Entries on label_live.'),
    requestLength: gauge('repo_backfill_length', 'Entries on repo_backfill.'),
    backpressure: gauge(
      'backpressure_active',
      'Sockets that are not read because a queue is full.',
    ),
    connections: gauge('websocket_connections', 'Sockets open to relays and labelers.'),
    inMemory: gauge('events_in_memory', 'Frames received and not yet durable.'),
    backfillComplete: gauge('backfill_complete', 'One when every list of repos has been read.'),
    // Ours.
    frames: counterBy('frames_total', 'Frames received, by kind.', 'kind'),
    refused: counterBy('refused_total', 'Frames refused, by reason.', 'kind', 'reason'),
    droppedOps: counterBy('dropped_operations_total', 'Operations left out, by reason.', 'reason'),
    verified: counterBy(
      'commits_verified_total',
      'Commits whose signature holds: proven, or unproven for lack of prevData or by setting.',
      'proof',
    ),
    unverified: counter(
      'commits_unverified_total',
      'Commits accepted without a check of their signature.',
    ),
    syncs: counterBy('sync_frames_total', 'Sync frames, by result.', 'result'),
    duplicates: counter('duplicate_frames_total', 'Frames that a replay sent again.'),
    unavailable: counter(
      'keys_unavailable_total',
      'Commits whose key could not be had within 5 s.',
    ),
    refreshes: counter('identity_refreshes_total', 'Identities looked up again for a commit.'),
    lookUps: counter(
      'identity_look_ups_total',
      'Identities asked of the directory or of their hosts.',
    ),
    identitiesCached: gauge('identities_cached', 'Accounts whose signing key is in memory.'),
    unproved: gauge(
      'unproved_repos',
      'Repos with a commit that nobody could verify, to be proved.',
    ),
    proofs: counterBy(
      'late_proofs_total',
      'Commits verified after they were let through or refused for want of a key, by result.',
      'result',
    ),
    droppedLabels: counterBy('dropped_labels_total', 'Labels left out, by reason.', 'reason'),
    brokenFrames: counter('broken_frames_total', 'Frames that could not be decoded.'),
    deadFrames: counter('dead_frames_total', 'Broken frames set aside in a dead-letter stream.'),
    outdated: counter('outdated_cursors_total', 'Times that a host no longer had our position.'),
    future: counter('future_cursors_total', 'Times that a host said our position is ahead of it.'),
    doubted: counterBy(
      'doubted_positions_total',
      'Positions not believed (held) or believed wrongly (corrects).',
      'claim',
    ),
    chain: counterBy(
      'chain_links_total',
      'Commits and syncs by what they are to the chain of their repo; duplicates are dropped.',
      'judgement',
    ),
    resyncsRequested: counter('resyncs_requested_total', 'Resyncs put on repo_backfill.'),
    resyncsWaiting: gauge('resyncs_waiting', 'Repos whose resync is not requested yet.'),
    resyncs: gauge('resyncs', 'Repos whose resync is under way, requested or not.'),
    openGaps: gauge('open_gaps', 'Gaps in the ledger that no pass has closed.'),
    discoveredRepos: gauge('discovered_repos', 'Repos found in the lists of hosts.'),
    discoverySeconds: gauge(
      'discovery_left_seconds',
      'Estimated time until the lists of all hosts are read.',
    ),
    discoveredHosts: gaugeBy('discovered_hosts', 'Hosts whose lists are read, by state.', 'state'),
    disconnects: counterBy('disconnects_total', 'Connections ended, by reason.', 'reason'),
    /** When each host saw its newest event that is durable. */
    newest,
    lag: new Gauge({
      name: 'ingester_source_lag_seconds',
      help: 'Age of the newest durable event of a host.',
      labelNames: ['host'],
      registers,
      // As it is read: of a relay that is dead it grows.
      collect() {
        for (const [host, time] of newest) {
          this.set({ host }, Math.max(0, (Date.now() - time) / 1_000))
        }
      },
    }),
    position: gaugeBy('source_seq', 'The newest durable position at a host.', 'host', 'stream'),
    append: new Histogram({
      name: 'ingester_append_seconds',
      help: 'Time to make a batch durable, waiting included.',
      buckets: [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60],
      registers,
    }),
  }
  // A series that is absent until something goes wrong can't be told from one that is broken.
  for (const judgement of judgements) metrics.chain.inc({ judgement }, 0)
  for (const reason of refusals) metrics.refused.inc({ kind: 'commit', reason }, 0)
  for (const proof of ['proven', 'unproven'] as const) metrics.verified.inc({ proof }, 0)
  return metrics
}
