/**
 * Follows one event stream of one host into one Redis stream.
 *
 * A session is one connection: it begins after the newest durable position, and ends with a reason.
 * Two loops share its window: the intake reads frames, decodes them and starts their translation;
 * the drain appends what is translated, each repo's frames in the order of arrival, with the newest
 * position before which nothing is left. So only what is durable moves the position, what waits for
 * an identity holds no other repo, and a full Redis stops the intake, the socket, the host.
 */
import { setImmediate as breathe } from 'node:timers/promises'
import { crashPoint } from '../shared/crash-point.ts'
import type { Logger } from '../shared/log.ts'
import type { Part } from '../shared/metrics.ts'
import { sleep } from '../shared/retry.ts'
import type { GapReason } from '../shared/streams/gaps.ts'
import { type Producer, RewoundError } from '../shared/streams/producer.ts'
import { runTogether } from '../shared/worker.ts'
import { appendResults, type Mark } from './append-results.ts'
import { type BrokenFrames, createBrokenFrames } from './broken-frames.ts'
import { type ClockWatch, createClockWatch } from './chain-clock.ts'
import { createPositions, type Positions } from './chain-positions.ts'
import { type DeadLetters, frameFields } from './dead-letter.ts'
import {
  type CommitMessage,
  decodeFrame,
  FrameError,
  type InfoMessage,
  type MalformedMessage,
  type Message,
} from './frame.ts'
import type { Host } from './host.ts'
import type { IngesterMetrics } from './metrics.ts'
import { createReconnect } from './reconnect.ts'
import { ConnectionError, openSocket, type Socket } from './socket.ts'
import type { Translate, Translation } from './verify.ts'
import { createWindow, type Window } from './window.ts'

/** A broken frame may be the connection's fault so often; then it is the frame's. */
const framesTries = 3
const windowLimits = { count: 4_000, bytes: 64_000_000 }
/** Decoding and proving hold the thread: so often others get their turn. */
const breatheEvery = 32
/** How long to stay away after the host has said that our position is ahead of it, or that we are too slow. */
const futureWaitMs = 60_000
const slowWaitMs = 5_000
/** A clock that is wrong is looked at again so often. */
const clockWaitMs = 60_000

export interface FollowOptions {
  host: Host
  /** The XRPC method of the endpoint. */
  method: string
  /** The name of the Redis stream. */
  stream: string
  start: 'live' | 'oldest'
  producer: Producer
  translate: Translate
  deadLetters: DeadLetters
  batchSize: number
  batchTimeoutMs: number
  idleTimeoutMs: number
  signal: AbortSignal
  /** Its lines name the host and the stream. */
  log: Logger
  metrics: IngesterMetrics
  health: Part
  /** Told of each batch that is durable. */
  onAppended: (entries: number) => void
  /** Resolves when messages may be read again: while too many wait to be proved they only take memory. */
  notTooMany?: () => Promise<void>
  /** Told of each frame that arrives. */
  onFrame: () => void
  /** Told that what was durable may be so no more. */
  onRewound?: () => void
  /** Resolves when it is in the ledger that something after `from` was not read; `to` where it is known. */
  openGap: (gap: { reason: GapReason; from: string | null; to: string | null }) => Promise<void>
  /** Told up to which moment of the host everything is durable. */
  onProgress?: (time: number) => void
  now?: () => number
  /** Bounds of the wait between two connections. */
  reconnect?: { initialMs: number; maxMs: number }
}

/** Why a session ended, and at least how long the next one waits. */
interface Ending {
  reason:
    | 'closed'
    | 'unreachable'
    | 'broken-frame'
    | 'error-frame'
    | 'clock'
    | 'rewound'
    | 'stopped'
  detail: string
  waitMs: number
}

/** Runs until the signal aborts. Throws `FencedError`, and what is a bug. */
export async function follow(options: FollowOptions): Promise<void> {
  const { host, signal, log, metrics, health, reconnect } = options
  const waitAfter = createReconnect(reconnect)
  const memory = { broken: createBrokenFrames(), clock: createClockWatch(options.now) }
  let toldUnreachable = false
  while (!signal.aborted) {
    const began = Date.now()
    const ending = await session(options, memory)
    if (ending.reason === 'stopped') return
    metrics.disconnects.inc({ reason: ending.reason })
    if (ending.reason === 'rewound') continue
    metrics.errors.inc()
    const held = Date.now() - began
    const waitMs = waitAfter(held, ending.waitMs)
    const { reason, detail } = ending
    health.notReady(`${host.name}: ${detail}`)
    const fields = { reason, detail, durationMs: held, waitMs: Math.round(waitMs) }
    // One warning when a host goes away, not one a try.
    if (reason !== 'unreachable') log.warn(fields, 'the connection has ended')
    else if (toldUnreachable) log.debug(fields, unreachableText)
    else log.warn(fields, unreachableText)
    toldUnreachable = reason === 'unreachable'
    await sleep(waitMs, signal)
  }
}

const unreachableText = 'the host can not be reached; trying again for as long as it takes'

/** What outlives a connection. */
interface Memory {
  broken: BrokenFrames
  clock: ClockWatch
}

async function session(options: FollowOptions, memory: Memory): Promise<Ending> {
  const { signal, producer } = options
  try {
    const cursor = await producer.cursor()
    using socket = await connect(options, cursor)
    return await readAndAppend(options, memory, socket, cursor === null ? null : Number(cursor))
  } catch (error) {
    if (signal.aborted) return ended('stopped', 'stopped')
    if (error instanceof RewoundError) {
      options.onRewound?.()
      options.log.error(
        { cursor: error.cursor },
        'Redis has gone back; reading again from the older position',
      )
      return ended('rewound', 'Redis has gone back')
    }
    if (!(error instanceof ConnectionError)) throw error
    const cause = error.cause instanceof Error ? `: ${error.cause.message}` : ''
    return ended('unreachable', `${error.message}${cause}`, error.retryAfterMs)
  }
}

async function connect(options: FollowOptions, cursor: string | null): Promise<Socket> {
  const { host, method, start, signal, idleTimeoutMs, log, metrics, health } = options
  const url = new URL(`${host.ws}/xrpc/${method}`)
  if (cursor !== null) url.searchParams.set('cursor', cursor)
  else {
    if (start === 'oldest') url.searchParams.set('cursor', '0')
    log.warn(
      { start },
      'no position is stored: if Redis was lost, stop this, run sluice resume --from-postgres and start again',
    )
  }
  const onPressure = (pressed: boolean) => metrics.backpressure.inc(pressed ? 1 : -1)
  const socket = await openSocket({ url: url.href, signal, idleTimeoutMs, onPressure })
  health.ready()
  log.info({ cursor: url.searchParams.get('cursor') ?? 'live' }, 'connected')
  return socket
}

async function readAndAppend(
  options: FollowOptions,
  memory: Memory,
  socket: Socket,
  cursor: number | null,
): Promise<Ending> {
  const { signal, metrics } = options
  metrics.connections.inc()
  let counted = 0
  const countInMemory = (now: number) => {
    metrics.inMemory.inc(now - counted)
    counted = now
  }
  let ending = ended('stopped', 'stopped')
  try {
    const failed = new AbortController()
    const either = AbortSignal.any([signal, failed.signal])
    const window = createWindow<Translation, Mark>(windowLimits, either)
    const intake = async () => {
      const seen = { ownPosition: false, stale: false, behind: false }
      const positions = createPositions(cursor)
      const session = { ...memory, socket, window, cursor, positions, seen, signal: either }
      try {
        ending = await readFrames({ ...options, ...session })
      } finally {
        window.end()
      }
    }
    const drain = async () => {
      try {
        await appendResults(options, window, () => {
          const inMemory = window.count + socket.waiting
          countInMemory(inMemory)
          return inMemory
        })
      } finally {
        failed.abort()
        socket[Symbol.dispose]()
      }
    }
    await runTogether(signal, [intake, drain])
  } finally {
    metrics.connections.dec()
    countInMemory(0)
  }
  return signal.aborted ? ended('stopped', 'stopped') : ending
}

interface Intake extends FollowOptions, Memory {
  socket: Socket
  window: Window<Translation, Mark>
  /** The durable position that the session began after. */
  cursor: number | null
  positions: Positions
  /** What the session has met already. */
  seen: { ownPosition: boolean; stale: boolean; behind: boolean }
}

/** Reads until the connection ends, the host says why it must, or a frame is broken. */
async function readFrames(intake: Intake): Promise<Ending> {
  const { socket, window, stream, signal, translate, metrics, positions, clock, onFrame } = intake
  /** Opened, and its end not known yet. */
  let gap: { reason: GapReason; from: string | null } | null = null
  for (let number = 1; ; number += 1) {
    const frame = await socket.next()
    if (frame === null) return ended('closed', socket.ended ?? 'closed')
    if (signal.aborted) return ended('stopped', 'stopped')
    onFrame()
    crashPoint('ingester.read', stream)
    const message = await decodeOrSetAside(intake, frame, positions.last)
    if (message === 'again') return ended('broken-frame', 'a frame could not be decoded')
    if (message === 'aside') {
      gap = await beginGap(intake, 'frame', positions.last)
      continue
    }
    metrics.frames.inc({ kind: kindOf(message) })
    if (message.type === 'error') return errorFrame(intake, message.error, message.message)
    if (message.type === 'info') {
      if (inform(intake, message)) gap = await beginGap(intake, 'outdated-cursor', intake.cursor)
      continue
    }
    const { seq } = message
    let mark: Mark | null = null
    if (seq !== null) {
      const { last } = positions
      const claim = positions.claim(seq, { jumpIsKnown: gap?.reason === 'outdated-cursor' })
      if (claim === 'back') {
        refuseStale(intake, message, seq, last)
        continue
      }
      if (claim === 'new') mark = { seq, time: 'time' in message ? message.time : null }
      else await doubt(intake, claim, seq, last)
      if (gap !== null && claim === 'new') {
        await intake.openGap({ ...gap, to: String(seq) })
        gap = null
      }
    }
    if (message.type === 'commit' && !clock.holds(message.rev)) return wrongClock(intake, message)
    if (message.type === 'malformed') refuseMalformed(intake, message)
    if (seq !== null && intake.seen.behind) {
      intake.seen.behind = false
      intake.health.ready()
    }
    const result = translate(message).then((translation) => {
      crashPoint('ingester.translated', stream)
      return translation
    })
    // The labels of a host keep their order: one may take back another.
    const key = 'did' in message ? message.did : message.type
    await window.push(result, { bytes: frame.length, key, mark })
    if (number % breatheEvery === 0) {
      await breathe()
      await intake.notTooMany?.()
    }
  }
}

/** In the ledger before anything after it is durable; its end is added when the next position is known. */
async function beginGap(intake: Intake, reason: GapReason, after: number | null) {
  const gap = { reason, from: after === null ? null : String(after) }
  await intake.openGap({ ...gap, to: null })
  return gap
}

/** Tells of a position that is not believed, or was believed and should not have been. */
async function doubt(
  { openGap, log, metrics }: Intake,
  claim: 'held' | 'corrects',
  seq: number,
  last: number | null,
): Promise<void> {
  metrics.doubted.inc({ claim })
  if (claim === 'held') {
    log.warn({ seq, last }, 'a position far ahead is not believed until the next one confirms it')
    return
  }
  // The durable position may be the wrong one already: a restart would not read what it jumped over.
  await openGap({ reason: 'position', from: String(seq - 1), to: String(last) })
  log.error({ seq, last }, 'a position was too far ahead: what it jumped over comes after all')
}

function wrongClock({ log, metrics, now = Date.now }: Intake, { seq, rev, time }: CommitMessage) {
  metrics.errors.inc()
  const ours = new Date(now()).toISOString()
  log.error(
    { seq, rev, relay: time, ours },
    'over a fifth of the commits are from our future: our clock or that of the relay is wrong; reading stops until they agree',
  )
  const detail = `our clock (${ours}) or that of the relay (${time}) is wrong`
  return ended('clock', detail, clockWaitMs)
}

/** The message; `again` when the connection is to be made anew for it; `aside` when it was given up. */
async function decodeOrSetAside(
  { broken, deadLetters, host, log, metrics }: Intake,
  frame: Uint8Array,
  last: number | null,
): Promise<Message | 'again' | 'aside'> {
  try {
    return decodeFrame(frame)
  } catch (error) {
    if (!(error instanceof FrameError)) throw error
    metrics.brokenFrames.inc()
    metrics.errors.inc()
    if (broken.isAside(frame, last)) return 'aside'
    const tries = broken.count(frame, last)
    const fields = { seq: last, attempt: tries, bytes: frame.length, err: error }
    if (tries < framesTries) {
      log.warn(fields, 'a frame after this position can not be decoded; connecting again')
      return 'again'
    }
    const where = { host: host.name, after: String(last ?? ''), attempts: String(tries) }
    await deadLetters.write({ ...frameFields(frame, error), ...where, consumer: 'ingester' })
    broken.setAside(frame, last)
    metrics.deadFrames.inc()
    log.error(fields, 'a frame was set aside: reading goes on after it')
    return 'aside'
  }
}

function errorFrame({ log, metrics }: Intake, error: string, message: string | null): Ending {
  const detail = `the host says ${error.slice(0, 80)}: ${(message ?? '').slice(0, 200)}`
  if (error === 'FutureCursor') {
    metrics.future.inc()
    log.error(
      { detail },
      'the host is behind our position: is it another host, or was it reset? An operator must decide; the position stays',
    )
    return ended('error-frame', detail, futureWaitMs)
  }
  return ended('error-frame', detail, error === 'ConsumerTooSlow' ? slowWaitMs : 0)
}

/** True when events are missing. */
function inform({ cursor, log, metrics }: Intake, { name, message }: InfoMessage): boolean {
  const fields = { name, message, seq: cursor }
  if (name !== 'OutdatedCursor') {
    log.info(fields, 'the host informs')
    return false
  }
  metrics.outdated.inc()
  log.error(fields, 'the host no longer has what followed our position: events are missing')
  return true
}

function refuseMalformed({ log, metrics }: Intake, message: MalformedMessage): void {
  const { kind, reason, seq } = message
  metrics.refused.inc({ kind: kind.slice(1), reason })
  metrics.errors.inc()
  log.debug({ seq, reason }, 'a frame of a known kind has a wrong field')
}

/** Counts a frame that is not new: the replay of our own position, or one that goes back. */
function refuseStale(intake: Intake, message: Message, seq: number, last: number | null): void {
  const { host, cursor, log, metrics, health, seen } = intake
  if (seq === cursor && !seen.ownPosition) {
    // The host replays from our position on, that one included.
    seen.ownPosition = true
    metrics.duplicates.inc()
    return
  }
  metrics.refused.inc({ kind: kindOf(message), reason: 'seq-back' })
  metrics.errors.inc()
  if (seq < (cursor ?? 0)) {
    seen.behind = true
    health.notReady(`${host.name} sends positions before ours`)
  }
  if (seen.stale) return
  seen.stale = true
  log.error({ seq, last }, 'the positions of the host do not go forward: such frames are refused')
}

function kindOf(message: Message): string {
  return message.type === 'malformed' ? message.kind.slice(1) : message.type
}

function ended(reason: Ending['reason'], detail: string, waitMs = 0): Ending {
  return { reason, detail, waitMs }
}
