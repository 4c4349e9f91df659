/** A relay: the firehose of the network's accounts or of a recording, and its list of repos. */
import { EventEmitter, once } from 'node:events'
import { setTimeout as delay, setImmediate } from 'node:timers/promises'
import type { LexMap } from '@atproto/lex-data'
import type { Clock } from './clock.ts'
import { EventStream } from './eventstream.ts'
import { createFaults, type FaultKind, type FaultTarget } from './faults.ts'
import type { FrameFault, FrameTarget } from './frame-faults.ts'
import { frameSeq, messageFrame } from './frames.ts'
import {
  limitOf,
  listen,
  parseRequest,
  type Reply,
  type Request,
  required,
  XrpcError,
} from './http.ts'
import { createRandom, type Random } from './random.ts'
import { type HostedRepo, repoView } from './repos.ts'
import type { Fault, When } from './switches.ts'

export interface RelayOptions {
  clock: Clock
  /** Repos in the order in which the relay met them, deleted ones too: a place stays its own. */
  repos: () => Iterable<HostedRepo>
  /** The hosts that it crawls. */
  hosts: () => readonly CrawledHost[]
  /** How long an event of the network's own is under way to this relay, in milliseconds; default 0. */
  lagMs?: number
  /** The seq of the first event of the network's own accounts; default 1. */
  firstSeq?: number
  /** Default 64 MiB. */
  windowBytes?: number
  /** Default 1 MiB. */
  maxBufferedBytes?: number
  /** Default: the window. */
  maxLagBytes?: number
  /** Default 30 s. */
  pingMs?: number
  address?: string | undefined
  port?: number
  /** The name of its faults; default `relay`. */
  name?: string
  random?: Random
}

/** A host as `listHosts` shows it. */
export interface CrawledHost {
  hostname: string
  /** Of the host's newest event. */
  seq: number
  accountCount: number
  status: 'active' | 'idle' | 'offline' | 'throttled' | 'banned'
}

export interface PlayOptions {
  /** Frames per second; without it as fast as the slowest reader reads. */
  rate?: number
  signal?: AbortSignal
}

export interface Relay {
  /** `http://127.0.0.1:port`; `ws:` works as well. */
  readonly url: string
  readonly host: string
  readonly lastSeq: number
  readonly oldestSeq: number | null
  readonly readers: number
  /** Sends an event of the network's own, after the relay's lag: the relay adds `seq`, and `time` where none is given. */
  emit(type: string, body: LexMap, time?: string): void
  /** Resolves when nothing is under way to the relay any more. */
  caughtUp(): Promise<void>
  /** The frames that can still be replayed, in order. */
  frames(): Uint8Array[]
  /** Sends recorded frames as they are, and resolves when the last is in the window. */
  play(frames: Iterable<Uint8Array>, options?: PlayOptions): Promise<void>
  /** Resolves when at least `count` (1) readers are connected. */
  subscribed(count?: number): Promise<void>
  /** Resolves when every reader was sent everything. */
  delivered(): Promise<void>
  /** Cuts every reader's connection; they may come back. */
  disconnect(): void
  /** Comes back as a relay that has lost what it knew: its next event has this seq, and none before it is kept. */
  restart(firstSeq: number): void
  /** Spoils answers, and by the method `subscribeRepos` the connecting of readers. */
  fault(target: FaultTarget, fault: FaultKind, when?: number | When): Fault
  /** Spoils frames on their way to each reader. */
  frameFault(target: FrameTarget, fault: FrameFault, when?: number | When): Fault
  /** Every fault that was ever switched on. */
  readonly faults: readonly Fault[]
  close(): Promise<void>
}

const defaultWindow = 64 * 1024 * 1024

export async function startRelay(options: RelayOptions): Promise<Relay> {
  const { clock, lagMs = 0, firstSeq = 1, windowBytes = defaultWindow, port = 0 } = options
  const { name = 'relay', random = createRandom('relay') } = options
  const faults = createFaults(random, name)
  const { address } = options
  const listener = await listen({
    answer: (request) => answer(request, options),
    faults,
    address,
    port,
  })
  const stream = new EventStream({
    method: 'com.atproto.sync.subscribeRepos',
    server: listener.server,
    firstSeq,
    windowBytes,
    maxBufferedBytes: options.maxBufferedBytes ?? 1024 * 1024,
    maxLagBytes: options.maxLagBytes ?? windowBytes,
    pingMs: options.pingMs ?? 30_000,
    random: random.fork('frames'),
    host: `${name} frames`,
    takeUpgrade: (request) => faults.take(parseRequest(request)),
  })
  const late = createLag(lagMs)

  return {
    url: listener.url,
    host: listener.host,
    get lastSeq() {
      return stream.lastSeq
    },
    get oldestSeq() {
      return stream.oldestSeq
    },
    get readers() {
      return stream.readers
    },
    emit(type, body, time = clock.iso()) {
      late.run(() => {
        const seq = stream.lastSeq + 1
        stream.append(messageFrame(type, { ...body, seq, time }), seq)
      })
    },
    caughtUp: () => late.settled(),
    frames: () => stream.frames(),
    async play(frames, { rate, signal } = {}) {
      // Without a rate the window's half is the reader's credit, so that nobody falls out of it.
      const pace = rate === undefined ? () => credit(stream, windowBytes / 2) : paced(rate, signal)
      for (const frame of frames) {
        await pace()
        if (signal?.aborted === true) return
        stream.append(frame, frameSeq(frame))
      }
    },
    subscribed: (count) => stream.subscribed(count),
    async delivered() {
      await late.settled()
      await stream.delivered()
    },
    disconnect: () => stream.disconnect(),
    restart: (firstSeq) => stream.restart(firstSeq),
    fault: faults.add,
    frameFault: (target, fault, when) => stream.fault(target, fault, when),
    get faults() {
      return [...faults.all, ...stream.faults]
    },
    async close() {
      late.close()
      stream.close()
      await listener.close()
    },
  }
}

async function credit(stream: EventStream, bytes: number): Promise<void> {
  if (stream.lagBytes <= bytes) return
  await stream.delivered(bytes)
  await setImmediate()
}

/** Each call returns when the next event is due; an aborted signal ends the waiting. */
export function paced(rate: number, signal?: AbortSignal): () => Promise<void> {
  const started = performance.now()
  let count = 0
  return async () => {
    const early = started + (count++ * 1000) / rate - performance.now()
    // Timers are no finer than a millisecond: below that, events go out in small bunches.
    if (early >= 1) await delay(early, undefined, signal && { signal }).catch(() => undefined)
    else if (count % 100 === 0) await setImmediate()
  }
}

/** Work done a fixed time after it was given, in that order; at once where there is no lag. */
function createLag(lagMs: number) {
  const changes = new EventEmitter().setMaxListeners(0)
  const timers = new Set<NodeJS.Timeout>()
  return {
    run(work: () => void) {
      if (lagMs === 0) return work()
      // Timers of one length fire in the order in which they were set.
      const timer = setTimeout(() => {
        timers.delete(timer)
        work()
        changes.emit('change')
      }, lagMs)
      timers.add(timer)
    },
    async settled() {
      while (timers.size > 0) await once(changes, 'change')
    },
    close() {
      for (const timer of timers) clearTimeout(timer)
      timers.clear()
      changes.emit('change')
    },
  }
}

function answer({ path, query }: Request, { repos, hosts }: RelayOptions): Reply {
  switch (path) {
    case '/xrpc/_health':
      return { body: { status: 'ok' } }
    case '/xrpc/com.atproto.sync.listRepos':
      return { body: listRepos(query, [...repos()]) }
    case '/xrpc/com.atproto.sync.listHosts':
      return { body: listHosts(query, hosts()) }
    case '/xrpc/com.atproto.sync.getHostStatus': {
      const hostname = required(query, 'hostname')
      const body = hosts().find((host) => host.hostname === hostname)
      if (body === undefined) throw new XrpcError(400, 'HostNotFound', 'unknown host')
      return { body }
    }
    case '/xrpc/com.atproto.sync.getLatestCommit':
      return { body: latestCommit(required(query, 'did'), repos()) }
    case '/xrpc/com.atproto.sync.getRepoStatus': {
      const { head: _, ...status } = repoView(find(required(query, 'did'), repos()))
      return { body: status }
    }
    default:
      throw new XrpcError(404, 'MethodNotImplemented', 'Method Not Implemented')
  }
}

/** As relays do it, the cursor is the position of the last repo given. */
function listRepos(query: URLSearchParams, repos: readonly HostedRepo[]) {
  const limit = limitOf(query, 500, 1000)
  const start = Number(query.get('cursor') ?? 0)
  if (!Number.isSafeInteger(start) || start < 0) {
    throw new XrpcError(400, 'InvalidRequest', 'invalid cursor')
  }
  const end = Math.min(repos.length, start + limit)
  const page = repos.slice(start, end).filter(({ status }) => status !== 'deleted')
  return { ...(end < repos.length && { cursor: String(end) }), repos: page.map(repoView) }
}

function listHosts(query: URLSearchParams, hosts: readonly CrawledHost[]) {
  const limit = limitOf(query, 200, 1000)
  const start = Number(query.get('cursor') ?? 0)
  if (!Number.isSafeInteger(start) || start < 0) {
    throw new XrpcError(400, 'InvalidRequest', 'invalid cursor')
  }
  const end = Math.min(hosts.length, start + limit)
  const more = end < hosts.length && { cursor: String(end) }
  return { ...more, hosts: hosts.slice(start, end) }
}

function latestCommit(did: string, repos: Iterable<HostedRepo>) {
  const { head, rev, active } = find(did, repos)
  if (!active) throw new XrpcError(404, 'RepoDeactivated', 'account is not active')
  return { cid: head, rev }
}

function find(did: string, repos: Iterable<HostedRepo>): HostedRepo {
  for (const repo of repos) if (repo.did === did && repo.status !== 'deleted') return repo
  throw new XrpcError(404, 'RepoNotFound', `could not find repo for DID: ${did}`)
}
