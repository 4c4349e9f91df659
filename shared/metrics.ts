/** What a worker shows of itself over HTTP: /metrics, /health and /ready. */
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import packageFile from '../package.json' with { type: 'json' }
import { errorText } from './errors.ts'

/** The version in package.json. */
export const version: string = packageFile.version

/** Whether the parts of a worker can do their work now. */
export interface Health {
  /** Declares a part, at first not ready. */
  part: (name: string) => Part
  /** The parts that are not ready, each with its reason. */
  problems: () => Record<string, string>
}

export interface Part {
  ready: () => void
  notReady: (reason: string) => void
}

export function createHealth(): Health {
  const reasons = new Map<string, string | null>()
  return {
    part: (name) => {
      reasons.set(name, 'starting')
      return {
        ready: () => void reasons.set(name, null),
        notReady: (reason) => void reasons.set(name, reason),
      }
    },
    problems: () =>
      Object.fromEntries([...reasons].filter((entry): entry is [string, string] => !!entry[1])),
  }
}

/** A registry with the process's own metrics and `sluice_build_info`. */
export function createRegistry(service: string): Registry {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  new Gauge({
    name: 'sluice_build_info',
    help: 'Always 1; the labels tell which service runs, in which version, on which Node.',
    labelNames: ['service', 'version', 'node'],
    registers: [registry],
  }).set({ service, version, node: process.version }, 1)
  return registry
}

/** A running HTTP endpoint; closing it ends its connections. */
export interface MetricsServer extends AsyncDisposable {
  port: number
}

/** Serves `/metrics`, `/health` (200 while alive) and `/ready` (503 with reasons until every part is). */
export async function serveMetrics(options: {
  registry: Registry
  health: Health
  port: number
  host: string
}): Promise<MetricsServer> {
  const { registry, health, port, host } = options
  const server = createServer((request, response) => {
    const path = (request.url ?? '/').split('?', 1)[0]
    if (request.method !== 'GET' && request.method !== 'HEAD')
      return reply(response, 405, 'GET only')
    if (path === '/health') return reply(response, 200, 'ok\n')
    if (path === '/ready') {
      const problems = health.problems()
      const ready = Object.keys(problems).length === 0
      return reply(response, ready ? 200 : 503, `${JSON.stringify({ ready, problems })}\n`)
    }
    if (path !== '/metrics') return reply(response, 404, '/metrics, /health or /ready\n')
    return void registry.metrics().then(
      (page) => reply(response, 200, page, registry.contentType),
      (error: unknown) => reply(response, 500, `${errorText(error)}\n`),
    )
  })
  server.listen(port, host)
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

function reply(response: ServerResponse, status: number, body: string, type = 'text/plain'): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) })
  response.end(body)
}
