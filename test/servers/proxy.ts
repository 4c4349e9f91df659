/** A TCP proxy in front of a real server, with switches for what goes wrong between two machines. */
import { createServer, connect as open, type Socket } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'

/** How often each fault was really met: chunks for those that act on bytes, else connections. */
export interface Fired {
  latency: number
  bandwidth: number
  blackhole: number
  refuse: number
  cut: number
}

export interface TcpProxy extends AsyncDisposable {
  readonly port: number
  readonly fired: Readonly<Fired>
  /** The same URL with the proxy's address. */
  through(url: string): string
  /** Holds every chunk back this long, in both directions; 0 ends it. */
  latency(ms: number): void
  /** Lets so many bytes a second pass in each direction of a connection; null ends it. */
  bandwidth(bytesPerSecond: number | null): void
  /** Swallows nothing and passes nothing: connections stay open in silence. Off, all goes on. */
  blackhole(on: boolean): void
  /** Resets every new connection. */
  refuse(on: boolean): void
  /** Resets all open connections, in the middle of whatever they carry; tells how many. */
  cut(): number
}

/** A slice of a limited connection, so that its speed is even. */
const sliceBytes = 4096

/** Listens on a free port of 127.0.0.1 and passes everything on to that port. */
export async function startProxy(target: { port: number; host?: string }): Promise<TcpProxy> {
  const fired: Fired = { latency: 0, bandwidth: 0, blackhole: 0, refuse: 0, cut: 0 }
  const state = { latencyMs: 0, bytesPerSecond: null as number | null, refusing: false }
  let opened: PromiseWithResolvers<void> | null = null
  const pairs = new Set<() => void>()

  const delay = async (size: number) => {
    if (opened !== null) {
      fired.blackhole += 1
      await opened.promise
    }
    if (state.latencyMs > 0) {
      fired.latency += 1
      await wait(state.latencyMs)
    }
    if (state.bytesPerSecond !== null) {
      fired.bandwidth += 1
      await wait((1000 * size) / state.bytesPerSecond)
    }
  }

  /** Bytes keep their order; what is not read yet waits in the kernel, so memory stays small. */
  const pump = async (from: Socket, to: Socket) => {
    for await (const chunk of from as AsyncIterable<Buffer>) {
      const step = state.bytesPerSecond === null ? chunk.length : sliceBytes
      for (let at = 0; at < chunk.length; at += step) {
        const slice = chunk.subarray(at, at + step)
        await delay(slice.length)
        if (to.destroyed) return
        if (!to.write(slice)) await Promise.race([event(to, 'drain'), event(to, 'close')])
      }
    }
    to.end()
  }

  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    client.on('error', () => {})
    if (state.refusing) {
      fired.refuse += 1
      client.resetAndDestroy()
      return
    }
    const { port, host = '127.0.0.1' } = target
    const upstream = open({ port, host, allowHalfOpen: true, noDelay: true })
    upstream.on('error', () => {})
    const end = () => {
      pairs.delete(end)
      for (const socket of [client, upstream]) if (!socket.destroyed) socket.resetAndDestroy()
    }
    pairs.add(end)
    upstream.on('close', end)
    client.on('close', end)
    pump(client, upstream).catch(end)
    pump(upstream, client).catch(end)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port')
  const { port } = address

  const cut = () => {
    const count = pairs.size
    for (const end of pairs) end()
    return count
  }
  return {
    port,
    fired,
    through(url) {
      const proxied = new URL(url)
      proxied.hostname = '127.0.0.1'
      proxied.port = String(port)
      return proxied.href
    },
    latency(ms) {
      state.latencyMs = ms
    },
    bandwidth(bytesPerSecond) {
      state.bytesPerSecond = bytesPerSecond
    },
    blackhole(on) {
      if (on) opened ??= Promise.withResolvers<void>()
      else {
        opened?.resolve()
        opened = null
      }
    },
    refuse(on) {
      state.refusing = on
    },
    cut() {
      const count = cut()
      fired.cut += count
      return count
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      opened?.resolve()
      cut()
      await closed
    },
  }
}

function event(socket: Socket, name: string): Promise<void> {
  return new Promise((resolve) => socket.once(name, () => resolve()))
}
