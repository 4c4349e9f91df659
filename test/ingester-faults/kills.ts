/** A chain of SIGKILLs of the ingester at every step around the append, under a living network. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, inject } from 'vitest'
import type { CrashPoint } from '../../shared/crash-point.ts'
import { deadLetterStream, streams } from '../../shared/streams/names.ts'
import { createRandom, type Random } from '../../simulator/random.ts'
import { testRedis } from '../servers/redis.ts'
import { openFaultRoom } from './room.ts'

/** A step, and the latest passing of it at which the ingester dies. */
interface Step {
  point: CrashPoint
  most: number
  /** There must be a frame that nobody can read. */
  broken?: true
  /** It tells the streams apart. */
  ofStream?: true
}

const steps: readonly Step[] = [
  { point: 'ingester.fence-taken', most: 1, ofStream: true },
  { point: 'producer.opened', most: 1, ofStream: true },
  { point: 'ingester.read', most: 30, ofStream: true },
  { point: 'ingester.translated', most: 30, ofStream: true },
  { point: 'ingester.before-append', most: 8, ofStream: true },
  { point: 'ingester.appended', most: 8, ofStream: true },
  { point: 'ingester.before-mark', most: 1 },
  { point: 'ingester.marked', most: 1 },
  { point: 'ingester.before-dead-letter', most: 1, broken: true },
  { point: 'ingester.dead-lettered', most: 1, broken: true },
]
/** Beside the steps: after so many milliseconds, wherever it is then. */
const anywhereMs = 1_500
const lifeMs = 60_000

export interface KillsResult {
  /** By step. */
  hits: ReadonlyMap<string, number>
  entries: number
}

/** Kills so many ingesters, one after the other, lets a last one finish, and judges the stream. */
export async function killChain(seed: string, kills: number): Promise<KillsResult> {
  await using redis = await testRedis()
  const network = { seed, relays: [{}, { lagMs: 100 }] as const }
  await using room = await openFaultRoom({ redisUrl: redis.url, network, restMs: 25 })
  const random = createRandom(seed).fork('kills')
  const env = {
    ...room.environment,
    INGESTER_BATCH_SIZE: '5',
    METRICS_PORT: '0',
    ALLOW_PRIVATE_HOSTS: 'true',
    // Short lives: what one has compiled is not compiled again.
    NODE_COMPILE_CACHE: join(inject('servers').folder, 'compiled'),
  }
  const hits = new Map<string, number>()
  const broken = new Set<string>()
  await room.liveDuring(async () => {
    for (const step of turns(kills, random)) {
      if (step?.broken) {
        const frame = Buffer.from(`no frame ${broken.size}`)
        broken.add(frame.toString('base64'))
        await room.network.relay.play([frame])
      }
      await (step === null
        ? killWhen(env, () => delay(random.below(anywhereMs)))
        : killAt(env, step, random))
      // Each life tries three times: past such a frame only one comes that is let be for so long.
      if (step?.broken) await killWhen(env, room.progress)
      const name = step?.point ?? 'anywhere'
      hits.set(name, (hits.get(name) ?? 0) + 1)
    }
  })
  room.start()
  expect(await room.judge()).toEqual([])
  const letters = await redis.redis.xrange(deadLetterStream(streams.live), '-', '+')
  const isName = (_: string, at: number) => at % 2 === 0
  const frames = letters.map(([, fields]) => {
    const place = fields.filter(isName).indexOf('frame')
    return fields[2 * place + 1]
  })
  // One is set aside again by a life that began before it.
  expect(new Set(frames)).toEqual(broken)
  return { hits, entries: await redis.redis.xlen(streams.live) }
}

/** Each step as often as the others, in rounds; null is anywhere. */
function* turns(kills: number, random: Random): Generator<Step | null> {
  for (let left: (Step | null)[] = [], made = 0; made < kills; made += 1) {
    if (left.length === 0) left = [...steps, null]
    yield left.splice(random.below(left.length), 1)[0] ?? null
  }
}

async function killAt(
  env: Record<string, string>,
  { point, most, ofStream }: Step,
  random: Random,
) {
  const place = ofStream ? `${point}@${streams.live}` : point
  const at = `${place}:${1 + random.below(most)}`
  const { child, output } = startChild({ ...env, SLUICE_CRASH_AT: at })
  const timer = setTimeout(() => child.kill('SIGTERM'), lifeMs)
  const [code, signal] = await once(child, 'close')
  clearTimeout(timer)
  if (signal === 'SIGKILL' && output().includes(`crash point ${place}`)) return
  throw new Error(`the ingester did not die at ${at} (${signal ?? code}):\n${output()}`)
}

/** Kills one that is up, wherever it is when that has come. */
async function killWhen(env: Record<string, string>, due: () => Promise<void>): Promise<void> {
  const { child, output } = startChild(env)
  const closed = once(child, 'close')
  await once(child, 'message')
  await Promise.race([due(), closed])
  child.kill('SIGKILL')
  const [code, signal] = await closed
  if (signal !== 'SIGKILL') throw new Error(`the ingester ended by itself (${code}):\n${output()}`)
}

function startChild(env: Record<string, string>) {
  const main = new URL('../../ingester/main.ts', import.meta.url)
  const child = spawn(process.execPath, [decodeURIComponent(main.pathname)], {
    env,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  let output = ''
  const collect = (data: Buffer) => {
    output = (output + data.toString()).slice(-4_000)
  }
  child.stdout?.on('data', collect)
  child.stderr?.on('data', collect)
  return { child, output: () => output }
}
