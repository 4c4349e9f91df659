/** The network's own accounts, checked with `@atproto/repo` and `@atproto/crypto`. */
import { verifySignature } from '@atproto/crypto'
import { encode } from '@atproto/lex-cbor'
import { type Cid, isCid, isLexMap, type LexMap } from '@atproto/lex-data'
import { MemoryBlockstore, MST, readCarWithRoot, verifyRepoCar } from '@atproto/repo'
import { expect, test } from 'vitest'
import { parseCar } from '../shared/repo/car.ts'
import { decodeCommit } from '../shared/repo/commit.ts'
import { walk } from '../shared/repo/mst.ts'
import { keyLayer } from '../shared/repo/mst-node.ts'
import type { Account, Write } from './account.ts'
import type { DidDocument } from './documents.ts'
import { readFrame } from './frames.ts'
import { type Network, startNetwork } from './network.ts'
import { takeFrames } from './reading.ts'

const post = (text: string) => ({ text, createdAt: '2026-01-01T00:00:00.000Z' })
const collection = 'app.bsky.feed.post'

function sent({ relay }: Network): Promise<Buffer[]> {
  return takeFrames(`${relay.url}/xrpc/com.atproto.sync.subscribeRepos?cursor=0`, relay.lastSeq)
}

/** Everything the relay has, in order. */
async function heard(network: Network): Promise<{ header: LexMap; body: LexMap }[]> {
  const frames = await sent(network)
  return frames.map((frame) => readFrame(frame) ?? { header: {}, body: {} })
}

/** Creates, updates and deletes at random, in commits of one to five writes. */
async function scribble(network: Network, account: Account, commits: number): Promise<void> {
  const random = network.random.fork('scribble')
  const text = () => post(`note ${random.below(50)}`)
  for (let commit = 0; commit < commits; commit++) {
    const known = [...account.records().values()]
    const writes = new Map<string, Write>()
    for (let write = random.below(5); write >= 0; write--) {
      const old = known.length > 0 && random.chance(0.5) ? random.pick(known) : null
      const rkey = old?.rkey ?? network.clock.tid()
      const target = { collection, rkey }
      if (old === null) writes.set(rkey, { action: 'create', ...target, record: text() })
      else if (random.chance(0.3)) writes.set(rkey, { action: 'update', ...target, record: text() })
      else writes.set(rkey, { action: 'delete', ...target })
    }
    await account.applyWrites([...writes.values()])
  }
}

async function getCar(account: Account, { pds: [pds] }: Network): Promise<Uint8Array> {
  const response = await fetch(
    `${pds.url}/xrpc/com.atproto.sync.getRepo?did=${encodeURIComponent(account.did)}`,
  )
  return new Uint8Array(await response.arrayBuffer())
}

test.each([
  ['k256', 'plc'],
  ['p256', 'plc'],
  ['k256', 'web'],
] as const)(
  'getRepo of a %s account of did:%s verifies and holds what is expected',
  async (curve, method) => {
    await using network = await startNetwork()
    const account = await network.account({ curve, method })
    await scribble(network, account, 60)
    const repo = await verifyRepoCar(
      await getCar(account, network),
      account.did,
      account.signingKey,
    )
    const found = repo.creates.map(({ collection, rkey, cid }) => [
      `at://${account.did}/${collection}/${rkey}`,
      cid.toString(),
    ])
    const expected = [...network.records()].map(([uri, { cid }]) => [uri, cid])
    expect(found.sort()).toEqual(expected.sort())
    expect(found.length).toBeGreaterThan(20)
  },
)

test('the operations of each commit, inverted on its blocks alone, give prevData', async () => {
  await using network = await startNetwork()
  await scribble(network, await network.account(), 150)
  const commits = (await heard(network)).filter(({ header }) => header['t'] === '#commit')
  let data: string | null = null
  for (const { body } of commits) {
    const inverted = await invert(body)
    if (data !== null) expect(inverted.before).toBe(data)
    if (data !== null) expect(String(body['prevData'])).toBe(data)
    data = inverted.after
  }
  expect(commits.length).toBe(151)
})

async function invert(body: LexMap): Promise<{ before: string; after: string }> {
  const { root, blocks } = await readCarWithRoot(body['blocks'] as Uint8Array)
  const storage = new MemoryBlockstore(blocks)
  const commit = await storage.readRecord(root)
  const after = commit['data'] as Cid
  let tree = MST.load(storage, after)
  for (const op of (body['ops'] as LexMap[]).toReversed()) {
    const path = String(op['path'])
    if (op['action'] === 'create') tree = await tree.delete(path)
    else if (op['action'] === 'update') tree = await tree.update(path, op['prev'] as Cid)
    else tree = await tree.add(path, op['prev'] as Cid)
    if (isCid(op['cid'])) expect(blocks.has(op['cid'])).toBe(true)
  }
  return { before: (await tree.getPointer()).toString(), after: after.toString() }
}

test('a repo that was emptied begins again as an empty one does', async () => {
  await using network = await startNetwork()
  const account = await network.account()
  const rkeys = Array.from({ length: 200 }, () => network.clock.tid())
  const onLayer = (layer: number) =>
    rkeys.find((rkey) => keyLayer(`${collection}/${rkey}`) === layer) ?? ''
  await account.create(collection, post('high'), onLayer(2))
  await account.delete(collection, onLayer(2))
  await account.create(collection, post('low'), onLayer(0))
  const { roots, blocks } = parseCar(await getCar(account, network))
  const { data } = decodeCommit(blocks.get(String(roots[0])) ?? new Uint8Array())
  expect([...walk(data, blocks)].map(({ key }) => key)).toEqual([`${collection}/${onLayer(0)}`])
})

test('equal seeds make equal networks', async () => {
  const runs = [1, 2].map(async () => {
    await using network = await startNetwork({ seed: 'twice' })
    for (const curve of ['k256', 'p256'] as const) {
      await scribble(network, await network.account({ curve }), 20)
    }
    return Buffer.concat(await sent(network)).toString('base64')
  })
  const [first, second] = await Promise.all(runs)
  expect(first).toBe(second)
})

test('a new account is announced by identity, account, commit and sync', async () => {
  await using network = await startNetwork()
  const { did, handle, rev } = await network.account()
  const events = await heard(network)
  expect(events.map(({ header }) => header['t'])).toEqual([
    '#identity',
    '#account',
    '#commit',
    '#sync',
  ])
  expect(events[0]?.body).toMatchObject({ did, handle, seq: 1 })
  expect(events[2]?.body).toMatchObject({ repo: did, rev, since: null, ops: [] })
})

test('a quiet account is found by listRepos only', async () => {
  await using network = await startNetwork()
  const account = await network.account({ quiet: true })
  await account.create(collection, post('old'))
  expect(network.relay.lastSeq).toBe(0)
  const url = `${network.relay.url}/xrpc/com.atproto.sync.listRepos`
  const { did, head, rev } = account
  const list = await (await fetch(url)).json()
  expect(list).toEqual({ repos: [{ did, head, rev, active: true }] })
})

test('a changed key signs the next commit and is in the document', async () => {
  await using network = await startNetwork()
  const account = await network.account()
  const before = account.signingKey
  await network.changeIdentity(account.did, { curve: 'p256', handle: 'moved.test' })
  await account.create(collection, post('after'))
  expect(account.signingKey).not.toBe(before)
  await verifyRepoCar(await getCar(account, network), account.did, account.signingKey)
  const document = (await (await fetch(`${network.plc.url}/${account.did}`)).json()) as DidDocument
  expect(`did:key:${document.verificationMethod?.[0]?.['publicKeyMultibase']}`).toBe(
    account.signingKey,
  )
  const url = `${network.handleResolver.url}/xrpc/com.atproto.identity.resolveHandle`
  const resolved = await (await fetch(`${url}?handle=moved.test`)).json()
  expect(resolved).toEqual({ did: account.did })
})

test.each([
  ['takendown', 'RepoTakendown'],
  ['suspended', 'RepoSuspended'],
  ['deactivated', 'RepoDeactivated'],
  ['deleted', 'RepoNotFound'],
])(
  'the repo of an account that is %s answers %s, and comes back with it',
  async (status, error) => {
    await using network = await startNetwork()
    const { did } = await network.account()
    const get = () => fetch(`${network.pds[0].url}/xrpc/com.atproto.sync.getRepo?did=${did}`)
    network.emitAccount(did, { active: false, status })
    const refused = await get()
    expect(refused.status).toBe(400)
    expect(await refused.json()).toMatchObject({ error })
    network.emitAccount(did, { active: true })
    expect((await get()).status).toBe(200)
  },
)

test('labels are signed with the key of the labeler’s document and replayed from a cursor', async () => {
  await using network = await startNetwork()
  const { labeler, plc } = network
  await labeler.label({ uri: 'did:plc:someone', val: 'spam' })
  await labeler.label({ uri: 'did:plc:someone', val: 'spam', neg: true })
  const url = `${labeler.url}/xrpc/com.atproto.label.subscribeLabels?cursor=2`
  const [frame] = await takeFrames(url, 1)
  const { sig, ...label } = label0(frame)
  const document = (await (await fetch(`${plc.url}/${labeler.did}`)).json()) as DidDocument
  const key = `did:key:${document.verificationMethod?.[0]?.['publicKeyMultibase']}`
  expect(label).toMatchObject({ src: labeler.did, val: 'spam', neg: true })
  expect(await verifySignature(key, encode(label), sig as Uint8Array)).toBe(true)
})

function label0(frame: Uint8Array | undefined): LexMap {
  const labels = frame && readFrame(frame)?.body['labels']
  const [label] = Array.isArray(labels) ? labels : []
  if (!isLexMap(label)) throw new Error('no label in the frame')
  return label
}
