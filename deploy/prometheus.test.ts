/** The alerts, by Prometheus's own tool, and whether they and the dashboards speak of metrics that exist. */
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, inject, test } from 'vitest'
import { run } from '../start/process.ts'
import { startPipeline } from '../test/pipeline.ts'
import { findTool } from '../test/servers/tool.ts'
import { dashboards, namesIn } from './dashboards.ts'
import { metricsOf, type Service, services } from './metrics.ts'

const folder = fileURLToPath(new URL('./prometheus/', import.meta.url))

async function promtool(...args: string[]) {
  const tool = await findTool('promtool', [
    { packages: ['prometheus'], program: 'usr/bin/promtool' },
  ])
  return run(tool.command, args, { cwd: folder, timeoutMs: 30_000, env: tool.env })
}

const rules = await readFile(`${folder}rules.yml`, 'utf8')

/** Names in a matcher such as `{__name__=~"(a|b)_c"}`, written out. */
function written(text: string): string {
  return text.replaceAll(/\{__name__=~"\(([a-z|]+)\)(\w+)"\}/g, (_, names: string, rest: string) =>
    names
      .split('|')
      .map((name) => name + rest)
      .join(' '),
  )
}

test.each(['prometheus.yml', 'small.yml'])(
  'Prometheus takes the configuration %s',
  async (file) => {
    const { code, stdout, stderr } = await promtool('check', 'config', file)
    expect(stdout + stderr).not.toContain('FAILED')
    expect(code).toBe(0)
  },
)

test('every alert fires when it should, and not before', async () => {
  const { code, stdout, stderr } = await promtool('test', 'rules', 'rules.test.yml')
  expect(stdout + stderr).toContain('SUCCESS')
  expect(code).toBe(0)
})

test('every alert has its test', async () => {
  const tests = await readFile(`${folder}rules.test.yml`, 'utf8')
  const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name)
  expect(alerts.length).toBeGreaterThan(10)
  expect([...tests.matchAll(/- name: (\w+)/g)].map(([, name]) => name)).toEqual(alerts)
})

test('every metric of an alert exists', () => {
  const known = services.flatMap((service) => metricsOf(service).map(({ name }) => name))
  const names = namesIn(written(rules))
  expect(names.length).toBeGreaterThan(10)
  expect(names.filter((name) => !known.includes(name))).toEqual([])
})

test('every panel has an expression that Prometheus can read', async () => {
  const exprs = dashboards().flatMap(({ panels }) =>
    (panels as { targets: { expr: string }[] }[]).flatMap(({ targets }) =>
      targets.map(({ expr }) => expr),
    ),
  )
  expect(exprs.length).toBeGreaterThan(30)
  // A recording rule is the one place where this promtool reads a bare expression; YAML reads JSON.
  const recorded = exprs.map((expr, index) => ({ record: `panel:${index}`, expr }))
  const file = join(await mkdtemp(join(inject('servers').folder, 'panels-')), 'panels.yml')
  await writeFile(file, JSON.stringify({ groups: [{ name: 'panels', rules: recorded }] }))
  const { stdout, stderr } = await promtool('check', 'rules', file)
  expect(stdout + stderr).toContain(`SUCCESS: ${exprs.length} rules found`)
})

/** What dashboards and alerts of the older workers read. */
const olderNames: Record<Service, string> = {
  ingester: `firehose_events_total firehose_create_events_total firehose_update_events_total
    firehose_delete_events_total firehose_filtered_operations_total stream_events_total errors_total
    labeler_events_total labels_written_total backfill_repos_fetched_total
    backfill_repos_written_total backfill_fetch_errors_total backfill_cursor_skips_total
    firehose_live_length firehose_backfill_length label_live_length repo_backfill_length
    backpressure_active websocket_connections events_in_memory backfill_complete`,
  backfiller: `repos_processed_total repos_failed_total repos_dead_lettered_total
    records_extracted_total records_filtered_total retries_attempted_total car_fetch_errors_total
    car_parse_errors_total verification_errors_total repos_waiting repos_running
    output_stream_length`,
  indexer: `events_processed_total create_events_total update_events_total delete_events_total
    repo_events_total account_events_total identity_events_total db_writes_total
    expected_errors_total unexpected_errors_total errors_total ack_failures_total post_events_total
    like_events_total repost_events_total follow_events_total block_events_total
    profile_events_total labels_processed_total labels_added_total labels_removed_total
    pending_messages active_tasks`,
}

test.each(services)('the %s has every name of the older dashboards, without labels', (service) => {
  const plain = metricsOf(service).filter(({ labels }) => labels.length === 0)
  const names = plain.map(({ name }) => name)
  const older = olderNames[service].split(/\s+/).map((name) => `${service}_${name}`)
  expect(older.filter((name) => !names.includes(name))).toEqual([])
})

test.each(services)('the table has exactly what the %s serves', async (service: Service) => {
  await using pipeline = await startPipeline()
  const name = { indexer: 'INDEXER_CONSUMER', backfiller: 'BACKFILLER_CONSUMER', ingester: 'NONE' }
  const worker = await pipeline.start(service, { [name[service]]: 'table' })
  const table = metricsOf(service).map((metric) => metric.name)
  await expect.poll(() => served(worker.metricsUrl)).toEqual(table)
})

/** The names of ours on the page. */
async function served(url: string): Promise<string[]> {
  const page = await (await fetch(url)).text()
  const names = [...page.matchAll(/^# TYPE (\w+) /gm)].map(([, metric]) => metric ?? '')
  return names.filter((metric) => !/^(process|nodejs)_/.test(metric)).sort()
}
