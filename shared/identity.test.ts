import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline, Readable } from 'node:stream'
import { afterEach, expect, test } from 'vitest'
import { sharedJson } from '../test/data.ts'
import {
  createIdentity,
  type Identity,
  type IdentityError,
  type IdentityOptions,
} from './identity.ts'

const alice = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const key = 'zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

/** A server that answers each path by a function, and counts what it was asked. */
async function serve(answer: (path: string, response: ServerResponse) => void) {
  const asked: string[] = []
  const server: Server = createServer((request, response) => {
    asked.push(request.url ?? '')
    answer(decodeURIComponent(request.url ?? ''), response)
  })
  server.listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  cleanups.push(() => {
    server.closeAllConnections()
    return new Promise((resolve) => server.close(resolve))
  })
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port, asked }
}

function identityOf(options: Partial<IdentityOptions> & { plcUrl: string }): Identity {
  const identity = createIdentity({
    allowPrivateHosts: false,
    timeoutMs: 2_000,
    maxEntries: 100,
    ttlMs: 60_000,
    ...options,
  })
  cleanups.push(() => identity.close())
  return identity
}

function aDocument(did: string, changes: object = {}) {
  return {
    id: did,
    alsoKnownAs: ['at://Alice.Example.com'],
    verificationMethod: [
      { id: `${did}#atproto`, type: 'Multikey', controller: did, publicKeyMultibase: key },
    ],
    service: [
      {
        id: '#atproto_pds',
        type: 'AtprotoPersonalDataServer',
        serviceEndpoint: 'https://pds.example.com/',
      },
    ],
    ...changes,
  }
}

const json = (response: ServerResponse, value: unknown) => response.end(JSON.stringify(value))
const kindOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'no error',
    (error: IdentityError) => error.kind,
  )

test('a did:plc document gives the key, the origin of the PDS and the claimed handle', async () => {
  const plc = await serve((_, response) => json(response, aDocument(alice)))
  const account = await identityOf({ plcUrl: plc.url }).resolve(alice)
  expect(account).toEqual({
    did: alice,
    handle: 'alice.example.com',
    pds: 'https://pds.example.com',
    signingKey: `did:key:${key}`,
  })
  expect(plc.asked).toEqual([`/${encodeURIComponent(alice)}`])
})

test('the recorded documents of both key forms give the same key', async () => {
  const did = 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'
  for (const name of ['did_plc_doc', 'did_plc_doc_legacy']) {
    const document = sharedJson(`identity/did-docs/${name}.json`)
    const plc = await serve((_, response) => json(response, document))
    expect(await identityOf({ plcUrl: plc.url }).resolve(did)).toEqual({
      did,
      handle: 'atproto.com',
      pds: 'https://bsky.social',
      signingKey: 'did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF',
    })
  }
})

test('the recorded documents of a hundred accounts all give a key, a handle and a PDS', async () => {
  const documents = sharedJson<Record<string, unknown>>('firehose/jetstream-corpus/did_docs.json')
  const plc = await serve((path, response) => json(response, documents[path.slice(1)]))
  const identity = identityOf({ plcUrl: plc.url })
  const accounts = await Promise.all(Object.keys(documents).map((did) => identity.resolve(did)))
  expect(
    accounts.filter(({ signingKey, handle, pds }) => signingKey && handle && pds),
  ).toHaveLength(100)
})

test('a document without keys and services is an account without them', async () => {
  const document = sharedJson<object>('identity/did-docs/did_web_doc.json')
  const web = await serve((_, response) => json(response, { ...document, id: did }))
  const did = `did:web:localhost%3A${web.port}`
  const account = await identityOf({ plcUrl: web.url, allowPrivateHosts: true }).resolve(did)
  expect(account).toEqual({ did, handle: null, pds: null, signingKey: null })
  expect(web.asked).toEqual(['/.well-known/did.json'])
})

test('a part of a document that is broken spoils no other part', async () => {
  const plc = await serve((_, response) =>
    json(
      response,
      aDocument(alice, { service: [null, 'none'], alsoKnownAs: [7], authentication: 7 }),
    ),
  )
  const account = await identityOf({ plcUrl: plc.url }).resolve(alice)
  expect(account).toEqual({ did: alice, handle: null, pds: null, signingKey: `did:key:${key}` })
})

test.each([
  [404, 'not-found'],
  [410, 'tombstone'],
  [429, 'unavailable'],
  [500, 'unavailable'],
  [503, 'unavailable'],
  [400, 'invalid'],
  [302, 'invalid'],
])('an answer of %i is %s, from the directory and from did:web', async (status, kind) => {
  const host = await serve((_, response) => response.writeHead(status, { location: '/' }).end())
  const identity = identityOf({ plcUrl: host.url, allowPrivateHosts: true })
  expect(await kindOf(identity.resolve(alice))).toBe(kind)
  expect(await kindOf(identity.resolve(`did:web:localhost%3A${host.port}`))).toBe(kind)
})

test('the wait that the other side asks for is passed on', async () => {
  const plc = await serve((_, response) => response.writeHead(429, { 'retry-after': '7' }).end())
  await expect(identityOf({ plcUrl: plc.url }).resolve(alice)).rejects.toMatchObject({
    kind: 'unavailable',
    retryAfterMs: 7_000,
  })
})

test('silence, in the middle of the body too, is unavailable after the timeout', async () => {
  const plc = await serve((_, response) => response.write('{"id":'))
  const identity = identityOf({ plcUrl: plc.url, timeoutMs: 50 })
  expect(await kindOf(identity.resolve(alice))).toBe('unavailable')
})

test('nobody listening is unavailable', async () => {
  expect(await kindOf(identityOf({ plcUrl: 'http://127.0.0.1:1' }).resolve(alice))).toBe(
    'unavailable',
  )
})

test.each([
  ['not JSON', '{"id":'],
  ['a list', '[]'],
  ['the document of another DID', JSON.stringify(aDocument('did:plc:bbbbbbbbbbbbbbbbbbbbbbbb'))],
  ['over size', JSON.stringify(aDocument(alice, { filler: 'x'.repeat(300_000) }))],
])('a document that is %s is invalid', async (_, body) => {
  const plc = await serve((_, response) => response.end(body))
  expect(await kindOf(identityOf({ plcUrl: plc.url }).resolve(alice))).toBe('invalid')
})

test('an endless body is given up at the limit', async () => {
  const plc = await serve((_, response) => {
    const endless = new Readable({ read: () => endless.push(Buffer.alloc(65_536, 32)) })
    pipeline(endless, response, () => {})
  })
  expect(await kindOf(identityOf({ plcUrl: plc.url }).resolve(alice))).toBe('invalid')
})

test.each(['did:plc', 'alice', 'did:example:alice', 'did:web:%zz', 'did:web:a.example:path', ''])(
  'what is no DID that we can resolve is invalid: %s',
  async (did) => {
    const identity = identityOf({ plcUrl: 'http://127.0.0.1:1' })
    expect(await kindOf(identity.resolve(did))).toBe('invalid')
  },
)

test.each([
  'did:web:localhost',
  'did:web:localhost%3A8080',
  'did:web:127.0.0.1',
  'did:web:10.0.0.1%3A443',
  'did:web:169.254.169.254',
  'did:web:2130706433',
])('a did:web at a private address is refused: %s', async (did) => {
  const identity = identityOf({ plcUrl: 'http://127.0.0.1:1' })
  expect(await kindOf(identity.resolve(did))).toBe('invalid')
})

test('callers of the same DID share one request', async () => {
  const plc = await serve((_, response) => json(response, aDocument(alice)))
  const identity = identityOf({ plcUrl: plc.url })
  await Promise.all([identity.resolve(alice), identity.resolve(alice, { refresh: true })])
  expect(plc.asked).toHaveLength(1)
})

test('one caller who stops waiting leaves the others their answer', async () => {
  let release = () => {}
  const plc = await serve((_, response) => {
    release = () => json(response, aDocument(alice))
    arrived.resolve()
  })
  const arrived = Promise.withResolvers<void>()
  const identity = identityOf({ plcUrl: plc.url })
  const controller = new AbortController()
  const impatient = identity.resolve(alice, { signal: controller.signal })
  const patient = identity.resolve(alice)
  await arrived.promise
  controller.abort(new Error('stopped'))
  await expect(impatient).rejects.toThrow('stopped')
  release()
  expect((await patient).did).toBe(alice)
})

test('a document is believed for its ttl, and asked anew on refresh', async () => {
  let time = 0
  const plc = await serve((_, response) => json(response, aDocument(alice)))
  const identity = identityOf({ plcUrl: plc.url, ttlMs: 1_000, now: () => time })
  await identity.resolve(alice)
  await identity.resolve(alice)
  expect(plc.asked).toHaveLength(1)
  await identity.resolve(alice, { refresh: true })
  expect(plc.asked).toHaveLength(2)
  time = 1_000
  await identity.resolve(alice)
  expect(plc.asked).toHaveLength(3)
})

test('a DID that is not there is remembered for a minute, an outage not at all', async () => {
  let time = 0
  let status = 503
  const plc = await serve((_, response) => response.writeHead(status).end())
  const identity = identityOf({ plcUrl: plc.url, ttlMs: 3_600_000, now: () => time })
  await kindOf(identity.resolve(alice))
  status = 404
  expect(await kindOf(identity.resolve(alice))).toBe('not-found')
  expect(await kindOf(identity.resolve(alice))).toBe('not-found')
  expect(plc.asked).toHaveLength(2)
  time = 60_000
  await kindOf(identity.resolve(alice))
  expect(plc.asked).toHaveLength(3)
})

test('the cache holds its bound, and drops what was used longest ago', async () => {
  const plc = await serve((path, response) => json(response, aDocument(path.slice(1))))
  const identity = identityOf({ plcUrl: plc.url, maxEntries: 2 })
  const [a, b, c] = ['a', 'b', 'c'].map((letter) => `did:plc:${letter.repeat(24)}`) as [
    string,
    string,
    string,
  ]
  for (const did of [a, b, a, c, a]) await identity.resolve(did)
  expect(plc.asked).toHaveLength(3)
  await identity.resolve(b)
  expect(plc.asked).toHaveLength(4)
})

test('a handle is resolved where the setting says, and may lead nowhere', async () => {
  const resolver = await serve((path, response) => {
    const known = path === '/xrpc/com.atproto.identity.resolveHandle?handle=alice.example.com'
    if (known) json(response, { did: alice })
    else response.writeHead(400).end('{"error":"InvalidRequest"}')
  })
  const identity = identityOf({ plcUrl: resolver.url, handleResolver: resolver.url })
  expect(await identity.resolveHandle('Alice.example.com')).toBe(alice)
  expect(await identity.resolveHandle('bob.example.com')).toBeNull()
  expect(await identity.resolveHandle('not a handle')).toBeNull()
})

test.each([
  ['unavailable', 502, ''],
  ['invalid', 200, '{"did":7}'],
  ['invalid', 200, 'null'],
  ['invalid', 200, '<html>'],
])('a handle resolver out of order is %s: %i %s', async (kind, status, body) => {
  const resolver = await serve((_, response) => response.writeHead(status).end(body))
  const identity = identityOf({ plcUrl: resolver.url, handleResolver: resolver.url })
  expect(await kindOf(identity.resolveHandle('alice.example.com'))).toBe(kind)
})

test('closing ends what is under way', async () => {
  const arrived = Promise.withResolvers<void>()
  const plc = await serve(() => arrived.resolve())
  const identity = identityOf({ plcUrl: plc.url, timeoutMs: 60_000 })
  const waiting = kindOf(identity.resolve(alice))
  await arrived.promise
  identity.close()
  expect(await waiting).toBe('unavailable')
})
