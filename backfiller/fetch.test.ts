/** One request to one host, and all the ways in which a host answers. */
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { Failure } from './failures.ts'
import { createFetcher, type FetcherOptions } from './fetch.ts'
import type { Limits } from './hosts.ts'

const did = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const { signal } = new AbortController()
const car = { 'content-type': 'application/vnd.ipld.car' }
const body = Buffer.from('these are the bytes of a CAR'.repeat(100))

async function host(answer: RequestListener): Promise<{ url: string } & AsyncDisposable> {
  const server = createServer(answer)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

interface Settings extends Partial<FetcherOptions> {
  heard?: (limits: Limits) => void
  slow?: () => void
}

const usual: FetcherOptions = {
  timeoutMs: 1_000,
  maxBytes: 10_000,
  userAgent: 'sluice-backfiller/test',
  allowPrivateHosts: true,
}

async function fetchFrom(url: string, settings: Settings = {}): Promise<Buffer> {
  const { heard = nothing.heard, slow = nothing.slow, ...options } = settings
  using fetcher = createFetcher({ ...usual, ...options })
  return await read(fetcher, url, { heard, slow })
}

const nothing = { heard: () => {}, slow: () => {} }

async function read(
  fetcher: ReturnType<typeof createFetcher>,
  url: string,
  { heard, slow }: Required<Pick<Settings, 'heard' | 'slow'>> = nothing,
): Promise<Buffer> {
  const response = await fetcher.fetchRepo(url, did, { signal, heard, slow })
  const parts: Uint8Array[] = []
  for await (const part of response.body) parts.push(part)
  return Buffer.concat(parts)
}

async function reasonFrom(url: string, settings: Settings = {}): Promise<string> {
  try {
    await fetchFrom(url, settings)
  } catch (error) {
    return error instanceof Failure ? error.reason : String(error)
  }
  return 'none'
}

test('the account is asked for by name, and we say who we are', async () => {
  const asked: unknown[] = []
  await using pds = await host((request, response) => {
    asked.push(request.url, request.headers['user-agent'], request.headers.accept)
    response.writeHead(200, car).end(body)
  })
  expect(await fetchFrom(pds.url)).toEqual(body)
  expect(asked).toEqual([
    `/xrpc/com.atproto.sync.getRepo?did=${encodeURIComponent(did)}`,
    'sluice-backfiller/test',
    'application/vnd.ipld.car',
  ])
})

test.each([
  ['gzip', gzipSync],
  ['zstd', zstdCompressSync],
])('an answer in %s is unpacked, and the limit counts what comes out', async (encoding, pack) => {
  await using pds = await host((_, response) => {
    response.writeHead(200, { ...car, 'content-encoding': encoding }).end(pack(body))
  })
  expect(await fetchFrom(pds.url)).toEqual(body)
  expect(await reasonFrom(pds.url, { maxBytes: 1_000 })).toBe('oversize')
})

test('an answer packed in gzip and cut is truncated', async () => {
  const packed = gzipSync(body)
  await using pds = await host((_, response) => {
    response.writeHead(200, { ...car, 'content-encoding': 'gzip' })
    response.end(packed.subarray(0, packed.length - 10))
  })
  expect(await reasonFrom(pds.url)).toBe('truncated')
})

test.each([
  ['announced', { 'content-length': String(body.length) }],
  ['not announced', {}],
])('more than the limit is not read, %s', async (_, headers) => {
  await using pds = await host((_, response) => {
    response.writeHead(200, { ...car, ...headers }).end(body)
  })
  expect(await reasonFrom(pds.url, { maxBytes: 1_000 })).toBe('oversize')
})

test('a connection that ends within the body is a truncated CAR', async () => {
  await using pds = await host((_, response) => {
    response.writeHead(200, { ...car, 'content-length': '5000' })
    response.write(body, () => response.destroy())
  })
  expect(await reasonFrom(pds.url)).toBe('truncated')
})

test('a host that says nothing, stops in the middle, or drips is left after the timeout', async () => {
  await using silent = await host(() => {})
  await using stopping = await host((_, response) => {
    response.writeHead(200, car).write('some')
  })
  await using dripping = await host((_, response) => {
    response.writeHead(200, car)
    const timer = setInterval(() => response.write('.'), 20)
    response.on('close', () => clearInterval(timer))
  })
  const found = [silent, stopping, dripping].map(({ url }) => reasonFrom(url, { timeoutMs: 200 }))
  expect(await Promise.all(found)).toEqual(['timeout', 'timeout', 'timeout'])
})

test('a host that takes no connection, or does not finish it, is left soon, whatever an answer may take', async () => {
  const silent = createTcpServer().listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const url = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`
  const limits = { connectMs: 100, timeoutMs: 3_600_000, slowMs: 3_600_000 }
  await expect(fetchFrom(url, limits)).rejects.toMatchObject({
    reason: 'timeout',
    message: expect.stringContaining('no connection'),
  })
  silent.close()
})

test('a connection is used again, and one that the host has closed meanwhile costs nothing', async () => {
  const answered: unknown[] = []
  let connections = 0
  await using pds = await host(({ socket }, response) => {
    if (answered.length === 2 && answered.includes(socket)) return void socket.destroy()
    if (!answered.includes(socket)) connections += 1
    answered.push(socket)
    response.writeHead(200, car).end(body)
  })
  using fetcher = createFetcher(usual)
  for (let times = 0; times < 3; times += 1) expect(await read(fetcher, pds.url)).toEqual(body)
  expect([answered.length, connections]).toEqual([3, 2])
})

test('a host that is not there is unreachable', async () => {
  const gone = await host(() => {})
  await gone[Symbol.asyncDispose]()
  expect(await reasonFrom(gone.url)).toBe('unreachable')
  expect(await reasonFrom('http://no-such-host.invalid')).toBe('unreachable')
})

test('redirects are followed a few times, and not in circles', async () => {
  await using pds = await host((_, response) => response.writeHead(200, car).end(body))
  await using moved = await host(({ url }, response) => {
    response.writeHead(307, { location: pds.url + url }).end()
  })
  await using circle = await host(({ url }, response) => {
    response.writeHead(302, { location: String(url) }).end()
  })
  await using elsewhere = await host((_, response) => {
    response.writeHead(302, { location: 'file:///etc/passwd' }).end()
  })
  expect(await fetchFrom(moved.url)).toEqual(body)
  expect(await reasonFrom(circle.url)).toBe('redirects')
  expect(await reasonFrom(elsewhere.url)).toBe('redirects')
})

test.each([
  ['https://127.0.0.1:8443', 'private-host'],
  ['https://169.254.169.254/latest/meta-data', 'private-host'],
  ['https://localhost', 'private-host'],
  ['http://127.0.0.1:8443', 'insecure-host'],
])('a host that may be asked sends us on to %s, and we do not go', async (location, reason) => {
  await using pds = await host((_, response) => response.writeHead(302, { location }).end())
  expect(await reasonFrom(pds.url, { allowPrivateHosts: [pds.url] })).toBe(reason)
})

test.each([
  'https://127.0.0.1',
  'https://[::1]:8443',
  'https://10.1.2.3',
  'https://169.254.169.254',
  'https://localhost',
])('%s is not asked unless private hosts are allowed', async (url) => {
  expect(await reasonFrom(url, { allowPrivateHosts: false })).toBe('private-host')
})

test('a host without TLS is not asked unless private hosts are allowed', async () => {
  await using pds = await host((_, response) => response.writeHead(200, car).end(body))
  expect(await reasonFrom(pds.url, { allowPrivateHosts: false })).toBe('insecure-host')
})

test('the limits of every answer are heard, also of one that refuses', async () => {
  await using pds = await host((_, response) => {
    response.writeHead(429, { 'retry-after': '7', 'ratelimit-remaining': '0' }).end('{}')
  })
  const heard: Limits[] = []
  expect(await reasonFrom(pds.url, { heard: (limits) => heard.push(limits) })).toBe('rate-limited')
  expect(heard).toEqual([{ remaining: 0, retryAfterMs: 7_000 }])
})

test.each([
  [400, { error: 'RepoNotFound' }, 'RepoNotFound'],
  [400, { error: 'RepoTakendown' }, 'RepoTakendown'],
  [400, { error: 'RepoSuspended' }, 'RepoSuspended'],
  [400, { error: 'RepoDeactivated' }, 'RepoDeactivated'],
  [404, { error: 'RepoNotFound' }, 'RepoNotFound'],
  [404, 'not found', 'host-refused'],
  [401, { error: 'AuthMissing' }, 'host-refused'],
  [400, { error: ['RepoNotFound'] }, 'host-refused'],
  [408, {}, 'host-error'],
  [429, { error: 'RateLimitExceeded' }, 'rate-limited'],
  [500, { error: 'InternalServerError' }, 'host-error'],
  [502, '<html>', 'host-error'],
  [206, '', 'host-refused'],
  [304, '', 'host-refused'],
])('status %i with %j is %s', async (status, answer, reason) => {
  await using pds = await host((_, response) => {
    response.writeHead(status).end(typeof answer === 'string' ? answer : JSON.stringify(answer))
  })
  expect(await reasonFrom(pds.url)).toBe(reason)
})
