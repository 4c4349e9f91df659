/** HTTP, on loopback unless told otherwise: requests in, replies out, XRPC errors, faults on the way. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Faults } from './faults.ts'

export interface Request {
  method: string
  path: string
  query: URLSearchParams
  /** The Host header without its port. */
  hostname: string
}

export interface Reply {
  status?: number
  headers?: Record<string, string>
  /** Sent as JSON, or as it is when bytes or text. */
  body: Uint8Array | string | object
}

/** An XRPC error answer. */
export class XrpcError extends Error {
  readonly status: number
  readonly code: string
  readonly headers: Record<string, string>

  constructor(status: number, code: string, message: string, headers: Record<string, string> = {}) {
    super(message)
    this.status = status
    this.code = code
    this.headers = headers
  }
}

export interface Listener {
  /** `http://127.0.0.1:port`, or of another address */
  url: string
  /** `127.0.0.1:port` */
  host: string
  server: Server
  /** Stops listening and cuts every connection. */
  close(): Promise<void>
}

export interface ListenOptions {
  answer: (request: Request) => Reply | Promise<Reply>
  faults?: Faults
  /** Where it listens and says it is; default 127.0.0.1. */
  address?: string | undefined
  port?: number
}

/** Serves on a free port. An answer that throws anything but an XrpcError becomes a 500. */
export async function listen(options: ListenOptions): Promise<Listener> {
  const { answer, faults, address = '127.0.0.1', port = 0 } = options
  const server = createServer((incoming, response) => {
    respond(incoming, response).catch(() => response.destroy())
  })
  const respond = async (incoming: IncomingMessage, response: ServerResponse) => {
    incoming.resume()
    const request = parseRequest(incoming)
    const reply = await settle(() => answer(request))
    if (faults !== undefined) return faults.send(request, reply, response)
    await send(reply, response)
  }
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, address, resolve)
  })
  const host = `${address}:${(server.address() as AddressInfo).port}`
  return { url: `http://${host}`, host, server, close: () => close(server) }
}

/** The bytes of a reply's body. */
export function bodyBytes({ body }: Reply): Uint8Array {
  if (body instanceof Uint8Array) return body
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
}

/** Status and headers; the body is for the caller to send. */
export function writeHead(reply: Reply, response: ServerResponse): void {
  const type = reply.body instanceof Uint8Array ? 'application/octet-stream' : textType(reply.body)
  response.writeHead(reply.status ?? 200, { 'content-type': type, ...reply.headers })
}

/** Sends a reply in chunks, no faster than it is read. */
export async function send(reply: Reply, response: ServerResponse): Promise<void> {
  writeHead(reply, response)
  await pipeline(Readable.from(slices(bodyBytes(reply), 64 * 1024)), response)
}

/** A query parameter that must be there. */
export function required(query: URLSearchParams, name: string): string {
  const value = query.get(name)
  if (value === null || value === '') {
    throw new XrpcError(400, 'InvalidRequest', `Error: Params must have the property "${name}"`)
  }
  return value
}

/** `limit` as lexicons have it: 1 to `max`. */
export function limitOf(
  query: URLSearchParams,
  byDefault: number,
  max: number,
  name = 'limit',
): number {
  const text = query.get(name)
  if (text === null) return byDefault
  const limit = Number(text)
  if (!Number.isInteger(limit) || limit < 1 || limit > max) {
    throw new XrpcError(400, 'InvalidRequest', `Error: ${name} must be an integer from 1 to ${max}`)
  }
  return limit
}

/** What is asked for. */
export function parseRequest(incoming: IncomingMessage): Request {
  const url = new URL(incoming.url ?? '/', 'http://loopback')
  const hostname = (incoming.headers.host ?? '').replace(/:\d+$/, '').toLowerCase()
  return { method: incoming.method ?? 'GET', path: url.pathname, query: url.searchParams, hostname }
}

async function settle(answer: () => Reply | Promise<Reply>): Promise<Reply> {
  try {
    return await answer()
  } catch (error) {
    if (!(error instanceof XrpcError)) {
      return { status: 500, body: { error: 'InternalServerError', message: String(error) } }
    }
    const { status, headers, code, message } = error
    return { status, headers, body: { error: code, message } }
  }
}

function textType(body: string | object): string {
  return typeof body === 'string' ? 'text/plain' : 'application/json; charset=utf-8'
}

function* slices(bytes: Uint8Array, size: number) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

async function close(server: Server): Promise<void> {
  if (!server.listening) return
  const closed = new Promise<void>((resolve) => server.close(() => resolve()))
  server.closeAllConnections()
  await closed
}
