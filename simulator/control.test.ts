/** Faults that another process switches on and off. */
import { expect, test } from 'vitest'
import { createControl } from './control.ts'
import { startNetwork } from './network.ts'

const method = 'com.atproto.sync.listRepos'

test('a fault lasts from its message to the one that clears it, which tells how often it fired', async () => {
  await using network = await startNetwork({ pds: 2 })
  const control = createControl(network)
  const statuses = () =>
    Promise.all(network.pds.map(async ({ url }) => (await fetch(`${url}/xrpc/${method}`)).status))

  const fault = { kind: 'status', status: 503 }
  expect(control({ ask: 7, do: 'fault', method, fault })).toEqual({ answer: 7, count: 0 })
  expect(await statuses()).toEqual([503, 503])
  expect(control({ ask: 8, do: 'clear', fault: 0 })).toEqual({ answer: 8, count: 2 })
  expect(await statuses()).toEqual([200, 200])
})

test('a cut tells how many readers it met', async () => {
  await using network = await startNetwork()
  const socket = new WebSocket(
    `${network.relay.url.replace('http', 'ws')}/xrpc/com.atproto.sync.subscribeRepos`,
  )
  const closed = new Promise((resolve) => socket.addEventListener('close', resolve))
  await network.relay.subscribed()
  expect(createControl(network)({ ask: 1, do: 'cut' })).toEqual({ answer: 1, count: 1 })
  await closed
})

test('a message that asks for nothing is left alone', async () => {
  await using network = await startNetwork()
  expect([null, 'stop', {}].map(createControl(network))).toEqual([null, null, null])
})
