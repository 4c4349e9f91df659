/** The GET by which identities are fetched. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { createFetch, FetchError } from './identity-fetch.ts'

const closing = new AbortController()
const stack = new AsyncDisposableStack()
afterEach(() => stack.disposeAsync())

test('connections that the other side has closed while they were idle cost no answer', async () => {
  const met = new Set<Socket>()
  let isLate = false
  let waiting: (() => void)[] = []
  const server = createServer(({ socket }, response) => {
    // A connection that was idle for too long is closed on the next request.
    if (isLate && met.has(socket)) return void socket.destroy()
    met.add(socket)
    waiting.push(() => response.end('answer'))
    if (!isLate && waiting.length < 4) return
    for (const answer of waiting) answer()
    waiting = []
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  stack.defer(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const { fetch, close } = createFetch({
    trusted: [url],
    allowPrivateHosts: true,
    signal: closing.signal,
  })
  stack.defer(close)

  // Four at once leave four connections behind.
  await Promise.all(Array.from({ length: 4 }, async () => (await fetch(url)).text()))
  isLate = true
  expect(await (await fetch(url)).text()).toBe('answer')
  expect(met.size).toBe(5)
})

test('nobody is led into our own network: by an address, a name, or a redirect of a trusted host', async () => {
  let connections = 0
  let location = ''
  const inner = createServer((_, response) => void response.end('{}'))
  inner.on('connection', () => {
    connections += 1
  })
  const outer = createServer((_, response) => void response.writeHead(302, { location }).end())
  const [port, trustedPort] = await Promise.all([listen(inner), listen(outer)])
  const trusted = `http://127.0.0.1:${trustedPort}`
  const { fetch, close } = createFetch({
    trusted: [trusted],
    allowPrivateHosts: false,
    signal: new AbortController().signal,
  })
  try {
    const hosts = ['127.0.0.1', 'localhost', '[::1]', '[::ffff:127.0.0.1]', '2130706433', '0']
    for (const host of hosts) {
      location = `https://${host}:${port}/`
      await expect(fetch(location), host).rejects.toThrow(FetchError)
      const led = fetch(trusted, { redirect: 'follow' })
      await expect(led, host).rejects.toMatchObject({ kind: 'invalid', status: null })
    }
    location = `http://127.0.0.1:${port}/`
    await expect(fetch(trusted, { redirect: 'follow' })).rejects.toThrow('by https')
    expect(connections).toBe(0)
  } finally {
    close()
    inner.close()
    outer.close()
  }
})

test('an answer is read no further than its bound, and no redirect is followed for ever', async () => {
  const server = createServer((request, response) => {
    if (request.url === '/circle') response.writeHead(302, { location: '/circle' }).end()
    else response.end('x'.repeat(2_000))
  })
  const url = `http://127.0.0.1:${await listen(server)}`
  const { signal } = new AbortController()
  const { fetch, close } = createFetch({
    ...{ trusted: [url], allowPrivateHosts: false, signal, maxBytes: 1_000 },
  })
  try {
    await expect(fetch(url)).rejects.toThrow('over 1000 bytes')
    await expect(fetch(`${url}/circle`, { redirect: 'follow' })).rejects.toThrow('redirects')
  } finally {
    close()
    server.close()
  }
})

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}
