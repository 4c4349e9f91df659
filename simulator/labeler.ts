/** A labeler: signed labels of its own making, as a stream and on request. */
import type { Keypair } from '@atproto/crypto'
import { encode } from '@atproto/lex-cbor'
import type { Clock } from './clock.ts'
import { EventStream } from './eventstream.ts'
import { createFaults, type FaultKind, type Faults, type FaultTarget } from './faults.ts'
import type { FrameFault, FrameTarget } from './frame-faults.ts'
import { messageFrame } from './frames.ts'
import { limitOf, listen, parseRequest, type Reply, type Request, XrpcError } from './http.ts'
import type { Random } from './random.ts'
import type { Fault, When } from './switches.ts'

export interface Label {
  ver: 1
  src: string
  uri: string
  cid?: string
  val: string
  neg?: boolean
  cts: string
  exp?: string
  sig: Uint8Array
}

/** What a label says; the labeler adds the rest. */
export type LabelClaim = Pick<Label, 'uri' | 'val'> &
  Partial<Pick<Label, 'cid' | 'neg' | 'exp' | 'cts'>>

export interface Labeler {
  /** `http://127.0.0.1:port` */
  readonly url: string
  readonly host: string
  readonly did: string
  readonly lastSeq: number
  /** The newest 10,000 labels, in order. */
  readonly labels: readonly Label[]
  /** Signs labels and sends them as one event. */
  label(...claims: LabelClaim[]): Promise<Label[]>
  subscribed(count?: number): Promise<void>
  delivered(): Promise<void>
  disconnect(): void
  /** Spoils answers, and by the method `subscribeLabels` the connecting of readers. */
  fault(target: FaultTarget, fault: FaultKind, when?: number | When): Fault
  /** Spoils frames on their way to each reader. */
  frameFault(target: FrameTarget, fault: FrameFault, when?: number | When): Fault
  /** Every fault that was ever switched on. */
  readonly faults: readonly Fault[]
  close(): Promise<void>
}

const mostLabels = 10_000

export interface LabelerOptions {
  clock: Clock
  /** Signs the labels; `identify` tells its public half to the directory and answers the DID. */
  key: Keypair
  identify: (url: string) => Promise<string>
  firstSeq?: number
  windowBytes?: number
  faults?: Faults
  address?: string | undefined
  random?: Random
}

export async function startLabeler(options: LabelerOptions): Promise<Labeler> {
  const { clock, key, identify, firstSeq = 1, windowBytes = 16 * 1024 * 1024 } = options
  const { faults = createFaults(), random, address } = options
  const labels: Label[] = []
  const listener = await listen({ answer: (request) => answer(request, labels), faults, address })
  const did = await identify(listener.url)
  const stream = new EventStream({
    method: 'com.atproto.label.subscribeLabels',
    server: listener.server,
    firstSeq,
    windowBytes,
    maxBufferedBytes: 1024 * 1024,
    maxLagBytes: windowBytes,
    pingMs: 30_000,
    host: 'labeler frames',
    ...(random !== undefined && { random }),
    takeUpgrade: (request) => faults.take(parseRequest(request)),
  })

  const sign = async (claim: LabelClaim): Promise<Label> => {
    const unsigned = { ver: 1 as const, src: did, cts: clock.iso(), ...claim }
    return { ...unsigned, sig: await key.sign(encode(unsigned)) }
  }

  return {
    url: listener.url,
    host: listener.host,
    did,
    labels,
    get lastSeq() {
      return stream.lastSeq
    },
    async label(...claims) {
      const made = await Promise.all(claims.map(sign))
      labels.push(...made)
      labels.splice(0, Math.max(0, labels.length - mostLabels))
      const seq = stream.lastSeq + 1
      const event = { seq, labels: made.map((label) => ({ ...label })) }
      stream.append(messageFrame('#labels', event), seq)
      return made
    },
    subscribed: (count) => stream.subscribed(count),
    delivered: () => stream.delivered(),
    disconnect: () => stream.disconnect(),
    fault: faults.add,
    frameFault: (target, fault, when) => stream.fault(target, fault, when),
    get faults() {
      return [...faults.all, ...stream.faults]
    },
    async close() {
      stream.close()
      await listener.close()
    },
  }
}

function answer({ path, query }: Request, labels: readonly Label[]): Reply {
  if (path === '/xrpc/_health') return { body: { version: 'simulator' } }
  if (path !== '/xrpc/com.atproto.label.queryLabels') {
    throw new XrpcError(501, 'MethodNotImplemented', 'Method Not Implemented')
  }
  const patterns = query.getAll('uriPatterns')
  const sources = query.getAll('sources')
  const limit = limitOf(query, 50, 250)
  const start = Number(query.get('cursor') ?? 0)
  if (!Number.isSafeInteger(start) || start < 0) {
    throw new XrpcError(400, 'InvalidRequest', 'Malformed cursor')
  }
  const fits = ({ uri, src }: Label) =>
    patterns.some((pattern) => matches(pattern, uri)) &&
    (sources.length === 0 || sources.includes(src))
  const found = labels.filter(fits)
  const page = found.slice(start, start + limit)
  const more = start + page.length < found.length
  const view = page.map((label) => ({
    ...label,
    sig: { $bytes: Buffer.from(label.sig).toString('base64').replace(/=+$/, '') },
  }))
  return { body: { ...(more && { cursor: String(start + page.length) }), labels: view } }
}

function matches(pattern: string, uri: string): boolean {
  return pattern.endsWith('*') ? uri.startsWith(pattern.slice(0, -1)) : uri === pattern
}
