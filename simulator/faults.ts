/** Faults of an HTTP host: switched on, counted, switched off. */
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { bodyBytes, type Reply, type Request, send, writeHead } from './http.ts'

export type FaultKind =
  /** Another answer in place of the true one. */
  | { kind: 'status'; status: number; error?: string; headers?: Record<string, string> }
  /** The body ends at a byte: with the connection cut, or `clean`, as if that were all. */
  | { kind: 'truncate'; atByte: number; clean?: boolean }
  /** No answer until the client gives up. */
  | { kind: 'hang' }
  /** The body comes at this many bytes a second. */
  | { kind: 'slow'; bytesPerSecond: number }
  /** One bit of the byte at this place is flipped. */
  | { kind: 'corrupt'; atByte: number }

export interface FaultTarget {
  /** Only requests for this account (`did` or `repo` in the query). */
  did?: string
  /** Only this XRPC method, as `com.atproto.sync.getRepo`. */
  method?: string
}

export interface Fault {
  /** How often it has fired. */
  readonly fired: number
  clear(): void
}

export interface Faults {
  add(target: FaultTarget, fault: FaultKind, times?: number): Fault
  /** Sends the reply, spoilt by the first fault that fits the request. */
  send(request: Request, reply: Reply, response: ServerResponse): Promise<void>
}

/** A fault fires for each request that fits its target, `times` times at most. */
export function createFaults(): Faults {
  const active = new Set<{ target: FaultTarget; fault: FaultKind; left: number; fired: number }>()

  const take = (request: Request) => {
    for (const entry of active) {
      if (!fits(entry.target, request)) continue
      entry.fired++
      entry.left--
      if (entry.left <= 0) active.delete(entry)
      return entry.fault
    }
    return undefined
  }

  return {
    add(target, fault, times = Number.POSITIVE_INFINITY) {
      const entry = { target, fault, left: times, fired: 0 }
      active.add(entry)
      return {
        get fired() {
          return entry.fired
        },
        clear: () => void active.delete(entry),
      }
    },
    async send(request, reply, response) {
      const fault = take(request)
      return fault === undefined ? send(reply, response) : sendSpoilt(fault, reply, response)
    },
  }
}

function fits({ did, method }: FaultTarget, { path, query }: Request): boolean {
  if (method !== undefined && path !== `/xrpc/${method}`) return false
  return did === undefined || query.get('did') === did || query.get('repo') === did
}

async function sendSpoilt(fault: FaultKind, reply: Reply, response: ServerResponse): Promise<void> {
  switch (fault.kind) {
    case 'status': {
      const { status, error = status === 429 ? 'RateLimitExceeded' : 'InternalServerError' } = fault
      const headers = { ...reply.headers, ...fault.headers, 'content-type': 'application/json' }
      return send({ status, headers, body: { error, message: error } }, response)
    }
    case 'truncate': {
      const body = bodyBytes(reply).subarray(0, fault.atByte)
      if (fault.clean === true) return send({ ...reply, body }, response)
      writeHead(reply, response)
      await new Promise((resolve) => response.write(body, resolve))
      response.destroy()
      return
    }
    case 'hang':
      await once(response, 'close')
      return
    case 'slow':
      return sendSlowly(fault.bytesPerSecond, reply, response)
    case 'corrupt': {
      const body = Uint8Array.from(bodyBytes(reply))
      const spoilt = body[fault.atByte]
      if (spoilt !== undefined) body[fault.atByte] = spoilt ^ 1
      return send({ ...reply, body }, response)
    }
  }
}

async function sendSlowly(bytesPerSecond: number, reply: Reply, response: ServerResponse) {
  writeHead(reply, response)
  const body = bodyBytes(reply)
  const size = Math.max(1, Math.ceil(bytesPerSecond / 20))
  for (let at = 0; at < body.length && !response.destroyed; at += size) {
    response.write(body.subarray(at, at + size))
    await delay(50)
  }
  response.end()
}
