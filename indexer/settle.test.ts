import { expect, test } from 'vitest'
import type { Event } from '../shared/events.ts'
import { wantResyncs } from '../shared/streams/resyncs.ts'
import { testRedis } from '../test/servers/redis.ts'
import { settleSnapshots } from './settle.ts'

const { signal } = new AbortController()

function whole(did: string, rev: string): Event {
  const complete = { records: 0, scope: ['*'] }
  return { type: 'repo', seq: -1, time: '', did, commit: '', rev, complete }
}

test('a whole repo that is applied or known ends its resync, one that is set aside as well', async () => {
  await using server = await testRedis()
  const dids = ['did:plc:a', 'did:plc:b', 'did:plc:c', 'did:plc:d']
  await wantResyncs(
    server.redis,
    dids.map((did) => ({ did, rev: '3kaaaaaaaaa22' })),
  )
  const [a = '', b = '', c = '', d = ''] = dids
  const events = [
    whole(a, '3kaaaaaaaaa22'),
    whole(b, '3kbaaaaaaaa22'),
    whole(c, '3kaaaaaaaaa22'),
    { ...whole(d, '3kzaaaaaaaa22'), complete: undefined } as unknown as Event,
  ]
  const aside = { deadLetter: { reason: 'snapshot-incomplete', error: '' } }
  await settleSnapshots(server.redis, events, ['applied', 'stale', aside, 'applied'], signal)
  expect(await server.redis.hkeys('ingester:resyncs')).toEqual([d])
})
