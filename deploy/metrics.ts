/** The metrics of every service, as its own code registers them: dashboards and docs come from here. */
import type { Redis } from 'ioredis'
import type { Registry } from 'prom-client'
import { createMetrics as backfillerMetrics } from '../backfiller/metrics.ts'
import { createMetrics as indexerMetrics } from '../indexer/metrics.ts'
import { createMetrics as ingesterMetrics } from '../ingester/metrics.ts'
import { createRegistry } from '../shared/metrics.ts'
import { registerLengths } from '../shared/streams/lengths.ts'
import { streamMetrics } from '../shared/streams/metrics.ts'

export interface Metric {
  name: string
  type: 'counter' | 'gauge' | 'histogram' | 'summary'
  help: string
  labels: readonly string[]
}

export const services = ['ingester', 'indexer', 'backfiller'] as const
export type Service = (typeof services)[number]

const own: Record<Service, (registry: Registry) => unknown> = {
  ingester: ingesterMetrics,
  indexer: indexerMetrics,
  backfiller: backfillerMetrics,
}

/** What the service registers at its start, sorted by name, without those of the process itself. */
export function metricsOf(service: Service): Metric[] {
  const registry = createRegistry(service)
  own[service](registry)
  streamMetrics(registry, service)
  // Nothing is scraped here, so Redis is never asked.
  registerLengths({ redis: undefined as unknown as Redis, streams: [], registry, service })
  return registry
    .getMetricsAsArray()
    .map(describe)
    .filter(({ name }) => name.startsWith(`${service}_`) || name.startsWith('sluice_'))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
}

function describe(metric: unknown): Metric {
  const { name, help, type, labelNames } = metric as {
    name: string
    help: string
    type: Metric['type']
    labelNames: readonly string[]
  }
  return { name, help, type, labels: labelNames }
}
