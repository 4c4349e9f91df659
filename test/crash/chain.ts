/** Chains of kills: each worker dies at one point after the other, without rest. */
import { spawn } from 'node:child_process'
import type { Random } from '../../simulator/random.ts'
import type { RunningWorker, Service } from '../pipeline.ts'
import type { Room } from './room.ts'
import type { Target } from './targets.ts'

const services: readonly Service[] = ['ingester', 'indexer', 'backfiller']
/** So long a worker may live before it passes its point; then it is started again, so often. */
const lifeMs = 60_000
const lives = 3
const outputKept = 4_000

export interface ChainOptions {
  targets: readonly Target[]
  /** How often each target is hit. */
  times: number
}

/** How often each target was hit. */
export type Hits = ReadonlyMap<Target, number>

/**
 * Runs all chains beside each other until each target was hit so often; a worker whose chain is
 * through is started once more and runs on. Throws when a worker ends otherwise than by its point.
 */
export async function runChains(room: Room, options: ChainOptions): Promise<Hits> {
  const hits = new Map(options.targets.map((target) => [target, 0]))
  const failed = new AbortController()
  const chain = async (service: Service): Promise<RunningWorker> => {
    const random = room.random.fork(service)
    const mine = options.targets.filter((target) => target.service === service)
    for (let round = 0; round < options.times; round += 1) {
      if (options.times > 1) console.log(`${service}: round ${round + 1} of ${options.times}`)
      for (const target of shuffled(mine, random)) {
        failed.signal.throwIfAborted()
        await kill(room, target, { round, random, signal: failed.signal })
        hits.set(target, (hits.get(target) ?? 0) + 1)
      }
    }
    return room.pipeline.start(service, room.environmentOf(service))
  }
  const results = await Promise.allSettled(
    services.map((service) =>
      chain(service).catch((error) => {
        failed.abort()
        throw error
      }),
    ),
  )
  const reasons = results.flatMap((result) =>
    result.status === 'rejected' ? [result.reason as unknown] : [],
  )
  // The first to fail stops the others, whose reasons then say only that.
  const real = reasons.find((reason) => !(reason instanceof DOMException))
  if (reasons.length > 0) throw real ?? reasons[0]
  return hits
}

async function kill(
  room: Room,
  target: Target,
  { round, random, signal }: { round: number; random: Random; signal: AbortSignal },
): Promise<void> {
  const { service, point } = target
  const stream = target.streams[round % target.streams.length]
  const place = `${point}${stream === undefined ? '' : `@${stream}`}`
  for (let life = 1; ; life += 1) {
    await target.prepare(room, stream)
    const at = `${place}:${1 + random.below(target.most)}`
    const env = { ...room.environmentOf(service), SLUICE_CRASH_AT: at }
    const death = await deathOf(service, env, signal)
    signal.throwIfAborted()
    const killed = death.signal === 'SIGKILL'
    if (killed && death.output.includes(`crash point ${place}`)) return
    const what = `the ${service} did not die at ${at} (${death.signal ?? death.code})`
    if (!killed || life === lives) throw new Error(`${what}:\n${death.output}`)
    console.log(`${what}: once more`)
  }
}

/** Starts a worker and waits for its end, which comes by SIGKILL at the latest when its time is up. */
async function deathOf(service: Service, env: Record<string, string>, stop: AbortSignal) {
  const main = new URL(`../../${service}/main.ts`, import.meta.url)
  const child = spawn(process.execPath, [decodeURIComponent(main.pathname)], {
    env,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    signal: AbortSignal.any([stop, AbortSignal.timeout(lifeMs)]),
    killSignal: 'SIGKILL',
  })
  child.on('error', () => {})
  const closed = Promise.withResolvers<[number | null, NodeJS.Signals | null]>()
  child.on('close', (code, signal) => closed.resolve([code, signal]))
  let output = ''
  const collect = (data: Buffer) => {
    output = (output + data.toString()).slice(-outputKept)
  }
  child.stdout?.on('data', collect)
  child.stderr?.on('data', collect)
  const [code, signal] = await closed.promise
  return { code, signal, output }
}

function shuffled<T>(values: readonly T[], random: Random): T[] {
  const left = [...values]
  const order: T[] = []
  while (left.length > 0) order.push(...left.splice(random.below(left.length), 1))
  return order
}

/** The table of targets and hits, a line each. */
export function hitTable(hits: Hits): string {
  const rows = [...hits].map(([{ service, point, streams }, count]) => [
    service,
    point,
    streams.join(' '),
    String(count),
  ])
  const header = ['worker', 'crash point', 'streams, by turns', 'hits']
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  )
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  const total = [...hits.values()].reduce((sum, count) => sum + count, 0)
  return [line(header), ...rows.map(line), `${total} kills`].join('\n')
}
