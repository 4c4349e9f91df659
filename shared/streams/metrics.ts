/** The metrics of streams, the same for every service. */
import { Counter, Gauge, type Registry } from 'prom-client'

export type StreamMetrics = ReturnType<typeof streamMetrics>

/** Registers a service's stream metrics; once a registry. */
export function streamMetrics(registry: Registry, service: string) {
  const registers = [registry]
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[]) =>
    new Counter({ name: `${service}_${name}`, help, labelNames: [...labelNames], registers })
  const gauge = <L extends string>(name: string, help: string, labelNames: readonly L[]) =>
    new Gauge({ name: `${service}_${name}`, help, labelNames: [...labelNames], registers })
  return {
    appended: counter('stream_appended_entries_total', 'Entries appended and durable.', ['stream']),
    waiting: gauge(
      'stream_producer_waiting',
      'One while the producer waits: length, memory, full or away.',
      ['stream', 'reason'],
    ),
    rewound: counter('stream_rewound_total', 'Times that Redis was found to have gone back.', [
      'stream',
    ]),
    outcomes: counter('stream_outcomes_total', 'Entries acknowledged, by outcome.', [
      'stream',
      'outcome',
    ]),
    deadLetters: counter('stream_dead_letters_total', 'Entries set aside, by reason.', [
      'stream',
      'reason',
    ]),
    claimed: counter('stream_claimed_entries_total', 'Stale pending entries taken over.', [
      'stream',
    ]),
    retries: counter('stream_apply_retries_total', 'Batches applied again after a failure.', [
      'stream',
    ]),
    inHand: gauge('stream_entries_in_hand', 'Entries read and not yet acknowledged by us.', [
      'stream',
    ]),
    aside: gauge('stream_entries_aside', 'Pending entries that wait: barrier or dead_letter.', [
      'stream',
      'kind',
    ]),
    intakeStopped: gauge(
      'stream_intake_stopped',
      'One while the dead-letter stream is full and nothing new is read.',
      ['stream'],
    ),
    redisAway: gauge('stream_redis_away', 'One while Redis does not answer.', ['stream']),
    unnamedGroups: gauge(
      'stream_unnamed_group',
      'One for each group that holds trimming and is not in STREAM_GROUPS.',
      ['stream', 'group'],
    ),
  }
}
