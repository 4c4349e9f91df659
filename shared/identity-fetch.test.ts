/** The GET by which identities are fetched. */
import { createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { createFetch } from './identity-fetch.ts'

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
