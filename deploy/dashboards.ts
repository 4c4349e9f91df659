/**
 * The Grafana dashboards, made from what the workers register: a panel that names a metric which
 * does not exist fails `npm run docs`.
 */
import { metricsOf, type Service, services } from './metrics.ts'

interface Target {
  /** PromQL. */
  expr: string
  legend: string
}

interface PanelPlan {
  title: string
  unit: 'short' | 's' | 'bytes' | 'ops' | 'percentunit'
  targets: readonly Target[]
}

interface DashboardPlan {
  uid: string
  title: string
  panels: readonly PanelPlan[]
}

/** What Grafana reads from a provisioned file. */
export interface Dashboard {
  uid: string
  title: string
  [key: string]: unknown
}

const streamsOf = (service: Service): PanelPlan[] => [
  panel('Lag of the groups', 'short', [
    `max by (stream, group) (${service}_stream_lag_entries)`,
    '{{stream}} {{group}}',
  ]),
  panel('Oldest pending entry', 's', [
    `max by (stream, group) (${service}_stream_oldest_pending_seconds)`,
    '{{stream}} {{group}}',
  ]),
  panel('Outcomes of entries', 'ops', [
    `sum by (stream, outcome) (rate(${service}_stream_outcomes_total[1m]))`,
    '{{stream}} {{outcome}}',
  ]),
  panel('Dead letters', 'ops', [
    `sum by (stream, reason) (rate(${service}_stream_dead_letters_total[5m]))`,
    '{{stream}} {{reason}}',
  ]),
]

const processOf = (service: Service): PanelPlan[] => [
  panel('CPU', 'percentunit', [
    `rate(process_cpu_seconds_total{job="${service}"}[1m])`,
    '{{instance}}',
  ]),
  panel('Memory', 'bytes', [`process_resident_memory_bytes{job="${service}"}`, '{{instance}}']),
]

const plans: readonly DashboardPlan[] = [
  {
    uid: 'sluice-overview',
    title: 'Sluice: overview',
    panels: [
      panel(
        'Events a second',
        'ops',
        ['sum(rate(ingester_stream_events_total[1m]))', 'appended'],
        ['sum(rate(indexer_events_processed_total[1m]))', 'processed'],
      ),
      panel('Age of the newest durable event, by host', 's', [
        'ingester_source_lag_seconds',
        '{{host}}',
      ]),
      panel('Lag of the groups', 'short', [
        'max by (stream, group) (ingester_stream_lag_entries)',
        '{{stream}} {{group}}',
      ]),
      panel('Entries in the streams', 'short', [
        'max by (stream) (ingester_stream_length_entries)',
        '{{stream}}',
      ]),
      panel(
        'Dead letters a second',
        'ops',
        [
          'sum by (stream, reason) (rate(indexer_stream_dead_letters_total[5m]))',
          'indexer {{stream}} {{reason}}',
        ],
        [
          'sum by (stream, reason) (rate(backfiller_stream_dead_letters_total[5m]))',
          'backfiller {{stream}} {{reason}}',
        ],
      ),
      panel('Entries that the ledgers lack', 'short', [
        'max by (stream, group) (abs(ingester_stream_ledger_off_entries))',
        '{{stream}} {{group}}',
      ]),
      panel(
        'Repos a minute',
        'short',
        ['sum(rate(backfiller_repos_processed_total[5m])) * 60', 'done'],
        ['sum(rate(backfiller_repos_failed_total[5m])) * 60', 'failed tries'],
      ),
      panel('Requests that wait', 'short', ['max(backfiller_repos_waiting)', 'waiting']),
    ],
  },
  {
    uid: 'sluice-ingester',
    title: 'Sluice: ingester',
    panels: [
      panel('Frames a second, by kind', 'ops', [
        'sum by (kind) (rate(ingester_frames_total[1m]))',
        '{{kind}}',
      ]),
      panel('Frames refused, by reason', 'ops', [
        'sum by (kind, reason) (rate(ingester_refused_total[5m]))',
        '{{kind}} {{reason}}',
      ]),
      panel(
        'Commits verified',
        'ops',
        ['sum by (proof) (rate(ingester_commits_verified_total[1m]))', '{{proof}}'],
        ['sum(rate(ingester_commits_unverified_total[1m]))', 'unverified'],
      ),
      panel(
        'Sockets',
        'short',
        ['ingester_websocket_connections', 'open'],
        ['ingester_backpressure_active', 'not read: a queue is full'],
      ),
      panel('Time to make a batch durable (p99)', 's', [
        'histogram_quantile(0.99, sum by (le) (rate(ingester_append_seconds_bucket[5m])))',
        'p99',
      ]),
      ...streamsOf('ingester').slice(0, 2),
      ...processOf('ingester'),
    ],
  },
  {
    uid: 'sluice-indexer',
    title: 'Sluice: indexers',
    panels: [
      panel('Events a second, by indexer', 'ops', [
        'sum by (instance) (rate(indexer_events_processed_total[1m]))',
        '{{instance}}',
      ]),
      panel('Time of a transaction (p99)', 's', [
        'histogram_quantile(0.99, sum by (le, instance) (rate(indexer_apply_seconds_bucket[5m])))',
        '{{instance}}',
      ]),
      panel('Records refused, by reason', 'ops', [
        'sum by (collection, reason) (rate(indexer_records_refused_total[5m]))',
        '{{collection}} {{reason}}',
      ]),
      panel('Handles looked at', 'ops', [
        'sum by (result) (rate(indexer_handles_resolved_total[5m]))',
        '{{result}}',
      ]),
      ...streamsOf('indexer'),
      ...processOf('indexer'),
    ],
  },
  {
    uid: 'sluice-backfiller',
    title: 'Sluice: backfillers',
    panels: [
      panel('Repos a minute', 'short', [
        'sum by (instance) (rate(backfiller_repos_processed_total[5m])) * 60',
        '{{instance}}',
      ]),
      panel(
        'Repos in hand',
        'short',
        ['sum(backfiller_repos_running)', 'running'],
        ['sum(backfiller_repos_sleeping)', 'waiting for another try'],
      ),
      panel('Records a second', 'ops', [
        'sum(rate(backfiller_records_extracted_total[1m]))',
        'out',
      ]),
      panel('Bytes a second', 'bytes', ['sum(rate(backfiller_car_bytes_total[1m]))', 'CARs']),
      panel('Failures, by reason', 'ops', [
        'sum by (reason, kind) (rate(backfiller_failures_total[5m]))',
        '{{kind}} {{reason}}',
      ]),
      panel('Ended without a fault', 'ops', [
        'sum by (state) (rate(backfiller_repos_ended_total[5m]))',
        '{{state}}',
      ]),
      ...streamsOf('backfiller'),
      ...processOf('backfiller'),
    ],
  },
]

const columns = 2
const size = { w: 12, h: 8 }
const source = { type: 'prometheus', uid: 'prometheus' }

/** All dashboards. Throws when a panel names a metric that no worker registers. */
export function dashboards(): Dashboard[] {
  const known = new Set(services.flatMap((service) => metricsOf(service).map(({ name }) => name)))
  return plans.map(({ uid, title, panels }) => ({
    uid,
    title,
    tags: ['sluice'],
    schemaVersion: 39,
    editable: false,
    refresh: '15s',
    time: { from: 'now-3h', to: 'now' },
    panels: panels.map((plan, index) => drawn(plan, index, known)),
  }))
}

function drawn({ title, unit, targets }: PanelPlan, index: number, known: ReadonlySet<string>) {
  for (const { expr } of targets) requireKnown(title, expr, known)
  return {
    id: index + 1,
    type: 'timeseries',
    title,
    datasource: source,
    gridPos: { ...size, x: (index % columns) * size.w, y: Math.floor(index / columns) * size.h },
    fieldConfig: { defaults: { unit, min: 0 }, overrides: [] },
    targets: targets.map(({ expr, legend }, number) => ({
      refId: String.fromCharCode(65 + number),
      expr,
      legendFormat: legend,
      datasource: source,
    })),
  }
}

/** The names of metrics of ours in a PromQL expression. */
export function namesIn(expr: string): string[] {
  const prefix = `(?:${[...services, 'sluice'].join('|')})`
  return [...expr.matchAll(new RegExp(`\\b${prefix}_[a-z0-9_]+`, 'g'))].map(([name]) =>
    name.replace(/_(bucket|sum|count)$/, ''),
  )
}

function requireKnown(title: string, expr: string, known: ReadonlySet<string>): void {
  for (const name of namesIn(expr)) {
    if (!known.has(name)) throw new Error(`panel "${title}": no worker registers ${name}`)
  }
}

function panel(
  title: string,
  unit: PanelPlan['unit'],
  ...targets: readonly (readonly [expr: string, legend: string])[]
): PanelPlan {
  return { title, unit, targets: targets.map(([expr, legend]) => ({ expr, legend })) }
}
