/** A WebSocket that is read by pulling: what arrives waits in a queue bounded by bytes. */
import type { IncomingMessage } from 'node:http'
import WebSocket from 'ws'
import { version } from '../shared/metrics.ts'
import { createQueue } from './queue.ts'

/**
 * Of what is not read yet at most so much is held; then the socket itself is no longer read. Some 3 ms
 * of the fastest reading: what waits longer outlives the young objects, and is dearer to collect.
 */
const maxQueueBytes = 500_000
/** Far above the limit of a frame, so that one that is too large can be set aside, and not only cut off. */
const maxPayloadBytes = 64_000_000
/** With the name look-up: a host that can't be reached is reported within 10 s. */
const connectTimeoutMs = 8_000
const pingMs = 30_000
/** A host may ask for any pause; longer ones than this are not believed. */
const maxRetryAfterMs = 15 * 60_000

/** Why there is no connection, or no longer one. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError'
  /** How long the host asked us to stay away. */
  readonly retryAfterMs: number
  constructor(message: string, options: ErrorOptions & { retryAfterMs?: number } = {}) {
    super(message, options)
    this.retryAfterMs = options.retryAfterMs ?? 0
  }
}

export interface Socket extends Disposable {
  /** The next message; null when the connection has ended and all that arrived has been read. */
  next(): Promise<Uint8Array | null>
  /** Messages that arrived and were not read yet. */
  readonly waiting: number
  /** Why the connection ended; null while it has not. */
  readonly ended: string | null
}

export interface SocketOptions {
  url: string
  signal: AbortSignal
  /** Without any sign of life for so long, not even an answer to a ping, the connection is given up. */
  idleTimeoutMs: number
  /** Told when the socket is no longer read because the queue is full, and when it is again. */
  onPressure: (pressed: boolean) => void
}

/** Connects, or throws `ConnectionError`. The connection ends with the signal. */
export async function openSocket(options: SocketOptions): Promise<Socket> {
  const socket = new WebSocket(options.url, {
    maxPayload: maxPayloadBytes,
    perMessageDeflate: false,
    headers: { 'user-agent': `sluice/${version}` },
  })
  const pulled = createPulled(socket, options)
  await opened(socket, options.signal)
  return pulled
}

function opened(socket: WebSocket, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: ConnectionError) => {
      settle()
      reject(error)
      socket.terminate()
    }
    const onOpen = () => {
      settle()
      resolve()
    }
    const onResponse = (_: unknown, response: IncomingMessage) => {
      const retryAfterMs = retryAfter(response.headers['retry-after'], Date.now())
      fail(
        new ConnectionError(`the host answers with status ${response.statusCode}`, {
          retryAfterMs,
        }),
      )
    }
    const onError = (cause: Error) => fail(new ConnectionError('no connection', { cause }))
    const onAbort = () => fail(new ConnectionError('stopped'))
    const onTimeout = () =>
      fail(new ConnectionError(`no connection within ${connectTimeoutMs / 1_000} s`))
    const timer = setTimeout(onTimeout, connectTimeoutMs)
    const settle = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      socket.off('open', onOpen).off('unexpected-response', onResponse).off('error', onError)
    }
    socket.on('open', onOpen).on('unexpected-response', onResponse).on('error', onError)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}

/** What a Retry-After header asks for, in milliseconds from `now`; 0 when it asks for nothing. */
export function retryAfter(header: string | undefined, now: number): number {
  if (header === undefined || header.trim() === '') return 0
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1_000 : Date.parse(header) - now
  return Number.isNaN(ms) ? 0 : Math.min(Math.max(ms, 0), maxRetryAfterMs)
}

function createPulled(socket: WebSocket, options: SocketOptions): Socket {
  const { signal, idleTimeoutMs, onPressure } = options
  let messages = createQueue<Uint8Array>()
  let bytes = 0
  let paused = false
  let ended: string | null = null
  let lastSign = Date.now()
  let wake: (() => void) | null = null

  const notify = () => {
    wake?.()
    wake = null
  }
  const pause = (on: boolean) => {
    if (paused === on) return
    paused = on
    onPressure(on)
    if (socket.readyState !== WebSocket.OPEN) return
    if (on) socket.pause()
    else socket.resume()
    lastSign = Date.now()
  }
  const end = (reason: string) => {
    if (ended !== null) return
    ended = reason
    clearInterval(timer)
    signal.removeEventListener('abort', onAbort)
    pause(false)
    notify()
  }
  const onAbort = () => {
    end('stopped')
    socket.terminate()
  }
  const timer = setInterval(
    () => {
      // While we do not read we can't see an answer either.
      if (paused || socket.readyState !== WebSocket.OPEN) return
      if (Date.now() - lastSign <= idleTimeoutMs) return socket.ping()
      end(`silent for ${idleTimeoutMs} ms`)
      socket.terminate()
    },
    Math.min(pingMs, Math.ceil(idleTimeoutMs / 3)),
  )
  signal.addEventListener('abort', onAbort, { once: true })

  socket.binaryType = 'nodebuffer'
  socket.on('message', (data: Buffer) => {
    if (ended !== null) return
    lastSign = Date.now()
    messages.add(data)
    bytes += data.length
    if (bytes >= maxQueueBytes) pause(true)
    notify()
  })
  socket.on('pong', () => {
    lastSign = Date.now()
  })
  socket.on('error', (error) => end(`failed: ${error.message}`))
  socket.on('close', (code, reason) =>
    end(
      `closed by the host (${code}${reason.length > 0 ? `, ${reason.toString().slice(0, 200)}` : ''})`,
    ),
  )

  const take = (): Uint8Array | null => {
    const message = messages.first()
    if (message === undefined) return null
    messages.drop()
    bytes -= message.length
    if (bytes < maxQueueBytes / 2) pause(false)
    return message
  }

  return {
    async next() {
      for (;;) {
        const message = take()
        if (message !== null || ended !== null) return message
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    },
    get waiting() {
      return messages.length
    },
    get ended() {
      return ended
    },
    [Symbol.dispose]() {
      end('left')
      messages = createQueue()
      socket.terminate()
    },
  }
}
