/** Chains of kills: each worker dies at one point after the other, without rest. */
import { spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import type { Random } from '../../simulator/random.ts'
import type { Service } from '../pipeline.ts'
import type { Room, StreamName } from './room.ts'
import type { Target } from './targets.ts'

interface Member {
  service: Service
  /** Of its consumer, where it has one. */
  name: string
}

/** Two indexers, so that each meets what the other does and leaves. */
const members: readonly Member[] = [
  { service: 'ingester', name: 'ingester' },
  { service: 'indexer', name: 'indexer1' },
  { service: 'indexer', name: 'indexer2' },
  { service: 'backfiller', name: 'backfiller1' },
]
/** So long a worker may live before it passes its point; then it is started again, so often. */
const lifeMs = 60_000
const lives = 3
const feedEveryMs = 2_000
const outputKept = 4_000

export interface ChainOptions {
  targets: readonly Target[]
  /** How often each target is hit. */
  times: number
}

/** How often each target was hit. */
export type Hits = ReadonlyMap<Target, number>

/** What a member of a service is killed at next. */
interface Turn {
  target: Target
  stream: StreamName | undefined
}

/**
 * Runs all chains beside each other until each target was hit so often; a worker whose chain is
 * through is started once more and runs on. Throws when a worker ends otherwise than by its point.
 */
export async function runChains(room: Room, { targets, times }: ChainOptions): Promise<Hits> {
  const hits = new Map(targets.map((target) => [target, 0]))
  const random = room.random.fork('chains')
  const failed = new AbortController()
  const turns = new Map(
    members.map(({ service }) => {
      const mine = targets.filter((target) => target.service === service)
      return [service, turnsOf(mine, times, random.fork(service))]
    }),
  )
  const chain = async ({ service, name }: Member): Promise<void> => {
    const env = { ...room.environment, INDEXER_CONSUMER: name }
    if (times > 1) await (await room.pipeline.start(service, env)).stop()
    for (let turn = turns.get(service)?.next(); turn?.done === false; ) {
      await kill(room, turn.value, { env, name, service, random, signal: failed.signal })
      hits.set(turn.value.target, (hits.get(turn.value.target) ?? 0) + 1)
      turn = turns.get(service)?.next()
    }
    await room.pipeline.start(service, env)
  }
  const stopping = async (member: Member) => {
    try {
      await chain(member)
    } catch (error) {
      failed.abort(error)
      throw error
    }
  }
  // All are waited for; the first to fail stops the others with its reason.
  await Promise.allSettled(members.map(stopping))
  failed.signal.throwIfAborted()
  return hits
}

/** Round by round, each in an order of its own, the streams of a target by turns. */
function* turnsOf(targets: readonly Target[], times: number, random: Random): Generator<Turn> {
  for (let round = 0; round < times; round += 1) {
    if (times > 1) console.log(`${targets[0]?.service}: round ${round + 1} of ${times}`)
    for (const target of shuffled(targets, random)) {
      yield { target, stream: target.streams[round % target.streams.length] }
    }
  }
}

interface Life extends Member {
  env: Record<string, string>
  random: Random
  signal: AbortSignal
}

async function kill(room: Room, { target, stream }: Turn, life: Life): Promise<void> {
  const { service, name, env, random, signal } = life
  const place = `${target.point}${stream === undefined ? '' : `@${stream}`}`
  for (let number = 1; ; number += 1) {
    signal.throwIfAborted()
    await target.prepare(room, stream, name)
    const at = `${place}:${1 + random.below(target.most)}`
    const end = new AbortController()
    const dying = deathOf(service, { ...env, SLUICE_CRASH_AT: at }, signal)
    const fed = target.once ? undefined : feed(() => target.prepare(room, stream, name), end.signal)
    const death = await dying
    end.abort()
    await fed
    signal.throwIfAborted()
    const killed = death.signal === 'SIGKILL'
    if (killed && death.output.includes(`crash point ${place}`)) return
    const what = `${name} did not die at ${at} (${death.signal ?? death.code})`
    if (!killed || number === lives) throw new Error(`${what}:\n${death.output}`)
    console.log(`${what}: once more`)
  }
}

/** What was there for one worker another may have taken: again and again until the signal aborts. */
async function feed(prepare: () => Promise<void>, signal: AbortSignal): Promise<void> {
  for (;;) {
    await delay(feedEveryMs, undefined, { signal }).catch(() => {})
    if (signal.aborted) return
    await prepare()
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
