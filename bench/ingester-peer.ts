/** `@atproto/sync`'s Firehose on a replayed file, in a process of its own. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { IdResolver, MemoryCache } from '@atproto/identity'
import { Firehose, MemoryRunner } from '@atproto/sync'
import { startNetwork } from '../simulator/network.ts'
import { documentsOf, ended, fork } from './following.ts'

interface PeerOptions {
  authenticated: boolean
  seconds: number
}

interface PeerResult {
  /** Commits a second. */
  rate: number
  /** µs of CPU a commit. */
  micros: number
}

export async function runPeer(path: string, options: PeerOptions): Promise<PeerResult> {
  const { authenticated, seconds } = options
  await using network = await startNetwork()
  for (const document of documentsOf(path)) network.plc.serve(document)
  const replay = fork(['bench/replay.ts', path], {})
  const [{ address }] = (await once(replay, 'message')) as [{ address: AddressInfo }]
  const service = `ws://127.0.0.1:${address.port}`
  const args = ['bench/ingester-peer.ts', service, network.plc.url]
  const child = fork([...args, String(authenticated), String(seconds)], {})
  try {
    const [result] = (await once(child, 'message')) as [PeerResult]
    return result
  } finally {
    await ended(child)
    await ended(replay)
  }
}

async function main([service = '', plcUrl = '', authenticated, seconds]: string[]): Promise<void> {
  const idResolver = new IdResolver({ plcUrl, didCache: new MemoryCache(), fetch })
  const problems = new Set<string>()
  let events = 0
  const firehose = new Firehose({
    service,
    idResolver,
    unauthenticatedCommits: authenticated !== 'true',
    // By account, some at once: the way that its own documentation has it.
    runner: new MemoryRunner({ concurrency: 32 }),
    handleEvent: () => void events++,
    onError: (error) => void problems.add(String(error.cause ?? error).slice(0, 200)),
  })
  void firehose.start()
  // A third of the time is for the look-ups and for the compiler.
  await new Promise((resolve) => setTimeout(resolve, (Number(seconds) * 1_000) / 3))
  const [began, cpu, from] = [performance.now(), process.cpuUsage(), events]
  await new Promise((resolve) => setTimeout(resolve, Number(seconds) * 1_000))
  const { user, system } = process.cpuUsage(cpu)
  const done = events - from
  const rate = Math.round((done * 1_000) / (performance.now() - began))
  if (problems.size > 0) console.error([...problems])
  process.send?.({ rate, micros: Math.round((user + system) / done) })
}

if (import.meta.main) await main(process.argv.slice(2))
