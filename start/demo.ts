/** The demo: now and then something fails, and heals before one's eyes. */

import { sleep } from '../shared/retry.ts'
import type { FaultKind } from '../simulator/faults.ts'
import type { KeptServer } from './keep.ts'
import type { SimulatedNetwork } from './simulator.ts'
import type { Board } from './view-board.ts'
import type { Service, WorkerState } from './worker.ts'

/** What the simulated network of the demo is like: dozens of accounts live, as many repos are older. */
export const demoNetwork = ['--accounts', '48', '--older', '48', '--history', '80', '--rate', '25']

/** The settings of the demo's workers. */
export const demoEnvironment = {
  // Few at once, so that there is something to see of the backfill.
  BACKFILLER_CONCURRENCY: '4',
  // A request outlives a PDS that fails for longer than usual.
  BACKFILLER_MAX_RETRIES: '8',
}

const getRepo = 'com.atproto.sync.getRepo'
/** A repo takes some seconds, so that the backfill lasts a minute or two. */
const slowly: FaultKind = { kind: 'slow', bytesPerSecond: 6_000 }
const firstFaultMs = 8_000
const betweenMs = 10_000
const healsWithinMs = 60_000
const lookEveryMs = 100

export interface DemoOptions {
  board: Board
  network: SimulatedNetwork
  workers: readonly WorkerState[]
  servers: { redis: KeptServer; postgres: KeptServer }
  signal: AbortSignal
}

interface Trouble {
  text: string
  /**
   * Lets it happen, and resolves when its cause is gone, with what it has met; null when it can't
   * happen now.
   */
  happen(): Promise<string | null> | null
}

/** Lets one fault after another happen until the signal aborts; what it has stopped goes on then. */
export async function demo(options: DemoOptions): Promise<void> {
  const { board, network, signal } = options
  let slow = await network.ask({ do: 'fault', method: getRepo, fault: slowly })
  const failFor = async (fault: FaultKind, ms: number) => {
    await network.ask({ do: 'clear', fault: slow })
    const failing = await network.ask({ do: 'fault', method: getRepo, fault })
    await sleep(ms, signal)
    const fired = await network.ask({ do: 'clear', fault: failing })
    slow = await network.ask({ do: 'fault', method: getRepo, fault: slowly })
    return `${fired} answers`
  }
  const troubles = troublesOf(options, failFor)
  while (!signal.aborted && !board.isSound()) await sleep(lookEveryMs, signal)
  await sleep(firstFaultMs, signal)
  for (let turn = 0; !signal.aborted; turn++) {
    const trouble = troubles[turn % troubles.length]
    if (trouble !== undefined) await show(trouble, options)
  }
}

async function show(trouble: Trouble, { board, signal }: DemoOptions): Promise<void> {
  const happening = trouble.happen()
  if (happening === null) return sleep(lookEveryMs, signal)
  const fault = board.fault(trouble.text)
  const met = await happening
  if (signal.aborted) return
  fault.healing(met)
  const healed = await heals(board, signal)
  if (signal.aborted) return
  if (healed) fault.healed()
  else fault.stuck()
  await sleep(betweenMs, signal)
}

/** Everything answers again, and events that came after the fault have become rows. */
async function heals(board: Board, signal: AbortSignal): Promise<boolean> {
  const deadline = performance.now() + healsWithinMs
  let from: number | null = null
  while (!signal.aborted && performance.now() < deadline) {
    const indexed = board.indexed()
    if (!board.isSound()) from = null
    else if (from === null) from = indexed
    else if (indexed !== null && indexed > from) return true
    await sleep(lookEveryMs, signal)
  }
  return false
}

function troublesOf(
  { board, network, workers, servers, signal }: DemoOptions,
  failFor: (fault: FaultKind, ms: number) => Promise<string>,
): readonly Trouble[] {
  // A PDS that nobody asks for a repo fails nobody.
  const isFetching = () => (board.state().waiting.requests ?? 0) > 0
  const kill = (service: Service): Trouble => ({
    text: `the ${service} is killed`,
    happen: () => {
      const worker = workers.find((one) => one.service === service)
      return worker?.pid ? endOf(worker, worker.pid, signal) : null
    },
  })
  const killServer = (name: string, server: KeptServer): Trouble => ({
    text: `${name} is killed`,
    happen: () => (server.pid === null ? null : endOf(server, server.pid, signal)),
  })
  return [
    {
      text: 'the relay cuts its connections',
      happen: async () => `${await network.ask({ do: 'cut' })} of them`,
    },
    kill('indexer'),
    {
      text: 'every PDS answers 503 for 6 s',
      happen: () => (isFetching() ? failFor({ kind: 'status', status: 503 }, 6_000) : null),
    },
    {
      text: 'Redis stands still for 4 s',
      happen: () =>
        servers.redis.pid === null ? null : standStill(servers.redis.pid, 4_000, signal),
    },
    kill('backfiller'),
    killServer('Postgres', servers.postgres),
    {
      text: 'every PDS asks for patience (429) for 5 s',
      happen: () => {
        const headers = { 'retry-after': '2' }
        return isFetching() ? failFor({ kind: 'status', status: 429, headers }, 5_000) : null
      },
    },
    kill('ingester'),
    killServer('Redis', servers.redis),
  ]
}

/** Kills the process and resolves when whoever keeps it has seen that. */
async function endOf(
  kept: { pid: number | null },
  pid: number,
  signal: AbortSignal,
): Promise<null> {
  send(pid, 'SIGKILL')
  while (!signal.aborted && kept.pid === pid) await sleep(lookEveryMs, signal)
  return null
}

async function standStill(pid: number, ms: number, signal: AbortSignal): Promise<null> {
  send(pid, 'SIGSTOP')
  await sleep(ms, signal)
  send(pid, 'SIGCONT')
  return null
}

function send(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It is gone, and started again by whoever keeps it.
  }
}
