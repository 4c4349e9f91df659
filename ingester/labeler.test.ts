import { expect, test } from 'vitest'
import { decodeLabels } from '../shared/events.ts'
import { startNetwork } from '../simulator/network.ts'
import { patience, startIngester, testRoom } from './testing.ts'

async function aRoom() {
  const room = await testRoom(await startNetwork())
  const { labeler } = room.network
  const cursor = () => room.redis.get(`label_live:cursor:${labeler.host}`)
  return {
    room,
    labeler,
    env: { ...room.env, INGESTER_MODE: 'labeler', INGESTER_LABELER_HOSTS: labeler.url },
    caughtUp: () => expect.poll(cursor, patience).toBe(String(labeler.lastSeq)),
    entries: async () => (await room.redis.xrange('label_live', '-', '+')).map(([, list]) => list),
    [Symbol.asyncDispose]: () => room[Symbol.asyncDispose](),
  }
}

const uri = 'at://did:plc:44ybard66vv44zksje25o7dz/app.bsky.feed.post/3llxv7pnd3s2q'

test('each label becomes one entry, in the form that both older families read', async () => {
  await using room = await aRoom()
  const { labeler } = room
  await using ingester = startIngester(room.env)
  const cts = '2025-10-30T06:56:52.123Z'
  const made = await labeler.label(
    { uri, val: 'spam', cts },
    { uri, val: 'porn', cts, neg: true, exp: '2027-01-01T00:00:00.000Z' },
  )
  await room.caughtUp()
  const entries = await room.entries()
  expect(entries.map(([name, , other]) => [name, other])).toEqual([
    ['event', 'labels'],
    ['event', 'labels'],
  ])
  const [first] = entries.map((fields) => ({
    event: JSON.parse(fields[1] ?? ''),
    labels: JSON.parse(fields[3] ?? ''),
  }))
  const sig = {
    $bytes: Buffer.from(made[0]?.sig ?? [])
      .toString('base64')
      .replace(/=+$/, ''),
  }
  expect(first?.event).toEqual({
    type: 'label',
    label: { ver: 1, src: labeler.did, uri, val: 'spam', cts, sig },
  })
  expect(first?.labels).toEqual({
    seq: labeler.lastSeq,
    labels: [
      {
        src: labeler.did,
        uri,
        cid: null,
        val: 'spam',
        neg: null,
        cts: '2025-10-30 06:56:52.123 UTC',
      },
    ],
  })
  expect(await ingester.metric('ingester_labels_written_total')).toBe(2)
})

test('one bad label costs its frame no other', async () => {
  await using room = await aRoom()
  await using ingester = startIngester(room.env)
  await room.labeler.label({ uri, val: 'spam' }, { uri: '', val: 'spam' }, { uri, val: 'porn' })
  await room.labeler.label({ uri, val: 'gore', cts: 'yesterday' }, { uri, val: 'nudity' })
  await room.caughtUp()
  const vals = (await room.entries()).map((fields) => decodeLabels(fields).labels[0]?.val)
  expect(vals).toEqual(['spam', 'porn', 'nudity'])
  expect(await ingester.metric('ingester_dropped_labels_total')).toBe(2)
})

test('a restart resumes after the last label, and repeats none', async () => {
  await using room = await aRoom()
  {
    await using _ = startIngester(room.env)
    await room.labeler.label({ uri, val: 'spam' })
    await room.caughtUp()
  }
  await room.labeler.label({ uri, val: 'porn' })
  await using _ = startIngester(room.env)
  await room.caughtUp()
  expect(await room.entries()).toHaveLength(2)
})
