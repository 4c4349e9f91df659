/** An event stream endpoint: a replay window served over WebSockets, each reader at its own pace. */
import { EventEmitter, once } from 'node:events'
import type { IncomingMessage, Server } from 'node:http'
import type { Duplex } from 'node:stream'
import type { LexMap } from '@atproto/lex-data'
import { type WebSocket, WebSocketServer } from 'ws'
import type { FaultKind } from './faults.ts'
import { type FrameFault, type FrameTarget, sendSpoilt } from './frame-faults.ts'
import { errorFrame, messageFrame } from './frames.ts'
import { subjectOf } from './lies.ts'
import { createRandom, type Random } from './random.ts'
import { createSwitches, type Fault, type Switches, type Taken, type When } from './switches.ts'
import { createWindow, type ReplayWindow } from './window.ts'

export interface EventStreamOptions {
  /** The XRPC method, as `com.atproto.sync.subscribeRepos`. */
  method: string
  server: Server
  firstSeq: number
  windowBytes: number
  /** Bytes handed to one socket and not yet taken by the kernel; at the bound that reader waits. */
  maxBufferedBytes: number
  /** A reader more bytes behind than this gets ConsumerTooSlow; leaving the window has the same end. */
  maxLagBytes: number
  pingMs: number
  /** Draws the faults; their names begin with `host`. */
  random?: Random
  host?: string
  /** A fault of the request with which a reader connects. */
  takeUpgrade?: (request: IncomingMessage) => Taken<FaultKind> | undefined
}

interface Reader {
  socket: WebSocket
  wire: Duplex
  /** Index in the window of the frame to send next. */
  next: number
  /** A spoilt frame is under way to it: until it is there, none follows. */
  busy: boolean
}

export class EventStream {
  readonly #options: EventStreamOptions
  #window: ReplayWindow
  readonly #readers = new Set<Reader>()
  readonly #changes = new EventEmitter()
  readonly #sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false })
  readonly #pings: NodeJS.Timeout
  readonly #faults: Switches<FrameTarget, FrameFault>

  constructor(options: EventStreamOptions) {
    this.#options = options
    this.#window = createWindow(options.windowBytes, options.firstSeq)
    this.#changes.setMaxListeners(0)
    const { random = createRandom('frames'), host = 'stream' } = options
    this.#faults = createSwitches(random, host)
    options.server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head))
    this.#pings = setInterval(() => {
      for (const { socket } of this.#readers) socket.ping()
    }, options.pingMs)
    this.#pings.unref()
  }

  /** The newest seq; one less than the first when nothing was sent yet. */
  get lastSeq(): number {
    return this.#window.lastSeq
  }

  /** The oldest seq that can be replayed; null when there is none. */
  get oldestSeq(): number | null {
    return this.#window.at(this.#window.start)?.seq ?? null
  }

  get readers(): number {
    return this.#readers.size
  }

  /** Bytes that the slowest reader has still to be sent. */
  get lagBytes(): number {
    let lag = 0
    for (const { next, busy } of this.#readers) {
      lag = Math.max(lag, this.#window.bytesFrom(busy ? next - 1 : next))
    }
    return lag
  }

  /** Puts a frame into the window and sends it to every reader that keeps up. */
  append(frame: Uint8Array, seq: number | null): void {
    this.#window.append(frame, seq)
    if (this.#faults.armed) this.#changes.emit('change')
    for (const reader of this.#readers) this.#pump(reader)
  }

  /** The frames kept, in order. */
  frames(): Uint8Array[] {
    const kept: Uint8Array[] = []
    for (let index = this.#window.start; index < this.#window.end; index++) {
      const entry = this.#window.at(index)
      if (entry !== undefined) kept.push(entry.frame)
    }
    return kept
  }

  /** Resolves when at least `count` readers are connected. */
  subscribed(count = 1): Promise<void> {
    return this.#until(() => this.#readers.size >= count)
  }

  /** Resolves when no reader has more than `bytes` still to be sent. */
  delivered(bytes = 0): Promise<void> {
    return this.#until(() => this.lagBytes <= bytes)
  }

  /** Spoils frames on their way to each reader; by default each frame once. */
  fault(target: FrameTarget, fault: FrameFault, when?: number | When): Fault {
    return this.#faults.add(target, fault, when)
  }

  get faults(): readonly Fault[] {
    return this.#faults.all
  }

  /** Cuts every reader's connection; they may come back. */
  disconnect(): void {
    for (const { socket } of this.#readers) socket.terminate()
  }

  /** Begins anew at this seq, with nothing to replay: every reader's connection is cut. */
  restart(firstSeq: number): void {
    this.#window = createWindow(this.#options.windowBytes, firstSeq)
    this.disconnect()
  }

  close(): void {
    clearInterval(this.#pings)
    for (const socket of this.#sockets.clients) socket.terminate()
    this.#sockets.close()
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await once(this.#changes, 'change')
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const url = new URL(request.url ?? '/', 'http://loopback')
    const cursor = parseCursor(url.searchParams.get('cursor'))
    socket.on('error', () => socket.destroy())
    const taken = this.#options.takeUpgrade?.(request)
    if (taken !== undefined && spoilUpgrade(taken, socket)) return
    if (url.pathname !== `/xrpc/${this.#options.method}`) {
      refuse(socket, '404 Not Found', 'NotFound')
    } else if (cursor === 'invalid') {
      refuse(socket, '400 Bad Request', 'InvalidRequest')
    } else {
      this.#sockets.handleUpgrade(request, socket, head, (ws) => this.#accept(ws, socket, cursor))
    }
  }

  #accept(socket: WebSocket, wire: Duplex, cursor: number | null): void {
    socket.on('error', () => socket.terminate())
    if (cursor !== null && cursor > this.lastSeq) {
      dismiss(socket, 'FutureCursor', 'Cursor in the future.')
      return
    }
    const oldest = this.oldestSeq
    if (cursor !== null && cursor > 0 && oldest !== null && cursor < oldest) {
      const message = 'Requested cursor exceeded limit. Possibly missing events'
      socket.send(messageFrame('#info', { name: 'OutdatedCursor', message }))
    }
    const next = cursor === null ? this.#window.end : this.#window.find(cursor)
    const reader = { socket, wire, next, busy: false }
    this.#readers.add(reader)
    socket.on('close', () => {
      this.#readers.delete(reader)
      this.#changes.emit('change')
    })
    this.#changes.emit('change')
    this.#pump(reader)
  }

  #pump(reader: Reader): void {
    const { socket } = reader
    const { maxBufferedBytes, maxLagBytes } = this.#options
    if (reader.busy || socket.readyState !== socket.OPEN) return
    if (reader.next < this.#window.start || this.#window.bytesFrom(reader.next) > maxLagBytes) {
      this.#readers.delete(reader)
      this.#changes.emit('change')
      dismiss(socket, 'ConsumerTooSlow', 'Stream consumer too slow')
      return
    }
    while (socket.bufferedAmount < maxBufferedBytes) {
      const entry = this.#window.at(reader.next)
      if (entry === undefined) break
      const index = reader.next++
      const taken = this.#faults.armed ? this.#take(entry.frame, index) : undefined
      if (taken !== undefined) {
        this.#spoil(reader, entry.frame, taken)
        break
      }
      // Only the frame that fills the buffer calls back: one wake-up per buffer, not one per frame.
      const full = socket.bufferedAmount + entry.frame.length >= maxBufferedBytes
      socket.send(entry.frame, full ? () => this.#pump(reader) : undefined)
    }
    this.#changes.emit('change')
  }

  #take(frame: Uint8Array, index: number): Taken<FrameFault> | undefined {
    const { type, did } = subjectOf(frame)
    const fits = (target: FrameTarget) =>
      (target.did ?? did) === did && (target.type ?? type) === type
    return this.#faults.take(fits, String(index))
  }

  /** Nothing else goes to the reader until the spoilt frame has. */
  #spoil(reader: Reader, frame: Uint8Array, taken: Taken<FrameFault>): void {
    const { socket, wire } = reader
    reader.busy = true
    const before = (did: string) => this.#commitBefore(did, reader.next - 1)
    const following = async (withinMs: number) => {
      const late = AbortSignal.timeout(withinMs)
      while (this.#window.end <= reader.next && !late.aborted && this.#readers.has(reader)) {
        await once(this.#changes, 'change', { signal: late }).catch(() => undefined)
      }
      const entry = this.#window.at(reader.next)
      if (entry !== undefined) reader.next++
      return entry?.frame ?? null
    }
    sendSpoilt(taken, { socket, wire, frame, before, following })
      .catch(() => socket.terminate())
      .finally(() => {
        reader.busy = false
        this.#changes.emit('change')
        this.#pump(reader)
      })
  }

  /** The body of the account's newest commit before the frame at an index. */
  #commitBefore(did: string, index: number): LexMap | null {
    for (let at = index - 1; at >= this.#window.start; at--) {
      const entry = this.#window.at(at)
      const subject = entry && subjectOf(entry.frame)
      if (subject?.type === '#commit' && subject.did === did) return subject.body
    }
    return null
  }
}

/** Whether the reader got no connection. */
function spoilUpgrade({ fault, fire }: Taken<FaultKind>, socket: Duplex): boolean {
  switch (fault.kind) {
    case 'status':
      fire()
      refuse(socket, `${fault.status} Refused`, fault.error ?? 'Refused', fault.headers)
      return true
    case 'drop':
      fire()
      socket.destroy()
      return true
    case 'hang':
      fire()
      return true
    default:
      return false
  }
}

function parseCursor(text: string | null): number | null | 'invalid' {
  if (text === null) return null
  return /^\d{1,15}$/.test(text) ? Number(text) : 'invalid'
}

function refuse(
  socket: Duplex,
  status: string,
  error: string,
  headers: Record<string, string> = {},
): void {
  const body = JSON.stringify({ error, message: error })
  const more = Object.entries(headers).map(([name, value]) => `\r\n${name}: ${value}`)
  const type = 'content-type: application/json\r\nconnection: close'
  const head = `HTTP/1.1 ${status}\r\n${type}${more.join('')}`
  socket.end(`${head}\r\ncontent-length: ${body.length}\r\n\r\n${body}`)
}

function dismiss(socket: WebSocket, error: string, message: string): void {
  socket.send(errorFrame(error, message))
  socket.close(1008, error)
  // A reader that does not read never answers the close.
  setTimeout(() => socket.terminate(), 5_000).unref()
}
