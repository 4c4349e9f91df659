/** Faults of an HTTP host: switched on, counted, switched off. */
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { bodyBytes, type Reply, type Request, send, writeHead } from './http.ts'
import { type Lie, lyingCar, lyingJson, rearrangedCar, rearrangedJson } from './lies.ts'
import { createRandom, type Random } from './random.ts'
import { createSwitches, type Fault, type Switches, type Taken, type When } from './switches.ts'

/** Where a place is left out, the seed draws it. */
export type FaultKind =
  /** Another answer in place of the true one: 429, 5xx, … */
  | { kind: 'status'; status: number; error?: string; headers?: Record<string, string> }
  /** The connection is cut in place of an answer. */
  | { kind: 'drop' }
  /** The answer comes so much later. */
  | { kind: 'delay'; ms: number }
  /** The body ends at a byte: with the connection cut, or `clean`, as if that were all. */
  | { kind: 'truncate'; atByte?: number; clean?: boolean }
  /** No answer until the client gives up. */
  | { kind: 'hang' }
  /** The body comes at this many bytes a second. */
  | { kind: 'slow'; bytesPerSecond: number }
  /** One bit of the byte at this place is flipped. */
  | { kind: 'corrupt'; atByte?: number }
  /** The blocks of a CAR, or the entries of a list, the other way round. */
  | { kind: 'reorder' }
  /** Each block of a CAR, or each entry of a list, twice. */
  | { kind: 'duplicate' }
  /**
   * What is well-formed and not true: a commit or document with a stranger's key, content or a head
   * that is not what its CID says, or what was true earlier. Fires where there is such a thing.
   */
  | { kind: 'lie'; about: Lie }
  /** The body goes on for so many bytes; default 100,000,000. */
  | { kind: 'oversize'; bytes?: number }

export interface FaultTarget {
  /** Only requests for this account (`did` or `repo` in the query, or the path). */
  did?: string
  /** Only this XRPC method, as `com.atproto.sync.getRepo`. */
  method?: string
}

export interface Faults {
  /** Meets the requests that fit; a number is how many at most. */
  add(target: FaultTarget, fault: FaultKind, when?: number | When): Fault
  /** Sends the reply, spoilt by the first fault that fits the request. */
  send(request: Request, reply: Reply, response: ServerResponse): Promise<void>
  /** For a request that has no reply of its own, as an upgrade. */
  take(request: Request): Taken<FaultKind> | undefined
  readonly all: readonly Fault[]
}

/** `host` is for the names of the faults. */
export function createFaults(random: Random = createRandom('faults'), host = 'host'): Faults {
  const switches: Switches<FaultTarget, FaultKind> = createSwitches(random, host)
  const earlier = new Map<string, Reply>()
  const take = (request: Request) => switches.take((target) => fits(target, request))
  return {
    add: switches.add,
    take,
    all: switches.all,
    async send(request, reply, response) {
      const taken = take(request)
      if (taken === undefined) return send(reply, response)
      const { fault } = taken
      const spoilt =
        fault.kind === 'lie' && fault.about === 'rev'
          ? olderReply(request, reply, earlier)
          : await spoil(taken, reply)
      if (spoilt === null) return send(reply, response)
      taken.fire()
      return deliver(taken, spoilt, response)
    },
  }
}

function fits({ did, method }: FaultTarget, { path, query }: Request): boolean {
  if (method !== undefined && path !== `/xrpc/${method}`) return false
  if (did === undefined || query.get('did') === did || query.get('repo') === did) return true
  return decodeURIComponent(path).split('/').includes(did)
}

/** The first answer to this request, once the true one is another; JSON of the same shape with an old rev. */
function olderReply(request: Request, reply: Reply, earlier: Map<string, Reply>): Reply | null {
  if (!(reply.body instanceof Uint8Array)) return jsonReply(reply, (body) => lyingJson(body, 'rev'))
  const name = `${request.path}?${request.query}`
  const first = earlier.get(name)
  if (first === undefined) earlier.set(name, reply)
  if (first === undefined || Buffer.compare(bodyBytes(first), bodyBytes(reply)) === 0) return null
  return first
}

function jsonReply(reply: Reply, change: (body: unknown) => unknown): Reply | null {
  if (typeof reply.body !== 'object' || (reply.status ?? 200) >= 400) return null
  const body = change(JSON.parse(JSON.stringify(reply.body)))
  return body === null ? null : { ...reply, body: body as object }
}

/** What is sent in the reply's place; null when the fault has nothing to do with such a reply. */
async function spoil({ fault, random }: Taken<FaultKind>, reply: Reply): Promise<Reply | null> {
  switch (fault.kind) {
    case 'status': {
      const { status, error = status === 429 ? 'RateLimitExceeded' : 'InternalServerError' } = fault
      const headers = { ...reply.headers, ...fault.headers, 'content-type': 'application/json' }
      return { status, headers, body: { error, message: error } }
    }
    case 'corrupt': {
      const body = Uint8Array.from(bodyBytes(reply))
      const { atByte = random.below(body.length) } = fault
      const spoilt = body[atByte]
      if (spoilt !== undefined) body[atByte] = spoilt ^ 1
      return typed({ ...reply, body }, reply)
    }
    case 'oversize': {
      const { bytes = 100_000_000 } = fault
      // Spaces at the end leave JSON what it is: only its size is wrong.
      const padding = Buffer.alloc(bytes, reply.body instanceof Uint8Array ? 0 : ' ')
      return typed({ ...reply, body: Buffer.concat([bodyBytes(reply), padding]) }, reply)
    }
    case 'reorder':
    case 'duplicate': {
      const { kind } = fault
      const { body } = reply
      if (!(body instanceof Uint8Array)) return jsonReply(reply, (of) => rearrangedJson(of, kind))
      return { ...reply, body: rearrangedCar(body, kind) }
    }
    case 'lie': {
      const { about } = fault
      const { body } = reply
      if (!(body instanceof Uint8Array)) return jsonReply(reply, (of) => lyingJson(of, about))
      return about === 'rev' ? null : { ...reply, body: (await lyingCar(body, about)).bytes }
    }
    default:
      return reply
  }
}

/** Keeps the content type of a body that became bytes. */
function typed(reply: Reply, { headers, body }: Reply): Reply {
  const type = body instanceof Uint8Array ? 'application/octet-stream' : 'application/json'
  return { ...reply, headers: { 'content-type': type, ...headers } }
}

async function deliver(
  { fault, random }: Taken<FaultKind>,
  reply: Reply,
  response: ServerResponse,
): Promise<void> {
  switch (fault.kind) {
    case 'drop':
      response.destroy()
      return
    case 'delay':
      await delay(fault.ms)
      return send(reply, response)
    case 'truncate': {
      const whole = bodyBytes(reply)
      const body = whole.subarray(0, fault.atByte ?? random.below(whole.length))
      if (fault.clean === true) return send(typed({ ...reply, body }, reply), response)
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
    default:
      return send(reply, response)
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
