/** How identities change: keys, hosts, ends; and the directory's export of all that happened. */
import { verifySignature } from '@atproto/crypto'
import { encode } from '@atproto/lex-cbor'
import { verifyRepoCar } from '@atproto/repo'
import { expect, test } from 'vitest'
import type { DidDocument, PlcEntry } from './documents.ts'
import { readFrame } from './frames.ts'
import { type Network, startNetwork } from './network.ts'
import type { Pds } from './pds.ts'

const post = { text: 'hello', createdAt: '2026-01-01T00:00:00.000Z' }
const collection = 'app.bsky.feed.post'
const status = async (pds: Pds, did: string) =>
  (await fetch(`${pds.url}/xrpc/com.atproto.sync.getRepoStatus?did=${did}`)).json()
const repoOf = async (pds: Pds, did: string) =>
  new Uint8Array(
    await (await fetch(`${pds.url}/xrpc/com.atproto.sync.getRepo?did=${did}`)).arrayBuffer(),
  )

async function moved() {
  const network = await startNetwork({ pds: 2 })
  const [from, to] = network.pds
  if (to === undefined) throw new Error('two PDSes')
  const account = await network.account()
  const { uri, cid } = await account.create(collection, post)
  const before = { seq: network.relay.lastSeq, key: account.signingKey }
  await network.migrate(account.did, to, { curve: 'p256' })
  return { network, from, to, account, uri, cid, before }
}

test('an account that moves keeps its repo, which its new host serves under a new key', async () => {
  const { network, from, to, account, cid, before } = await moved()
  await using _ = network
  expect(account.signingKey).not.toBe(before.key)
  const { did, signingKey } = account
  const { creates } = await verifyRepoCar(await repoOf(to, did), did, signingKey)
  expect(creates.map((write) => write.cid.toString())).toEqual([cid])
  expect(await status(from, did)).toMatchObject({ active: false, status: 'deactivated' })
  const document = (await (await fetch(`${network.plc.url}/${did}`)).json()) as DidDocument
  expect(document.service?.[0]?.serviceEndpoint).toBe(to.url)
})

test('a move is told as account, identity and sync, and the relay lists the repo once', async () => {
  const { network, account, before } = await moved()
  await using _ = network
  const kinds = network.relay.frames().map((frame) => readFrame(frame)?.header['t'])
  expect(kinds.slice(before.seq)).toEqual(['#account', '#identity', '#sync'])
  const url = `${network.relay.url}/xrpc/com.atproto.sync.listRepos`
  const { did, head, rev } = account
  expect(await (await fetch(url)).json()).toEqual({ repos: [{ did, head, rev, active: true }] })
  expect(network.records().size).toBe(1)
})

test('each operation is signed by a rotation key of the one before, through rotations and the end', async () => {
  await using network = await startNetwork()
  const { did } = await network.account()
  await network.changeIdentity(did, { rotation: true })
  await network.changeIdentity(did, { rotation: true, curve: 'p256' })
  await network.changeIdentity(did, { handle: 'other.test' })
  await network.deleteAccount(did, { identity: true })
  const log = (await (await fetch(`${network.plc.url}/${did}/log/audit`)).json()) as PlcEntry[]
  let before: PlcEntry | null = null
  const keys = new Set<string>()
  for (const entry of log) {
    const { sig, ...unsigned } = entry.operation
    const [key = ''] = ((before ?? entry).operation as unknown as { rotationKeys: string[] })
      .rotationKeys
    keys.add(key)
    const bytes = Buffer.from(String(sig), 'base64url')
    expect(await verifySignature(key, encode(unsigned), bytes)).toBe(true)
    expect(entry.operation.prev).toBe(before?.cid ?? null)
    before = entry
  }
  expect(log.map(({ operation }) => operation.type).at(-1)).toBe('plc_tombstone')
  expect([log.length, keys.size]).toEqual([6, 3])
  expect((await fetch(`${network.plc.url}/${did}`)).status).toBe(410)
})

test('a deleted account has no records, no repo and no place in the lists', async () => {
  await using network = await startNetwork()
  const [gone, other] = [await network.account({ method: 'web' }), await network.account()]
  await gone.create(collection, post)
  await network.deleteAccount(gone.did, { identity: true })
  expect(network.records().size).toBe(0)
  expect(network.states().get(gone.did)).toMatchObject({ active: false, status: 'deleted' })
  await expect(gone.create(collection, post)).rejects.toThrow('deleted')
  for (const { url } of [network.relay, network.pds[0]]) {
    const list = await (await fetch(`${url}/xrpc/com.atproto.sync.listRepos`)).json()
    expect(list).toMatchObject({ repos: [{ did: other.did }] })
  }
})

test('the export gives every operation of every identity once, in order, page by page', async () => {
  await using network = await startNetwork()
  for (let count = 0; count < 5; count++) await network.account()
  await network.changeIdentity([...network.accounts.keys()][2] ?? '', { handle: 'later.test' })
  const lines = await exported(network, 3)
  const expected = [...network.accounts.keys(), network.labeler.did].flatMap((did) =>
    network.directory.log(did),
  )
  expect(lines).toHaveLength(13)
  expect(new Set(lines.map(({ cid }) => cid))).toEqual(new Set(expected.map(({ cid }) => cid)))
  const times = lines.map(({ createdAt }) => createdAt)
  expect(times).toEqual(times.toSorted())
})

async function exported(network: Network, count: number): Promise<PlcEntry[]> {
  const found: PlcEntry[] = []
  for (let page = 0; page < 10; page++) {
    const after = found.at(-1)?.createdAt ?? '1970-01-01T00:00:00.000Z'
    const query = new URLSearchParams({ count: String(count), after })
    const text = await (await fetch(`${network.plc.url}/export?${query}`)).text()
    if (text === '') break
    found.push(...text.split('\n').map((line) => JSON.parse(line) as PlcEntry))
  }
  return found
}
