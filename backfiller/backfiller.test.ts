/** Whole repos from a PDS to the stream, and what becomes of those that can't be had. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import { expect, test, vi } from 'vitest'
import type { PutEvent, RepoEvent } from '../shared/events.ts'
import { parseCar, writeCar } from '../shared/repo/car.ts'
import { encodeCbor, fromLexJson } from '../shared/repo/cbor.ts'
import { cidOf } from '../shared/repo/cid.ts'
import { requestRepos } from '../shared/streams/requests.ts'
import { countResyncs, requestResyncs, wantResyncs } from '../shared/streams/resyncs.ts'
import type { FaultKind } from '../simulator/faults.ts'
import { type Room, startRoom } from '../test/backfiller-room.ts'
import { sharedJson } from '../test/data.ts'
import { env as testEnv } from '../test/env.ts'
import {
  carOf,
  completeRepos,
  documentOf,
  type RecordedRepo,
  recordedRepos,
} from '../test/recorded-repos.ts'

const getRepo = 'com.atproto.sync.getRepo'
const named = (part: string) => recordedRepos.find(({ car }) => car.includes(part)) as RecordedRepo
const tiny = named('repostream-tiny')
const little = named('repostream-little')
const large = named('shrike-calabro')

function countsOf(events: readonly (PutEvent | RepoEvent)[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const event of events) {
    if (event.type === 'repo') continue
    counts[event.collection] = (counts[event.collection] ?? 0) + 1
  }
  return counts
}

test('every complete recorded repo becomes its records and one word that it is complete', async () => {
  await using room = await startRoom()
  for (const repo of completeRepos) await room.serve(repo)
  const backfiller = await room.start()
  for (const { did } of completeRepos) await room.ask(did)
  await room.done()
  const events = await room.events()
  for (const { did, rev, records, collections } of completeRepos) {
    const mine = events.filter((event) => event.did === did)
    expect(countsOf(mine)).toEqual(collections)
    expect(mine.at(-1)).toMatchObject({ type: 'repo', rev, complete: true, records, scope: ['*'] })
    expect(new Set(mine.map(({ time, commit, seq }) => `${time} ${commit} ${seq}`)).size).toBe(1)
  }
  for (const event of events) {
    if (event.type === 'repo') continue
    expect(cidOf(encodeCbor(fromLexJson(event.record as never)))).toBe(event.cid)
  }
  expect(await room.ledger()).toMatchObject({ applied: String(completeRepos.length) })
  expect(await backfiller.metric('backfiller_repos_processed_total')).toBe(completeRepos.length)
  expect(await backfiller.metric('backfiller_records_extracted_total')).toBe(
    completeRepos.reduce((sum, { records }) => sum + records, 0),
  )
  expect(await room.deadLetters()).toEqual([])
})

test('only collections in scope are handed over, and the count and the scope say so', async () => {
  await using room = await startRoom()
  await room.serve(little)
  const scope = 'app.bsky.feed.like,app.bsky.graph.*'
  const backfiller = await room.start({ BACKFILLER_COLLECTIONS: scope })
  await room.ask(little.did)
  await room.done()
  const events = await room.events()
  const names = Object.keys(countsOf(events))
  expect(names.every((name) => /^app\.bsky\.(feed\.like|graph\.\w+)$/.test(name))).toBe(true)
  expect(events.at(-1)).toMatchObject({
    complete: true,
    records: events.length - 1,
    scope: scope.split(','),
    collections: countsOf(events.slice(0, -1)),
  })
  expect(await backfiller.metric('backfiller_records_filtered_total')).toBe(
    little.records - events.length + 1,
  )
})

/** Each way to be unusable: what is served, and the reason it is set aside with. */
const unusable: [reason: string, repo: RecordedRepo, car: () => Uint8Array][] = [
  ...recordedRepos
    .filter(({ version }) => version === 2)
    .map((repo): (typeof unusable)[number] => ['unsupported-version', repo, () => carOf(repo)]),
  ['missing-block', little, () => without(carOf(little), 7)],
  ['block-hash', little, () => flipped(carOf(little), 100_000)],
  ['wrong-did', little, () => carOf(tiny)],
  ['truncated', little, () => carOf(little).subarray(0, 200_000)],
  ['malformed-car', little, () => encodeCbor({ error: 'no car' })],
  ['mst', little, () => swappedTree()],
]

test.concurrent.each(unusable)('a CAR is set aside as %s', async (reason, repo, car) => {
  await using room = await startRoom()
  await room.serve(repo, car())
  const backfiller = await room.start({ BACKFILLER_SKIP_SIGNATURE_VERIFICATION: 'true' })
  const entry = await room.ask(repo.did)
  await room.done()
  const [letter, ...more] = await room.deadLetters()
  expect(more).toEqual([])
  expect(letter).toMatchObject({
    repo: expect.stringContaining(repo.did),
    reason,
    attempts: reason === 'truncated' ? '4' : '1',
    entry: reason === 'truncated' ? expect.stringMatching(/^\d+-\d+$/) : entry,
    host: room.network.pds[0].host,
    error: expect.stringMatching(/^(the|a) .{10,}/),
    first_failed_at: expect.stringMatching(/^2.*Z$/),
    failed_at: expect.stringMatching(/^2.*Z$/),
  })
  expect(await room.events()).toEqual([])
  expect(await backfiller.metric('backfiller_repos_dead_lettered_total')).toBe(1)
})

test.concurrent('a commit that another key signed is set aside as signature, after one look for a newer key', async () => {
  await using room = await startRoom()
  await room.serve(little)
  room.network.plc.serve({ ...documentOf(tiny), id: little.did }, { pds: room.network.pds[0].url })
  const backfiller = await room.start()
  await room.ask(little.did)
  await room.done()
  expect(await room.deadLetters()).toMatchObject([{ reason: 'signature', attempts: '1' }])
  expect(await backfiller.metric('backfiller_verification_errors_total')).toBe(1)
  expect(await room.events()).toEqual([])
})

test.concurrent('a key that has changed since the document was cached is found by one refresh', async () => {
  await using room = await startRoom()
  const pds = room.network.pds[0]
  await room.serve(little)
  room.network.plc.serve({ ...documentOf(tiny), id: little.did }, { pds: pds.url })
  await room.start()
  await room.ask(little.did)
  await room.done()
  await room.serve(little)
  await room.ask(little.did)
  await room.done()
  expect(await room.deadLetters()).toHaveLength(1)
  expect((await room.events()).at(-1)).toMatchObject({ complete: true, records: little.records })
})

test.concurrent('an account that has moved is found at its new host when the old one no longer has it', async () => {
  await using room = await startRoom()
  const [from, to] = room.network.pds
  await room.serve(tiny)
  await room.start()
  await room.ask(tiny.did)
  await room.done()
  from.setStatus(tiny.did, { active: false, status: 'deactivated' })
  await room.serve(tiny, carOf(tiny), 1)
  await room.ask(tiny.did)
  await room.done()
  expect(await room.ledger()).toMatchObject({ applied: '2' })
  expect(to?.requests.get(`/xrpc/${getRepo}`)).toBe(1)
})

test.concurrent.each([
  ['takendown', 'RepoTakendown'],
  ['suspended', 'RepoSuspended'],
  ['deactivated', 'RepoDeactivated'],
  ['deleted', 'RepoNotFound'],
] as const)('a repo that its host calls %s has ended, and is no failure', async (status, state) => {
  await using room = await startRoom()
  await room.serve(tiny)
  room.network.pds[0].setStatus(tiny.did, { active: false, status })
  const backfiller = await room.start()
  await room.ask(tiny.did)
  await room.done()
  expect(await room.ledger()).toMatchObject({ [`refused:${state}`]: '1' })
  expect(await room.deadLetters()).toEqual([])
  expect(await backfiller.metric('backfiller_repos_ended_total', { state })).toBe(1)
  expect(await backfiller.metric('backfiller_repos_failed_total')).toBe(0)
})

test.concurrent('hosts are told who asks, and whom to write to', async () => {
  await using room = await startRoom()
  const asked: (string | undefined)[] = []
  await using host = await serveHtml(({ 'user-agent': agent }) => void asked.push(agent))
  room.network.plc.serve(documentOf(tiny), { pds: host.url })
  await room.start({ BACKFILLER_CONTACT: 'ops@example.com', BACKFILLER_MAX_RETRIES: '0' })
  await room.ask(tiny.did)
  await room.done()
  expect(asked).toEqual([expect.stringMatching(/^sluice-backfiller\/\S+ \(\+ops@example\.com\)$/)])
})

test.concurrent('what a host says of an account is passed on, as an account event that older workers read', async () => {
  await using room = await startRoom()
  for (const repo of [tiny, little]) await room.serve(repo)
  room.network.pds[0].setStatus(tiny.did, { active: false, status: 'takendown' })
  room.network.pds[0].setStatus(little.did, { active: false, status: 'deleted' })
  await room.start()
  for (const { did } of [tiny, little]) await room.ask(did)
  await room.done()
  const events = (await room.events()).sort((a, b) => a.did.localeCompare(b.did))
  const said = [
    { type: 'account', seq: -1, did: tiny.did, active: false, status: 'takendown' },
    { type: 'account', seq: -1, did: little.did, active: false, status: 'deleted' },
  ].sort((a, b) => a.did.localeCompare(b.did))
  expect(events).toMatchObject(said)
  expect(events[0]?.time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
})

test.concurrent('a resync that ends without a repo no longer counts as under way', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  await room.serve(little, carOf(tiny))
  room.network.pds[0].setStatus(tiny.did, { active: false, status: 'deactivated' })
  const wanted = [tiny, little].map(({ did }) => ({ did, rev: '3k2akx2qqhk2a' }))
  await wantResyncs(room.redis, wanted)
  await requestResyncs(room.redis, { perMinute: 10, host: 'https://relay.test' })
  expect(await countResyncs(room.redis)).toBe(2)
  await room.start()
  await room.done()
  expect(await room.deadLetters()).toMatchObject([{ reason: 'wrong-did' }])
  expect(await countResyncs(room.redis)).toBe(0)
})

test.concurrent('what somebody waits for is served before a long list', async () => {
  await using room = await startRoom()
  const repos = completeRepos.slice(0, 3)
  for (const repo of repos) await room.serve(repo)
  const [urgent] = repos as [RecordedRepo]
  const later = new Date(Date.now() + 3_600_000).toISOString()
  const bulk = Array.from({ length: 1_200 }, (_, number) => ({
    did: `did:plc:${String(number)
      .padStart(24, 'a')
      .replace(/[01 89]/g, 'b')}`,
    reason: 'bulk' as const,
    notBefore: later,
  }))
  await requestRepos(room.redis, bulk)
  await requestRepos(room.redis, [{ did: urgent.did, reason: 'manual' }])
  expect(await room.redis.xlen('repo_backfill_first')).toBe(1)
  const [[, fields] = ['', []]] = await room.redis.xrange('repo_backfill_first', '-', '+')
  expect(JSON.parse(fields[1] ?? '')).toMatchObject({ did: urgent.did, reason: 'manual' })
  await room.start()
  await until(async () => expect((await room.events()).at(-1)).toMatchObject({ complete: true }))
  await until(async () => expect(await room.redis.xlen('repo_backfill_first')).toBe(0))
  expect(await room.redis.xlen('repo_backfill')).toBe(1_200)
})

test.concurrent('while the list is short everything is on the one stream that older workers read', async () => {
  await using room = await startRoom()
  await requestRepos(room.redis, [
    { did: tiny.did, reason: 'resync' },
    { did: little.did, reason: 'bulk' },
  ])
  expect(await room.redis.xlen('repo_backfill')).toBe(2)
  expect(await room.redis.exists('repo_backfill_first')).toBe(0)
})

test.concurrent('what a backfiller does is shown, and what it has done', async () => {
  await using room = await startRoom()
  for (const repo of [tiny, little]) await room.serve(repo)
  room.network.pds[0].fault({ did: little.did }, { kind: 'hang' })
  await room.start()
  for (const { did } of [tiny, little]) await room.ask(did)
  const shown = () => room.redis.hgetall('repo_backfill:worker:backfiller1')
  await until(async () => {
    const { [little.did]: running, tally, hosts } = await shown()
    expect(JSON.parse(running ?? '{}')).toMatchObject({
      host: room.network.pds[0].host,
      attempt: 1,
    })
    expect(JSON.parse(tally ?? '{}')).toMatchObject({ done: 1, records: tiny.records })
    expect(JSON.parse(hosts ?? '[]')).toMatchObject([{ running: 1, asked: 2 }])
  })
  expect(await room.redis.ttl('repo_backfill:worker:backfiller1')).toBeGreaterThan(0)
})

test.concurrent('accounts that nobody knows, or whose DID was given up, have ended', async () => {
  await using room = await startRoom()
  room.network.plc.serveLog(sharedJson('identity/plc-audit-logs/log_tombstone.json'))
  await room.start()
  await room.ask('did:plc:aaaaaaaaaaaaaaaaaaaaaaaa')
  await room.ask('did:plc:6adr3q2labdllanslzhqkqd3')
  await room.done()
  expect(await room.ledger()).toMatchObject({
    'refused:identity-not-found': '1',
    'refused:identity-tombstone': '1',
  })
})

/** Faults that pass, with the reason that a request which meets them for ever is set aside with. */
const passing: [reason: string, fault: FaultKind][] = [
  ['rate-limited', { kind: 'status', status: 429, headers: { 'retry-after': '1' } }],
  ['host-error', { kind: 'status', status: 503 }],
  ['host-error', { kind: 'status', status: 502, error: 'UpstreamFailure' }],
  ['truncated', { kind: 'truncate', atByte: 1_000 }],
  ['timeout', { kind: 'hang' }],
]

test.concurrent.each(passing)(
  '%s passes: the repo is tried again until it is done',
  async (reason, fault) => {
    await using room = await startRoom()
    await room.serve(tiny)
    const fired = room.network.pds[0].fault({ did: tiny.did, method: getRepo }, fault, 2)
    const backfiller = await room.start({ BACKFILLER_HTTP_TIMEOUT_SECS: '1' })
    const started = Date.now()
    await room.ask(tiny.did)
    await room.done()
    expect(fired.fired).toBe(2)
    if (reason === 'rate-limited') expect(Date.now() - started).toBeGreaterThan(2_000)
    expect((await room.events()).at(-1)).toMatchObject({ complete: true, records: tiny.records })
    // Whom a host asks to come back later has not tried in vain.
    const retries = reason === 'rate-limited' ? 0 : 2
    expect(await backfiller.metric('backfiller_retries_attempted_total')).toBe(retries)
    expect(await backfiller.metric('backfiller_car_fetch_errors_total')).toBe(2)
    expect(await backfiller.metric('backfiller_failures_total', { reason })).toBe(2)
  },
)

test.concurrent('what fails for ever is set aside after the last try', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  room.network.pds[0].fault({ did: tiny.did }, { kind: 'status', status: 500 })
  await room.start({ BACKFILLER_MAX_RETRIES: '2' })
  await room.ask(tiny.did)
  await room.done()
  const [letter] = await room.deadLetters()
  expect(letter).toMatchObject({ reason: 'host-error', attempts: '3' })
  expect(letter?.['error']).toContain('HTTP 500')
  const shown = await typed(room.env['REDIS_URL'] ?? '', 'XRANGE repo_backfill_dlq - + COUNT 10')
  expect(shown.slice(0, 3)).toEqual([
    expect.stringMatching(/^\d+-\d+$/),
    ...['repo', expect.stringContaining(`"did":"${tiny.did}"`)],
  ])
  expect(shown.join(' ')).toMatch(/ reason host-error .*attempts 3 /)
})

const tooOften: FaultKind = { kind: 'status', status: 429 }

test.concurrent('a host that asks to come back later sets nothing aside, unless it has done so for a day', async () => {
  await using room = await startRoom()
  for (const repo of [tiny, little]) await room.serve(repo)
  const [host] = room.network.pds
  const passing = host.fault({ did: tiny.did, method: getRepo }, tooOften, 3)
  host.fault({ did: little.did, method: getRepo }, tooOften)
  const longAgo = new Date(Date.now() - 48 * 3_600_000).toISOString()
  const request = JSON.stringify({ did: little.did, first_failed_at: longAgo })
  await room.start({ BACKFILLER_MAX_RETRIES: '0' })
  await room.ask(tiny.did)
  await room.redis.xadd('repo_backfill', '*', 'repo', request)
  await room.done()
  expect(passing.fired).toBe(3)
  expect((await room.events()).at(-1)).toMatchObject({ did: tiny.did, complete: true })
  expect(await room.deadLetters()).toMatchObject([
    { repo: expect.stringContaining(little.did), reason: 'rate-limited', attempts: '1' },
  ])
})

test.concurrent('a directory that is asked too often costs no repo a try', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  const fault = room.network.plc.fault({}, tooOften, 2)
  await room.start({ BACKFILLER_MAX_RETRIES: '0' })
  await room.ask(tiny.did)
  await room.done()
  expect(fault.fired).toBe(2)
  expect((await room.events()).at(-1)).toMatchObject({ complete: true })
})

test.concurrent('a directory that is away is left alone, and costs none of many repos all its tries', async () => {
  await using room = await startRoom()
  for (const repo of [tiny, little]) await room.serve(repo)
  const fault = room.network.plc.fault({}, { kind: 'status', status: 503 }, 4)
  const backfiller = await room.start({ BACKFILLER_MAX_RETRIES: '1' })
  for (const { did } of [tiny, little]) await room.ask(did)
  await room.done()
  expect(fault.fired).toBe(4)
  expect(await room.deadLetters()).toEqual([])
  const reason = 'identity-unavailable'
  expect(await backfiller.metric('backfiller_failures_total', { reason })).toBe(2)
})

test.concurrent('a restart goes on counting the tries', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  const fault = room.network.pds[0].fault({ did: tiny.did }, { kind: 'status', status: 500 })
  const patient = {
    BACKFILLER_RETRY_INITIAL_BACKOFF_MS: '600000',
    BACKFILLER_RETRY_MAX_BACKOFF_MS: '600000',
  }
  const first = await room.start(patient)
  await room.ask(tiny.did)
  const waiting = async () => {
    const [entry] = await room.redis.xrange('repo_backfill', '-', '+')
    return { id: entry?.[0] ?? '', request: JSON.parse(entry?.[1][1] ?? '{}') }
  }
  await until(async () => expect((await waiting()).request).toMatchObject({ attempts: 1 }))
  await first.stop()
  // The wait would last for minutes: it is over now, as far as the next process can see.
  const { id, request: kept } = await waiting()
  const now = new Date().toISOString()
  const changed = JSON.stringify({ ...kept, attempts: 3, not_before: now })
  await room.redis
    .multi()
    .xdel('repo_backfill', id)
    .xadd('repo_backfill', '*', 'repo', changed)
    .exec()
  await room.start()
  await room.done()
  expect(fault.fired).toBe(2)
  const [letter] = await room.deadLetters()
  expect(letter).toMatchObject({ attempts: '4', first_failed_at: kept.first_failed_at })
})

test.concurrent('a page of HTML is not a CAR, whatever its status says', async () => {
  await using room = await startRoom()
  await using portal = await serveHtml()
  room.network.plc.serve(documentOf(tiny), { pds: portal.url })
  await room.start()
  await room.ask(tiny.did)
  await room.done()
  expect(await room.deadLetters()).toMatchObject([{ reason: 'not-a-car', attempts: '4' }])
})

test.concurrent('a host with a private address is not asked unless that is allowed', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  const url = room.network.pds[0].url.replace('http:', 'https:')
  room.network.plc.serve(documentOf(tiny), { pds: url })
  await room.start({ ALLOW_PRIVATE_HOSTS: 'false' })
  await room.ask(tiny.did)
  await room.done()
  expect(await room.deadLetters()).toMatchObject([{ reason: 'private-host', attempts: '1' }])
  expect(room.network.pds[0].requests.get(`/xrpc/${getRepo}`)).toBeUndefined()
})

test.concurrent('a repo larger than the limit is set aside', async () => {
  await using room = await startRoom()
  await room.serve(little)
  await room.start({ BACKFILLER_MAX_CAR_BYTES: '100000' })
  await room.ask(little.did)
  await room.done()
  expect(await room.deadLetters()).toMatchObject([{ reason: 'oversize', attempts: '1' }])
})

test.concurrent('a request is not tried before its time', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  const due = Date.now() + 1_500
  await room.start()
  await room.ask(tiny.did, { notBefore: new Date(due).toISOString() })
  await room.done()
  expect(Date.now()).toBeGreaterThanOrEqual(due)
  expect((await room.events()).at(-1)).toMatchObject({ complete: true })
})

test.concurrent('a request that waits holds no slot', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  await room.serve(little)
  await room.start({ BACKFILLER_CONCURRENCY: '1' })
  await room.ask(tiny.did, { notBefore: new Date(Date.now() + 600_000).toISOString() })
  await room.ask(little.did)
  await until(async () => expect(await room.events()).toHaveLength(little.records + 1))
  await until(async () => expect(await room.redis.xlen('repo_backfill')).toBe(1))
})

test.concurrent('an entry that is no request is set aside with what was wrong with it', async () => {
  await using room = await startRoom()
  const backfiller = await room.start()
  const entry = await room.redis.xadd('repo_backfill', '*', 'repo', '{"did":"alice.test"}')
  await room.done()
  expect(await room.deadLetters()).toMatchObject([
    {
      repo: '{"did":"alice.test"}',
      reason: 'invalid',
      attempts: '1',
      error: expect.stringContaining('did'),
      entry,
      host: '',
    },
  ])
  expect(await backfiller.metric('backfiller_repos_dead_lettered_total')).toBe(1)
})

test.concurrent('requests for a host that wants to be left alone for long give way to others', async () => {
  await using room = await startRoom()
  const [angry] = room.network.pds
  const headers = { 'retry-after': '3600' }
  const fault = angry.fault({}, { kind: 'status', status: 429, headers })
  await room.serve(little, carOf(little), 1)
  await room.start({ BACKFILLER_CONCURRENCY: '1' })
  for (let number = 0; number < 25; number += 1) {
    const id = `did:plc:aaaaaaaaaaaaaaaaaaaaaaa${String.fromCharCode(97 + number)}`
    room.network.plc.serve({ ...documentOf(tiny), id }, { pds: angry.url })
    await room.ask(id)
  }
  await room.ask(little.did)
  await until(async () => expect(await room.events()).toHaveLength(little.records + 1))
  // No more than were on their way already.
  expect(fault.fired).toBeLessThanOrEqual(8)
  await until(async () => expect(await room.redis.xlen('repo_backfill')).toBe(25))
  expect(await room.deadLetters()).toEqual([])
  const requests = await room.redis.xrange('repo_backfill', '-', '+')
  const tried = requests.filter(([, fields]) => fields[1]?.includes('"first_failed_at"'))
  expect(tried.length).toBe(fault.fired)
})

test.concurrent('a stop while Redis is away is a clean end', async () => {
  await using room = await startRoom()
  const backfiller = await room.start({ REDIS_URL: 'redis://127.0.0.1:1' })
  await expect(backfiller.stop()).resolves.toBeUndefined()
})

test.concurrent('two requests for one account are served one after the other', async () => {
  await using room = await startRoom()
  for (const repo of [little, tiny]) await room.serve(repo)
  const fetches = ({ did }: RecordedRepo) =>
    room.network.pds[0].fault({ did }, { kind: 'delay', ms: 1 })
  const [ofLittle, ofTiny] = [fetches(little), fetches(tiny)]
  await room.start({
    BACKFILLER_BATCH_SIZE: '10',
    BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK: '10',
  })
  for (const { did } of [little, little, tiny]) await room.ask(did)
  // The host serves in the order of asking: the second request would have come before this one.
  await until(() => expect(ofTiny.fired).toBe(1))
  expect(ofLittle.fired).toBe(1)
  const events = await drained(room, 3)
  const words = events.filter(({ did }) => did === little.did).map(({ type }) => type)
  const once = [...Array<string>(little.records).fill('create'), 'repo']
  expect(words).toEqual([...once, ...once])
})

test.concurrent('every metric that dashboards know is there from the start, and is true', async () => {
  await using room = await startRoom()
  await room.serve(tiny)
  const backfiller = await room.start({ BACKFILLER_CONCURRENCY: '1' })
  await room.ask(tiny.did)
  await room.done()
  const later = new Date(Date.now() + 15_000).toISOString()
  for (let number = 0; number < 15; number += 1) {
    await room.ask(`did:plc:aaaaaaaaaaaaaaaaaaaaaaa${'234567abcdefghi'[number]}`, {
      notBefore: later,
    })
  }
  const gauge = (name: string) => backfiller.metric(`backfiller_${name}`)
  await until(async () => expect(await gauge('repos_waiting')).toBeGreaterThan(0))
  await until(async () => expect(await gauge('repos_sleeping')).toBe(2))
  expect(await room.redis.xlen('repo_backfill')).toBe(15)
  expect(await gauge('output_stream_length')).toBe(tiny.records + 1)
  expect(await gauge('repos_running')).toBe(0)
  const answers = { group: 'other', result: 'repo' }
  expect(await backfiller.metric('backfiller_host_answers_total', answers)).toBe(1)
  expect(backfiller.names()).toEqual(expect.arrayContaining(contractMetrics))
})

const contractMetrics = [
  'repos_processed_total',
  'repos_failed_total',
  'repos_dead_lettered_total',
  'records_extracted_total',
  'records_filtered_total',
  'retries_attempted_total',
  'car_fetch_errors_total',
  'car_parse_errors_total',
  'verification_errors_total',
  'repos_waiting',
  'repos_running',
  'output_stream_length',
].map((name) => `backfiller_${name}`)

test.concurrent('a full output stream makes it wait, and a kill in the middle repeats the repo without loss', async () => {
  await using room = await startRoom()
  await room.serve(large)
  const mark = 1_000
  const killed = spawnBackfiller({
    ...room.env,
    BACKFILLER_BATCH_SIZE: '100',
    BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK: String(mark),
  })
  await room.ask(large.did)
  await until(async () =>
    expect(await room.redis.xlen('firehose_backfill')).toBeGreaterThanOrEqual(mark),
  )
  expect(await room.redis.xlen('firehose_backfill')).toBeLessThanOrEqual(mark + 100)
  await killed.end('SIGKILL')
  const before = await room.events()
  expect(before.some(({ type }) => type === 'repo')).toBe(false)
  await room.start()
  await room.done()
  const events = await room.events()
  const again = events.slice(before.length)
  expect(countsOf(again)).toEqual(large.collections)
  expect(again.at(-1)).toMatchObject({ complete: true, records: large.records })
  expect(await room.ledger()).toMatchObject({ applied: '1' })
})

test.concurrent('a repo of which Redis has lost the beginning is handed over again, whole', async () => {
  await using room = await startRoom()
  await room.serve(large)
  const mark = 1_000
  await room.start({
    BACKFILLER_BATCH_SIZE: '100',
    BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK: String(mark),
  })
  await room.ask(large.did)
  await until(async () => expect(await room.redis.xlen('firehose_backfill')).toBe(mark))
  await room.redis.del('firehose_backfill')
  const events = await drained(room, 1)
  expect(countsOf(events)).toEqual(large.collections)
  await room.done()
})

test.concurrent('a stop gives the repo back at once, and another backfiller does it', async () => {
  await using room = await startRoom()
  await room.serve(little)
  const fault = room.network.pds[0].fault(
    { did: little.did },
    { kind: 'slow', bytesPerSecond: 1_000 },
  )
  const first = spawnBackfiller(room.env)
  await room.ask(little.did)
  await until(() => expect(fault.fired).toBe(1))
  // The download would take minutes.
  expect(await first.end('SIGTERM')).toBe(0)
  expect(await room.redis.xlen('repo_backfill')).toBe(1)
  // It is for anyone to take, at once.
  const [pending] = await room.redis.xpending('repo_backfill', 'repo_backfill_group')
  expect(pending).toBe(0)
  fault.clear()
  await room.start({ BACKFILLER_CONSUMER: 'backfiller2' })
  await room.done()
  expect((await room.events()).at(-1)).toMatchObject({ complete: true, records: little.records })
})

/** Takes events off the stream, and so lets more of them in, until so many repos are complete. */
async function drained(room: Room, repos: number): Promise<(PutEvent | RepoEvent)[]> {
  const events: (PutEvent | RepoEvent)[] = []
  await until(async () => {
    const entries = await room.redis.xrange('firehose_backfill', '-', '+')
    events.push(...entries.map(([, fields]) => JSON.parse(fields[1] ?? '')))
    if (entries.length > 0) await room.redis.xdel('firehose_backfill', ...entries.map(([id]) => id))
    expect(events.filter(({ type }) => type === 'repo')).toHaveLength(repos)
  })
  return events
}

/** What Redis says to whoever types a command, as in redis-cli: each value as it is. */
async function typed(url: string, command: string): Promise<string[]> {
  const { hostname, port, pathname } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.write(`SELECT ${pathname.slice(1) || 0}\r\n${command}\r\nQUIT\r\n`)
  let text = ''
  for await (const part of socket) text += part
  return text.split('\r\n').filter((line) => !/^([*$]\d+|\+OK|)$/.test(line))
}

const until = (holds: () => void | Promise<void>) =>
  vi.waitFor(holds, { timeout: 20_000, interval: 20 })

/** The service as an operator runs it: a process of its own. */
function spawnBackfiller(env: Record<string, string>) {
  const main = fileURLToPath(new URL('main.ts', import.meta.url))
  const child = spawn(process.execPath, [main], {
    env: { PATH: testEnv['PATH'], BACKFILLER_METRICS_PORT: '0', LOG_LEVEL: 'warn', ...env },
    stdio: 'inherit',
  })
  const exited = once(child, 'exit')
  return {
    /** Gives the exit code. */
    async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
      child.kill(signal)
      const [code] = await exited
      return code
    },
  }
}

async function serveHtml(
  heard: (headers: IncomingHttpHeaders) => void = () => {},
): Promise<{ url: string } & AsyncDisposable> {
  const server = createServer(({ headers }, response) => {
    heard(headers)
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
    response.end('<!doctype html><title>Just a moment</title>')
  })
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

/** A CAR without its block number `index`. */
function without(car: Uint8Array, index: number): Uint8Array {
  const { roots, blocks } = parseCar(car)
  return writeCar(
    roots,
    [...blocks].toSpliced(index, 1).map(([cid, bytes]) => ({ cid, bytes })),
  )
}

function flipped(car: Uint8Array, at: number): Uint8Array {
  const broken = Uint8Array.from(car)
  broken[at] = (broken[at] ?? 0) ^ 4
  return broken
}

/** A commit whose tree is a record. Its signature is wrong too, so it is tried without. */
function swappedTree(): Uint8Array {
  const record = encodeCbor({ $type: 'app.bsky.feed.like' })
  const forged = encodeCbor({
    did: little.did,
    rev: String(little.rev),
    version: 3,
    prev: null,
    data: fromLexJson({ $link: cidOf(record) }),
    sig: new Uint8Array(64),
  })
  return writeCar(
    [cidOf(forged)],
    [forged, record].map((bytes) => ({ cid: cidOf(bytes), bytes })),
  )
}
