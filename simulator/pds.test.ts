/** What a PDS answers: errors, pages, handles, limits, and faults that count themselves. */
import { expect, test } from 'vitest'
import { startNetwork } from './network.ts'

const getRepo = 'com.atproto.sync.getRepo'
const car = Buffer.alloc(200_000, 7)
const did = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'

/** A network whose PDS serves some bytes as the repo of one account. */
async function serving(options: Parameters<typeof startNetwork>[0] = {}) {
  const network = await startNetwork(options)
  const [pds] = network.pds
  await pds.serveCar(did, car)
  const get = (signal?: AbortSignal) =>
    fetch(`${pds.url}/xrpc/${getRepo}?did=${did}`, signal ? { signal } : {})
  return { network, pds, get, [Symbol.asyncDispose]: () => network.close() }
}

test('errors have the names that clients act on', async () => {
  await using serve = await serving()
  const ask = async (path: string) => {
    const response = await fetch(`${serve.pds.url}/xrpc/${path}`)
    return [response.status, (await response.json()) as { error: string }]
  }
  expect(await ask(`${getRepo}?did=did:plc:unknown`)).toMatchObject([
    400,
    { error: 'RepoNotFound' },
  ])
  expect(await ask(getRepo)).toMatchObject([400, { error: 'InvalidRequest' }])
  expect(await ask('com.example.what')).toMatchObject([501, { error: 'MethodNotImplemented' }])
  const list = 'com.atproto.sync.listRepos'
  expect(await ask(`${list}?limit=1001`)).toMatchObject([400, { error: 'InvalidRequest' }])
  expect(await ask(`${list}?cursor=x`)).toMatchObject([400, { error: 'InvalidRequest' }])
})

test.each(['pds', 'relay'] as const)(
  'listRepos of the %s gives every repo once, page by page',
  async (host) => {
    await using network = await startNetwork()
    const dids = []
    for (let count = 0; count < 7; count++) dids.push((await network.account({ quiet: true })).did)
    const base = host === 'pds' ? network.pds[0].url : network.relay.url
    const found: string[] = []
    let cursor: string | undefined = ''
    for (let page = 0; page < 5 && cursor !== undefined; page++) {
      const query = new URLSearchParams({ limit: '3', ...(cursor && { cursor }) })
      const response = await fetch(`${base}/xrpc/com.atproto.sync.listRepos?${query}`)
      const body = (await response.json()) as { cursor?: string; repos: { did: string }[] }
      found.push(...body.repos.map(({ did }) => did))
      cursor = body.cursor
    }
    expect(cursor).toBeUndefined()
    expect(found).toEqual(dids)
  },
)

test('a limit is shown in headers, and passing it is refused until its window ends', async () => {
  await using serve = await serving({ rateLimit: { limit: 2, windowMs: 60_000 } })
  const first = await serve.get()
  expect(first.headers.get('ratelimit-policy')).toBe('2;w=60')
  expect(first.headers.get('ratelimit-remaining')).toBe('1')
  await serve.get()
  const third = await serve.get()
  expect(third.status).toBe(429)
  expect(Number(third.headers.get('retry-after'))).toBeGreaterThan(0)
  expect(await third.json()).toMatchObject({ error: 'RateLimitExceeded' })
})

test('a status fault fires as often as it was told, and counts', async () => {
  await using serve = await serving()
  const fault = serve.pds.fault({ did }, { kind: 'status', status: 503 }, 2)
  const statuses = []
  for (let request = 0; request < 3; request++) statuses.push((await serve.get()).status)
  expect(statuses).toEqual([503, 503, 200])
  expect(fault.fired).toBe(2)
})

test('a truncated answer breaks off, or ends as if it were whole', async () => {
  await using serve = await serving()
  serve.pds.fault({ did }, { kind: 'truncate', atByte: 1000 }, 1)
  await expect(serve.get().then((response) => response.arrayBuffer())).rejects.toThrow()
  serve.pds.fault({ did }, { kind: 'truncate', atByte: 1000, clean: true }, 1)
  expect((await (await serve.get()).arrayBuffer()).byteLength).toBe(1000)
})

test('a hanging answer never comes, and ends with its client', async () => {
  await using serve = await serving()
  const fault = serve.pds.fault({ method: getRepo }, { kind: 'hang' })
  await expect(serve.get(AbortSignal.timeout(100))).rejects.toThrow()
  expect(fault.fired).toBe(1)
  fault.clear()
  expect((await serve.get()).status).toBe(200)
})

test('a corrupt answer differs in one bit, and a slow one is whole', async () => {
  await using serve = await serving()
  serve.pds.fault({ did }, { kind: 'corrupt', atByte: 5 }, 1)
  const spoilt = Buffer.from(await (await serve.get()).arrayBuffer())
  expect(spoilt[5]).toBe(6)
  spoilt[5] = 7
  expect(spoilt.equals(car)).toBe(true)
  serve.pds.fault({ did }, { kind: 'slow', bytesPerSecond: 1_000_000 }, 1)
  expect(Buffer.from(await (await serve.get()).arrayBuffer()).equals(car)).toBe(true)
})
