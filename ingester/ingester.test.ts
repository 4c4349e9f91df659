/** The whole ingester on a simulated network and a real Redis. */
import { expect, test } from 'vitest'
import { decodeEvent, type Event } from '../shared/events.ts'
import { startNetwork } from '../simulator/network.ts'
import { corpusDocuments } from '../test/corpus.ts'
import { sharedFrames, sharedJsonLines } from '../test/data.ts'
import { testRedis } from '../test/servers/redis.ts'
import { startIngester } from './harness.ts'

const corpus = 'firehose/jetstream-corpus'
const patience = { timeout: 20_000, interval: 20 }

async function setUp() {
  const resources = new AsyncDisposableStack()
  const network = resources.use(await startNetwork())
  const { redis, url } = resources.use(await testRedis())
  const env = {
    REDIS_URL: url,
    PLC_URL: network.plc.url,
    INGESTER_RELAY_HOSTS: network.relay.url,
    INGESTER_MODE: 'firehose',
    INGESTER_COLLECTIONS: '*',
  }
  const events = async (): Promise<Event[]> => {
    const entries = await redis.xrange('firehose_live', '-', '+')
    return entries.map(([, fields]) => decodeEvent(fields))
  }
  const cursor = () => redis.get(`firehose_live:cursor:${network.relay.host}`)
  const caughtUp = () => expect.poll(cursor, patience).toBe(String(network.relay.lastSeq))
  return {
    network,
    redis,
    env,
    events,
    cursor,
    caughtUp,
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

test('the recorded frames become the events that production Jetstream emitted, all verified', async () => {
  await using room = await setUp()
  const { network, env, caughtUp, events } = room
  for (const document of corpusDocuments()) network.plc.serve(document)
  await using ingester = startIngester(env)
  await network.relay.play(sharedFrames(`${corpus}/frames.bin`))
  await caughtUp()
  const made = (await events()).map((event) => {
    if (event.type !== 'create' && event.type !== 'update' && event.type !== 'delete') return event
    const { type: operation, did, rev, collection, rkey } = event
    const put = event.type === 'delete' ? {} : { record: event.record, cid: event.cid }
    return { did, commit: { rev, operation, collection, rkey, ...put } }
  })
  const expected = sharedJsonLines<{ did: string; commit: unknown }>(
    `${corpus}/expected_jetstream_v1.jsonl`,
  ).map(({ did, commit }) => ({ did, commit }))
  const order = ({ did, commit }: { did: string; commit?: unknown }) => did + JSON.stringify(commit)
  const byKey = <T extends { did: string }>(list: T[]) =>
    list.toSorted((a, b) => (order(a) < order(b) ? -1 : 1))
  expect(byKey(made)).toEqual(byKey(expected))
  expect(await ingester.metric('ingester_commits_verified_total', { proof: 'proven' })).toBe(100)
  expect(await ingester.metric('ingester_refused_total')).toBe(0)
})
