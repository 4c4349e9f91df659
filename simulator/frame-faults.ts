/** Faults of an event stream: what happens to a frame on its way to one reader. */
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { LexMap } from '@atproto/lex-data'
import type { WebSocket } from 'ws'
import { type FrameLie, lyingFrame } from './lies.ts'
import type { Taken } from './switches.ts'

/** Where a place is left out, the seed draws it. */
export type FrameFault =
  /** The frame is left out. */
  | { kind: 'drop' }
  /** It and all that follow come so much later. */
  | { kind: 'delay'; ms: number }
  /** A message that ends at a byte of it. */
  | { kind: 'truncate'; atByte?: number }
  /** One bit of the byte at this place is flipped. */
  | { kind: 'corrupt'; atByte?: number }
  /** It comes after the one that follows, when one follows within a second. */
  | { kind: 'reorder' }
  | { kind: 'duplicate' }
  /**
   * A forged signature, content that is not what its CID says, the account's commit before this one,
   * or this one without its first op and `prevData`.
   */
  | { kind: 'lie'; about: FrameLie }
  /** It comes in fragments, at this many bytes a second. */
  | { kind: 'slow'; bytesPerSecond: number }
  /** Nothing but pings for so long, default for ever; without `pings` not even an answer to one. */
  | { kind: 'silence'; ms?: number; pings?: boolean }
  /** The connection ends within the frame. */
  | { kind: 'disconnect'; atByte?: number }
  /** It goes on for so many bytes, default 6,000,000. */
  | { kind: 'oversize'; bytes?: number }

export interface FrameTarget {
  /** Only frames about this account. */
  did?: string
  /** Only frames of this kind, as `#commit`. */
  type?: string
}

/** A frame that is to be sent to a reader, and what surrounds it. */
export interface Sending {
  socket: WebSocket
  /** The connection below the socket. */
  wire: Duplex
  frame: Uint8Array
  /** The account's commit before this one. */
  before: (did: string) => LexMap | null
  /** The frame after this one, which is then sent no more; null when none comes in time. */
  following: (withinMs: number) => Promise<Uint8Array | null>
}

/** Pings of a silent connection come so often. */
const pingEveryMs = 200
const followingWithinMs = 1_000

/** Sends the frame in its spoilt form; `fire` is called when it is one. */
export async function sendSpoilt(
  { fault, random, fire }: Taken<FrameFault>,
  sending: Sending,
): Promise<void> {
  const { socket, frame } = sending
  const place = (atByte: number | undefined) => atByte ?? random.below(frame.length)
  switch (fault.kind) {
    case 'drop':
      return fire()
    case 'delay':
      fire()
      await delay(fault.ms)
      return socket.send(frame)
    case 'truncate':
      fire()
      return socket.send(frame.subarray(0, place(fault.atByte)))
    case 'corrupt': {
      fire()
      const copy = Uint8Array.from(frame)
      const at = place(fault.atByte)
      copy[at] = (copy[at] ?? 0) ^ 1
      return socket.send(copy)
    }
    case 'reorder': {
      const next = await sending.following(followingWithinMs)
      if (next !== null) {
        fire()
        socket.send(next)
      }
      return socket.send(frame)
    }
    case 'duplicate':
      fire()
      socket.send(frame)
      return socket.send(frame)
    case 'lie': {
      const lie = await lyingFrame(frame, fault.about, sending.before)
      if (lie !== null) fire()
      return socket.send(lie ?? frame)
    }
    case 'slow':
      fire()
      return sendSlowly(socket, frame, fault.bytesPerSecond)
    case 'silence':
      fire()
      await beSilent(sending, fault)
      return socket.send(frame)
    case 'disconnect':
      fire()
      return cutWithin(sending, place(fault.atByte))
    case 'oversize':
      fire()
      return socket.send(Buffer.concat([frame, Buffer.alloc(fault.bytes ?? 6_000_000)]))
  }
}

async function sendSlowly(socket: WebSocket, frame: Uint8Array, bytesPerSecond: number) {
  const size = Math.max(1, Math.ceil(bytesPerSecond / 20))
  for (let at = 0; at < frame.length && socket.readyState === socket.OPEN; at += size) {
    const fin = at + size >= frame.length
    socket.send(frame.subarray(at, at + size), { binary: true, fin })
    if (!fin) await delay(50)
  }
}

async function beSilent({ socket, wire }: Sending, fault: { ms?: number; pings?: boolean }) {
  const { ms, pings = true } = fault
  const closed = new AbortController()
  const over = once(socket, 'close', { signal: closed.signal }).catch(() => {})
  const timer = pings ? setInterval(() => socket.ping(), pingEveryMs) : null
  if (!pings) wire.pause()
  const wait = ms === undefined ? [] : [delay(ms, undefined, { signal: closed.signal })]
  await Promise.race([over, ...wait])
  closed.abort()
  await Promise.allSettled(wait)
  if (timer !== null) clearInterval(timer)
  if (!pings) wire.resume()
}

/** The head of a whole message, a part of it, and the end of the connection. */
async function cutWithin({ socket, wire, frame }: Sending, atByte: number): Promise<void> {
  const closed = once(socket, 'close')
  const part = Buffer.concat([messageHead(frame.length), frame.subarray(0, atByte)])
  wire.write(part, () => wire.destroy())
  await closed
}

/** RFC 6455, 5.2: a whole binary message, not masked. */
function messageHead(length: number): Buffer {
  if (length < 126) return Buffer.from([0x82, length])
  const head = Buffer.alloc(length < 65_536 ? 4 : 10)
  head[0] = 0x82
  head[1] = length < 65_536 ? 126 : 127
  if (length < 65_536) head.writeUInt16BE(length, 2)
  else head.writeBigUInt64BE(BigInt(length), 2)
  return head
}
