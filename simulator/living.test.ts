/** The living network: valid records, a bounded memory, the same life for the same seed. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { jsonToLex, lexicons } from '@atproto/api'
import { verifyRepoCar } from '@atproto/repo'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readFrame } from './frames.ts'
import { createWorld, type Step, type WorldOptions } from './living.ts'
import { startNetwork } from './network.ts'
import { deeds } from './plan.ts'
import { readFrames } from './reading.ts'

/** A network after so many steps. */
async function lived(seed: string, steps: number, options: WorldOptions = {}) {
  const network = await startNetwork({ seed, pds: 2 })
  const world = createWorld(network, options)
  await world.populate({ accounts: 8, older: 3, history: 30 })
  const done: Step[] = []
  for (let count = 0; count < steps; count++) done.push(await world.step())
  return { network, done, [Symbol.asyncDispose]: () => network.close() }
}

// One life, which the tests only look at.
let life: Awaited<ReturnType<typeof lived>>
beforeAll(async () => {
  life = await lived('life', 700, { without: ['rotationKey'] })
})
afterAll(() => life[Symbol.asyncDispose]())

test('every record is valid by its lexicon, and there are some of every kind', async () => {
  const kinds = new Set<string>()
  for (const { collection, record } of life.network.records().values()) {
    lexicons.assertValidRecord(collection, jsonToLex(record))
    const embed = record['embed'] as { $type: string } | undefined
    for (const kind of [collection, embed?.$type]) if (kind !== undefined) kinds.add(kind)
  }
  const feed = 'post like repost threadgate postgate generator'.split(' ')
  const graph = 'follow block list listitem listblock starterpack verification'.split(' ')
  const embed = 'external images record recordWithMedia'.split(' ')
  const actor = ['app.bsky.actor.profile', 'app.bsky.actor.status']
  const named = (space: string, names: string[]) => names.map((name) => `app.bsky.${space}.${name}`)
  expect([...kinds]).toEqual(
    expect.arrayContaining([
      ...named('feed', feed),
      ...named('graph', graph),
      ...named('embed', embed),
      ...actor,
    ]),
  )
})

test('every deed is done that was not left out', async () => {
  const done = new Set(life.done.map(({ deed }) => deed))
  expect([...done].sort()).toEqual(deeds.filter((deed) => deed !== 'rotationKey').toSorted())
})

test('what is said of the accounts is what their hosts say', async () => {
  const { network } = life
  const seen = new Set<string | null>()
  for (const { did, active, status, pds, rev } of network.states().values()) {
    const url = `${pds}/xrpc/com.atproto.sync.getRepoStatus?did=${encodeURIComponent(did)}`
    const said = await (await fetch(url)).json()
    if (status === 'deleted') expect(said).toMatchObject({ error: 'RepoNotFound' })
    else expect(said).toEqual({ did, rev, active, ...(status !== null && { status }) })
    seen.add(status)
  }
  expect(seen.has('deleted') && seen.has(null) && seen.size > 2).toBe(true)
})

test('labels are given, taken back and expire', async () => {
  const { labels } = life.network.labeler
  const negated = labels.filter(({ neg }) => neg)
  for (const { uri, val } of negated) {
    expect(labels.some((label) => label.uri === uri && label.val === val && !label.neg)).toBe(true)
  }
  expect(negated.length).toBeGreaterThan(2)
  expect(labels.some(({ exp }) => exp !== undefined)).toBe(true)
})

test('a key that is used again holds the newer record', async () => {
  const commits = life.network.relay.frames().flatMap((frame) => {
    const { header, body } = readFrame(frame) ?? { header: {}, body: {} }
    if (header['t'] !== '#commit') return []
    const ops = body['ops'] as { action: string; path: string }[]
    return ops.map(({ action, path }) => `${action} at://${body['repo']}/${path}`)
  })
  const again = commits.filter(
    (op, place) =>
      op.startsWith('create ') && commits.lastIndexOf(op.replace('create', 'delete'), place) >= 0,
  )
  expect(again.length).toBeGreaterThan(3)
})

test('every repo still verifies and holds what is expected', async () => {
  const { network } = life
  let found = 0
  for (const account of network.accounts.values()) {
    if (network.states().get(account.did)?.status === 'deleted') continue
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

test('the same seed lives the same life, frame by frame', async () => {
  const lives = []
  for (const _ of [1, 2]) {
    await using life = await lived('same', 300, { web: false })
    lives.push(Buffer.concat(life.network.relay.frames()).toString('base64'))
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
