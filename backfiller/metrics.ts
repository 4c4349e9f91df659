/** The backfiller's metrics. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'

export type BackfillerMetrics = ReturnType<typeof createMetrics>

/** All metrics of the backfiller; those without labels have the names that older dashboards read. */
export function createMetrics(registry: Registry) {
  const registers = [registry]
  const counter = (name: string, help: string) =>
    new Counter({ name: `backfiller_${name}`, help, registers })
  const counterBy = <L extends string>(name: string, help: string, ...labelNames: L[]) =>
    new Counter({ name: `backfiller_${name}`, help, labelNames, registers })
  const gauge = (name: string, help: string) =>
    new Gauge({ name: `backfiller_${name}`, help, registers })

  return {
    processed: counter('repos_processed_total', 'Repos whose records were all handed over.'),
    failed: counter('repos_failed_total', 'Tries of a repo that failed, whether repeated or not.'),
    deadLettered: counter('repos_dead_lettered_total', 'Requests set aside with a reason.'),
    extracted: counter('records_extracted_total', 'Records put on the output stream.'),
    filtered: counter('records_filtered_total', 'Records of collections out of scope.'),
    retries: counter('retries_attempted_total', 'Further tries after a failure that may pass.'),
    fetchErrors: counter('car_fetch_errors_total', 'Tries that failed before a CAR was complete.'),
    parseErrors: counter('car_parse_errors_total', 'CARs that are broken or not a whole repo.'),
    verificationErrors: counter(
      'verification_errors_total',
      'CARs that are not what the account signed.',
    ),
    waiting: gauge('repos_waiting', 'Requests on the stream that no backfiller has taken yet.'),
    running: gauge('repos_running', 'Repos that are fetched, proved or handed over right now.'),
    requeued: counter(
      'requests_requeued_total',
      'Requests put back to the end of the queue because their host was busy, slow or left alone.',
    ),
    sleeping: gauge(
      'repos_sleeping',
      'Requests in hand that wait for their next try or their host.',
    ),
    outputLength: gauge('output_stream_length', 'Entries on the output stream.'),
    ended: counterBy('repos_ended_total', 'Repos that ended without a fault, by state.', 'state'),
    failures: counterBy(
      'failures_total',
      'Tries that failed, by reason and kind.',
      'reason',
      'kind',
    ),
    refusedRecords: counterBy('records_refused_total', 'Records left out, by reason.', 'reason'),
    ignoredBlocks: counter('car_blocks_ignored_total', 'Blocks of CARs that no tree refers to.'),
    spilled: counter('cars_spilled_total', 'CARs that were put in a temporary file.'),
    carBytes: counter('car_bytes_total', 'Bytes of CARs received.'),
    rateLimited: counter('rate_limited_total', 'Answers of hosts that asked for a pause (429).'),
    answers: counterBy(
      'host_answers_total',
      'Repos asked of hosts, by group of hosts and what came of it.',
      'group',
      'result',
    ),
    answerSeconds: new Histogram({
      name: 'backfiller_host_seconds',
      help: 'Time from asking a host for a repo to having it whole, by group of hosts.',
      labelNames: ['group'],
      buckets: [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000],
      registers,
    }),
    proveSeconds: counter('prove_seconds_total', 'Seconds spent on walking and proving trees.'),
  }
}
