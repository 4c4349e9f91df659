/** Faults of HTTP hosts beyond those of a PDS's own test, as a plain client sees them. */
import { readCar, verifyRepoCar } from '@atproto/repo'
import { expect, test } from 'vitest'
import type { DidDocument } from './documents.ts'
import type { FaultKind } from './faults.ts'
import { startNetwork } from './network.ts'
import { expectFired } from './switches.ts'

const getRepo = 'com.atproto.sync.getRepo'
const record = { text: 'hello', createdAt: '2026-01-01T00:00:00.000Z' }

/** A network with one account of some posts. */
async function room() {
  const network = await startNetwork()
  const [pds] = network.pds
  const account = await network.account()
  for (let count = 0; count < 10; count++) await account.create('app.bsky.feed.post', record)
  const url = `${pds.url}/xrpc/${getRepo}?did=${account.did}`
  const get = async () => new Uint8Array(await (await fetch(url)).arrayBuffer())
  const spoilt = async (fault: FaultKind) => {
    const made = pds.fault({ method: getRepo }, fault, 1)
    const body = await get()
    expectFired(made)
    return body
  }
  const close = () => network.close()
  return { network, pds, account, get, spoilt, [Symbol.asyncDispose]: close }
}

test('a dropped answer is none, a delayed one comes late', async () => {
  await using own = await room()
  await expect(own.spoilt({ kind: 'drop' })).rejects.toThrow('fetch failed')
  const started = performance.now()
  expect(await own.spoilt({ kind: 'delay', ms: 150 })).toEqual(await own.get())
  expect(performance.now() - started).toBeGreaterThan(140)
})

test('blocks the other way round, or each twice, are the same repo', async () => {
  await using own = await room()
  const { did, signingKey } = own.account
  const whole = await own.get()
  const before = await verifyRepoCar(whole, did, signingKey)
  for (const kind of ['reorder', 'duplicate'] as const) {
    const body = await own.spoilt({ kind })
    expect(body).not.toEqual(whole)
    expect((await verifyRepoCar(body, did, signingKey)).creates).toEqual(before.creates)
  }
})

test('a forged repo fails by its signature, a wrong CID by its content', async () => {
  await using own = await room()
  const { did, signingKey } = own.account
  const forged = await own.spoilt({ kind: 'lie', about: 'signature' })
  await expect(verifyRepoCar(forged, did, signingKey)).rejects.toThrow(/signature/i)
  await expect(verifyRepoCar(forged, did)).resolves.toBeDefined()
  const wrong = await own.spoilt({ kind: 'lie', about: 'cid' })
  await expect(readCar(wrong)).rejects.toThrow(/cid/i)
})

test('an old rev is the repo as it was asked for first', async () => {
  await using own = await room()
  const fault = own.pds.fault({ method: getRepo }, { kind: 'lie', about: 'rev' })
  const first = await own.get()
  expect(fault.fired).toBe(0)
  await own.account.create('app.bsky.feed.post', record)
  expect(await own.get()).toEqual(first)
  expect(fault.fired).toBe(1)
  fault.clear()
  expect(await own.get()).not.toEqual(first)
})

test('an oversized answer is the answer and what is too much', async () => {
  await using own = await room()
  const whole = await own.get()
  const body = await own.spoilt({ kind: 'oversize', bytes: 5_000_000 })
  expect(body.length).toBe(whole.length + 5_000_000)
  expect(body.subarray(0, whole.length)).toEqual(whole)
})

test('a directory lies about a key, refuses, and fails, each for one account only', async () => {
  await using own = await room()
  const { network, account } = own
  const other = await network.account()
  const get = async (did: string) => fetch(`${network.plc.url}/${did}`)
  const key = async (did: string) => {
    const document = (await (await get(did)).json()) as DidDocument
    return `did:key:${document.verificationMethod?.[0]?.['publicKeyMultibase']}`
  }
  const { did } = account
  const faults = [
    network.plc.fault({ did }, { kind: 'lie', about: 'signature' }, 1),
    network.plc.fault({ did }, { kind: 'status', status: 429 }, 1),
    network.plc.fault({ did }, { kind: 'status', status: 502 }, 1),
  ]
  expect(await key(other.did)).toBe(other.signingKey)
  expect(await key(did)).not.toBe(account.signingKey)
  expect([(await get(did)).status, (await get(did)).status]).toEqual([429, 502])
  expect(await key(did)).toBe(account.signingKey)
  expectFired(...faults)
})

test('a relay’s list turns around, repeats itself and tells old revs', async () => {
  await using own = await room()
  const { network, account } = own
  await network.account()
  const { relay } = network
  const method = 'com.atproto.sync.listRepos'
  const list = async () =>
    ((await (await fetch(`${relay.url}/xrpc/${method}`)).json()) as { repos: { rev: string }[] })
      .repos
  const truth = await list()
  relay.fault({ method }, { kind: 'reorder' }, 1)
  expect(await list()).toEqual(truth.toReversed())
  relay.fault({ method }, { kind: 'duplicate' }, 1)
  expect(await list()).toHaveLength(4)
  relay.fault({ method }, { kind: 'lie', about: 'rev' }, 1)
  expect((await list()).every(({ rev }) => rev < (account.rev ?? ''))).toBe(true)
})
