/** The living network: valid records, a bounded memory, the same life for the same seed. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { jsonToLex, lexicons } from '@atproto/api'
import { verifyRepoCar } from '@atproto/repo'
import { expect, test } from 'vitest'
import { createWorld } from './living.ts'
import { startNetwork } from './network.ts'
import { readFrames, takeFrames } from './reading.ts'

/** A network after so many commits. */
async function lived(seed: string, commits: number) {
  const network = await startNetwork({ seed, pds: 2 })
  const world = createWorld(network)
  await world.populate({ accounts: 8, older: 3, history: 30 })
  await world.live({ rate: 100_000, signal: new AbortController().signal, commits })
  return network
}

test('every record is valid by its lexicon', async () => {
  await using network = await lived('valid', 1000)
  const kinds = new Map<string, number>()
  for (const { collection, record } of network.records().values()) {
    lexicons.assertValidRecord(collection, jsonToLex(record))
    const embed = record['embed'] as { $type: string } | undefined
    for (const kind of [collection, embed?.$type]) {
      if (kind !== undefined) kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
    }
  }
  for (const kind of ['post', 'like', 'repost'])
    expect([...kinds.keys()]).toContain(`app.bsky.feed.${kind}`)
  for (const kind of ['external', 'images', 'record', 'recordWithMedia']) {
    expect([...kinds.keys()]).toContain(`app.bsky.embed.${kind}`)
  }
})

test('every repo still verifies and holds what is expected', async () => {
  await using network = await lived('repos', 400)
  let found = 0
  for (const account of network.accounts.values()) {
    const car = await account.car()
    const { creates } = await verifyRepoCar(car, account.did, account.signingKey)
    for (const { collection, rkey, cid } of creates) {
      const expected = account.records().get(`at://${account.did}/${collection}/${rkey}`)
      expect(expected?.cid).toBe(cid.toString())
      found++
    }
  }
  expect(found).toBe(network.records().size)
})

test('the same seed lives the same life', async () => {
  const lives = []
  for (const _ of [1, 2]) {
    await using network = await lived('same', 300)
    const url = `${network.relay.url}/xrpc/com.atproto.sync.subscribeRepos?cursor=0`
    lives.push(Buffer.concat(await takeFrames(url, network.relay.lastSeq)).toString('base64'))
  }
  expect(lives[0]).toBe(lives[1])
})

test('as a process it says where it is, sends commits and ends with its parent', async () => {
  const main = new URL('main.ts', import.meta.url)
  const args = ['--accounts', '4', '--older', '2', '--history', '10', '--rate', '100']
  const child = fork(main, args, { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const ended = once(child, 'exit')
  const [{ ready }] = (await once(child, 'message')) as [{ ready: Record<string, string> }]
  const url = `${ready['relay']}/xrpc/com.atproto.sync.subscribeRepos`
  let frames = 0
  for await (const _ of readFrames(url)) if (++frames === 20) break
  child.disconnect()
  expect(await ended).toEqual([0, null])
})
