/** The network serves given bytes as they are: frames, CARs, documents, logs. */
import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'
import type { DidDocument, PlcEntry } from './documents.ts'
import { loadFrames } from './frames.ts'
import { startNetwork } from './network.ts'
import { takeFrames } from './reading.ts'

const data = new URL('../../shared/data/', import.meta.url)
const path = (name: string) => new URL(name, data).pathname
const json = async (name: string) => JSON.parse(await readFile(path(name), 'utf8'))
const corpus = 'firehose/jetstream-corpus/'

test('recorded frames reach a plain client byte for byte', async () => {
  await using network = await startNetwork()
  const frames = await loadFrames(path(`${corpus}frames.bin`))
  await network.relay.play(frames)
  const url = `${network.relay.url}/xrpc/com.atproto.sync.subscribeRepos?cursor=0`
  const received = await takeFrames(url, frames.length)
  expect(Buffer.concat(received).equals(Buffer.concat(frames))).toBe(true)
})

test('a given document is served with its PDS replaced', async () => {
  await using network = await startNetwork()
  const documents: Record<string, DidDocument> = await json(`${corpus}did_docs.json`)
  for (const document of Object.values(documents)) {
    network.plc.serve(document, { pds: network.pds[0].url })
  }
  const did = 'did:plc:dclwtltrt2ggsryagfzk7dp4'
  const served = await (await fetch(`${network.plc.url}/${did}`)).json()
  const expected = structuredClone(documents[did])
  if (expected?.service?.[0]) expected.service[0].serviceEndpoint = network.pds[0].url
  expect(served).toEqual(expected)
})

test('a given log is served, a tombstoned identity is gone, an unknown one is not found', async () => {
  await using network = await startNetwork()
  const log: PlcEntry[] = await json('identity/plc-audit-logs/log_tombstone.json')
  const did = log[0]?.did
  network.plc.serveLog(log)
  expect(await (await fetch(`${network.plc.url}/${did}/log/audit`)).json()).toEqual(log)
  expect((await fetch(`${network.plc.url}/${did}`)).status).toBe(410)
  expect((await fetch(`${network.plc.url}/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa`)).status).toBe(404)
})

test('a given CAR is served as it is, and listed with its commit and rev', async () => {
  await using network = await startNetwork()
  const car = await readFile(path('cars/atprotodart-702k/repo.car'))
  const did = 'did:plc:iijrtk7ocored6zuziwmqq3c'
  const [pds] = network.pds
  await pds.serveCar(did, car)
  const got = await fetch(`${pds.url}/xrpc/com.atproto.sync.getRepo?did=${did}`)
  expect(got.headers.get('content-type')).toBe('application/vnd.ipld.car')
  expect(Buffer.from(await got.arrayBuffer()).equals(car)).toBe(true)
  const list = await (await fetch(`${pds.url}/xrpc/com.atproto.sync.listRepos`)).json()
  const head = 'bafyreigfqgn6a3n2ompaemnuvl2cmuv7gga5ehrn4q46ukmwwhq3j6x3u4'
  expect(list).toEqual({ repos: [{ did, head, rev: '3mqsxlm7qmh2v', active: true }] })
})
