/** A server that is kept running on its port, and ended last. */
import { backoff, sleep } from '../shared/retry.ts'
import type { ServerProcess } from './process.ts'

export interface PortServer extends ServerProcess {
  readonly url: string
  readonly port: number
}

export interface KeptServer extends AsyncDisposable {
  readonly url: string
  readonly port: number | null
  /** Of the process that runs now; null for a server that is not ours. */
  readonly pid: number | null
  /** Starts it again whenever it ends by itself, until the signal aborts; throws when it keeps ending. */
  watch(signal: AbortSignal): Promise<void>
}

const soundMs = 60_000
const maxEarlyEnds = 5

/** Starts the server and keeps it; `start` gets the port that it must have again. */
export async function keepServer(options: {
  name: string
  start: (port?: number) => Promise<PortServer>
  say: (text: string) => void
}): Promise<KeptServer> {
  const { name, start, say } = options
  let server = await start()
  const { url, port } = server
  const watch = async (signal: AbortSignal) => {
    let earlyEnds = 0
    let startedAt = performance.now()
    while (!signal.aborted) {
      const exit = await Promise.race([server.exited, aborted(signal)])
      if (exit === null) return
      if (performance.now() - startedAt > soundMs) earlyEnds = 0
      if (++earlyEnds > maxEarlyEnds) throw new Error(`${name} keeps ending by itself`)
      say(`${name} ended by itself (${exit.signal ?? `code ${exit.code}`}); it starts again`)
      await sleep(backoff(earlyEnds, { initialMs: 100, maxMs: 5_000 }), signal)
      if (signal.aborted) return
      startedAt = performance.now()
      server = await start(port)
    }
  }
  return {
    url,
    port,
    get pid() {
      return server.pid
    },
    watch,
    [Symbol.asyncDispose]: () => server.stop(),
  }
}

/** A server that is not ours: nothing to start, watch or end. */
export function foreignServer(url: string): KeptServer {
  return {
    url,
    port: null,
    pid: null,
    watch: async () => {},
    [Symbol.asyncDispose]: async () => {},
  }
}

function aborted(signal: AbortSignal): Promise<null> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(null)
    signal.addEventListener('abort', () => resolve(null), { once: true })
  })
}
