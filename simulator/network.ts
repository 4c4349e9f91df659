/** A small AT Protocol network on loopback: directory, PDSes, relay, labeler, accounts. */
import { type Clock, steppedClock } from './clock.ts'
import { createDirectory } from './directory.ts'
import { type Pds, type RateLimit, startPds } from './pds.ts'
import { type HandleResolver, type Plc, startHandleResolver, startPlc } from './plc.ts'
import { type Relay, type RelayOptions, startRelay } from './relay.ts'
import type { HostedRepo } from './repos.ts'

export interface NetworkOptions {
  /** How many PDSes; default 1. */
  pds?: number
  rateLimit?: RateLimit
  relay?: Omit<RelayOptions, 'clock' | 'repos'>
  /** Default: starts 2026-01-01 and moves 1 ms at each reading, so that a run is the same every time. */
  clock?: Clock
}

export interface Network extends AsyncDisposable {
  readonly plc: Plc
  readonly relay: Relay
  readonly pds: readonly [Pds, ...Pds[]]
  readonly handleResolver: HandleResolver
  readonly clock: Clock
  /** Stops everything: no port, socket or timer is left. */
  close(): Promise<void>
}

/** Starts a network on free ports. */
export async function startNetwork(options: NetworkOptions = {}): Promise<Network> {
  const clock = options.clock ?? steppedClock(Date.UTC(2026, 0, 1), 1, 7)
  const directory = createDirectory()
  const plc = await startPlc(directory)
  const handleResolver = await startHandleResolver(directory)
  const limits = options.rateLimit && { rateLimit: options.rateLimit }
  const first = await startPds({ directory, ...limits })
  const pds: [Pds, ...Pds[]] = [first]
  while (pds.length < (options.pds ?? 1)) pds.push(await startPds({ directory, ...limits }))
  function* repos(): Iterable<HostedRepo> {
    for (const host of pds) yield* host.repos()
  }
  const relay = await startRelay({ ...options.relay, clock, repos })

  const close = async () => {
    const parts = [relay, ...pds, handleResolver, plc]
    await Promise.all(parts.map((part) => part.close()))
  }
  return { plc, relay, pds, handleResolver, clock, close, [Symbol.asyncDispose]: close }
}
