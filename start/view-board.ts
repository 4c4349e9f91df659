/** What is known of a running start at this moment, gathered from those who measure it. */
import type { StreamStatus } from './status.ts'
import { createMeter } from './view-meter.ts'
import type { Condition, FaultStage, ShownFault, ViewState } from './view-state.ts'
import { duration } from './view-text.ts'
import type { Service, WorkerState } from './worker.ts'

export interface BoardOptions {
  title: string
  /** Milliseconds, never set back. */
  now?: () => number
  timeOfDay?: () => string
  /** Takes a line for each fault that begins or ends. */
  onFault?: (line: string) => void
}

/** A fault on the board. */
export interface Fault {
  /** Its cause is gone, and this is what it has met; now everything has to work again. */
  healing(met: string | null): void
  healed(): void
  /** It took too long: nobody waits for it any more. */
  stuck(): void
}

export interface Board {
  say(line: string): void
  stage(stage: ViewState['stage']): void
  /** What the last line tells all the time. */
  footer(text: string): void
  /** A server of ours listens there. */
  listens(name: string, port: number): void
  /** The workers whose states are shown from now on. */
  follow(workers: readonly WorkerState[]): void
  streams(status: StreamStatus): void
  rows(rows: Readonly<Record<string, number>>): void
  /** What the ingester says of itself. */
  ingester(counts: { frames: number; labels: number; behindSeconds: number | null }): void
  backfiller(counts: { repos: number }): void
  /** One more second has passed. */
  tick(): void
  fault(text: string): Fault
  state(): ViewState
  /** Whether all parts answer, the workers are ready, and no more than a few events wait. */
  isSound(): boolean
  /** Events that the indexer is done with, ever; null while unknown. */
  indexed(): number | null
}

const rateWindowMs = 4_000
const progressWindowMs = 20_000
// The first repos say little of how long the others take.
const progressLeastMs = 8_000
// Longer than a measurement takes on a busy machine, and than the second between two.
const silentMs = 3_000
const soundLag = 1_000
const keptSeconds = 600
const keptLines = 100
const keptFaults = 20

interface BoardFault extends Omit<ShownFault, 'seconds'> {
  began: number
  ended: number | null
}

export function createBoard(options: BoardOptions): Board {
  const { title, now = () => performance.now(), onFault } = options
  const timeOfDay = options.timeOfDay ?? (() => new Date().toLocaleTimeString('en-GB'))
  const startedAt = now()
  const meters = {
    frames: createMeter(rateWindowMs),
    labels: createMeter(rateWindowMs),
    repos: createMeter(rateWindowMs),
    events: createMeter(rateWindowMs),
    second: createMeter(0),
    progress: createMeter(progressWindowMs, progressLeastMs),
  }
  const seen: { redis: number | null; postgres: number | null } = { redis: null, postgres: null }
  const history: number[] = []
  const log: string[] = []
  const faults: BoardFault[] = []
  const servers: [name: string, ports: number[]][] = []
  let footer = 'Ctrl-C ends it'
  let stage: ViewState['stage'] = 'starting'
  let workers: readonly WorkerState[] = []
  let streams: StreamStatus | null = null
  let rows: Readonly<Record<string, number>> = {}
  let behind: { seconds: number | null; at: number } = { seconds: null, at: 0 }
  let peak = 0
  let measuredSince = false

  const server = (name: 'redis' | 'postgres'): Condition => {
    const at = seen[name]
    if (at === null) return 'starting'
    return now() - at > silentMs ? 'away' : 'ready'
  }
  const worker = (service: Service): Condition => {
    const state = workers.find((one) => one.service === service)
    return state === undefined ? 'starting' : conditionOf(state)
  }
  const pagePorts = () =>
    workers.flatMap(({ page }) => (page === null ? [] : [Number(new URL(page).port)]))
  const waiting = (): ViewState['waiting'] =>
    streams?.waiting ?? { live: null, labels: null, backfill: null, requests: null }

  const backfill = (): ViewState['backfill'] => {
    if (streams === null) return null
    const { requestsDone: done } = streams
    const left = streams.waiting.requests
    if (done + left === 0) return null
    const rate = meters.progress.perSecond()
    return { done, total: done + left, leftSeconds: rate ? left / rate : null }
  }

  const fault = (text: string): Fault => {
    const shown: BoardFault = { at: timeOfDay(), text, stage: 'failing', began: now(), ended: null }
    faults.push(shown)
    if (faults.length > keptFaults) faults.shift()
    onFault?.(`fault: ${text}`)
    const enter = (stage: FaultStage) => {
      shown.stage = stage
      if (stage === 'healing') return
      shown.ended = now()
      const words = stage === 'healed' ? 'healed' : 'not healed'
      onFault?.(`${words} after ${duration((shown.ended - shown.began) / 1_000)}: ${shown.text}`)
    }
    return {
      healing: (met) => {
        if (met !== null) shown.text = `${text} (${met})`
        enter('healing')
      },
      healed: () => enter('healed'),
      stuck: () => enter('stuck'),
    }
  }

  return {
    say(line) {
      log.push(`${timeOfDay()} ${line}`)
      if (log.length > keptLines) log.shift()
    },
    stage: (entered) => {
      stage = entered
    },
    footer: (text) => {
      footer = text
    },
    listens: (name, port) => {
      servers.push([name, [port]])
    },
    follow: (followed) => {
      workers = followed
    },
    streams(status) {
      const at = now()
      streams = status
      seen.redis = at
      meters.events.take(status.indexed, at)
      meters.second.take(status.indexed, at)
      meters.progress.take(status.requestsDone, at)
      measuredSince = true
    },
    rows(counted) {
      rows = counted
      seen.postgres = now()
    },
    ingester({ frames, labels, behindSeconds }) {
      const at = now()
      meters.frames.take(frames, at)
      meters.labels.take(labels, at)
      behind = { seconds: behindSeconds, at }
    },
    backfiller: ({ repos }) => meters.repos.take(repos, now()),
    tick() {
      // While nothing can be measured nothing is known to have happened.
      const second = measuredSince ? (meters.second.perSecond() ?? 0) : 0
      measuredSince = false
      peak = Math.max(peak, second)
      history.push(second)
      if (history.length > keptSeconds) history.shift()
    },
    fault,
    state: () => ({
      title,
      stage,
      footer,
      upSeconds: (now() - startedAt) / 1_000,
      workers: {
        ingester: worker('ingester'),
        indexer: worker('indexer'),
        backfiller: worker('backfiller'),
      },
      servers: { redis: server('redis'), postgres: server('postgres') },
      rates: {
        frames: meters.frames.perSecond(),
        labels: meters.labels.perSecond(),
        repos: meters.repos.perSecond(),
        events: meters.events.perSecond(),
      },
      history,
      peak,
      waiting: waiting(),
      behindSeconds: now() - behind.at > silentMs ? null : behind.seconds,
      rows,
      backfill: backfill(),
      ports: [...servers, ['/metrics', pagePorts()]],
      deadLetters: streams?.deadLetters ?? null,
      faults: faults.map(({ began, ended, ...shown }) => ({
        ...shown,
        seconds: ((ended ?? now()) - began) / 1_000,
      })),
      log,
    }),
    isSound() {
      const { live, labels, backfill } = waiting()
      const lag = (live ?? 0) + (labels ?? 0) + (backfill ?? 0)
      const services: Service[] = ['ingester', 'indexer', 'backfiller']
      const conditions = [...services.map(worker), server('redis'), server('postgres')]
      return lag <= soundLag && conditions.every((condition) => condition === 'ready')
    },
    indexed: () => streams?.indexed ?? null,
  }
}

function conditionOf({ pid, lives, page, problems }: WorkerState): Condition {
  if (pid === null) return lives > 0 ? 'ended' : 'starting'
  if (page === null) return 'starting'
  if ('its pages' in problems) return 'away'
  return Object.keys(problems).length > 0 ? 'waiting' : 'ready'
}
