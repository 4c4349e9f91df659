import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { startNetwork } from '../simulator/network.ts'
import { createMetrics } from './metrics.ts'
import { patience, startIngester, testRoom } from './testing.ts'

/** The names that dashboards and alerts of the older workers read (contract: streams, 5). */
const contract = `
  firehose_events_total firehose_create_events_total firehose_update_events_total
  firehose_delete_events_total firehose_filtered_operations_total stream_events_total errors_total
  labeler_events_total labels_written_total backfill_repos_fetched_total
  backfill_repos_written_total backfill_fetch_errors_total backfill_cursor_skips_total
  firehose_live_length firehose_backfill_length label_live_length repo_backfill_length
  backpressure_active websocket_connections events_in_memory backfill_complete
`
const names = contract.trim().split(/\s+/)

test('every name of the older dashboards is there from the start, without labels', async () => {
  const registry = new Registry()
  createMetrics(registry)
  const page = (await registry.metrics()).split('\n')
  const absent = names.filter((name) => !page.includes(`ingester_${name} 0`))
  expect(absent).toEqual([])
})

test('every name of the older dashboards tells what happens', async () => {
  await using room = await testRoom(await startNetwork())
  const { network, redis } = room
  const { labeler, plc, relay } = network
  relay.fault({ method: 'com.atproto.sync.listRepos' }, { kind: 'status', status: 502 }, 1)
  const account = await network.account()
  await using ingester = startIngester({
    ...room.env,
    INGESTER_MODE: 'all',
    INGESTER_COLLECTIONS: 'app.bsky.feed.post',
    INGESTER_LABELER_HOSTS: labeler.url,
    INGESTER_VERIFY_UNAVAILABLE: 'wait',
  })
  const moved = new Set<string>()
  const look = async () => {
    for (const name of names) if ((await ingester.metric(`ingester_${name}`)) > 0) moved.add(name)
    return moved
  }
  const post = { text: 'a', createdAt: network.clock.iso() }
  const { rkey } = await account.create('app.bsky.feed.post', post)
  await account.update('app.bsky.feed.post', rkey, { ...post, text: 'b' })
  await account.delete('app.bsky.feed.post', rkey)
  await account.create('app.bsky.graph.follow', { subject: account.did, createdAt: post.createdAt })
  await labeler.label({ uri: account.did, val: 'spam' })
  await redis.xadd('firehose_backfill', '*', 'event', '{}')
  await room.caughtUp()
  // A frame whose key nobody has stays in memory.
  plc.fault({}, { kind: 'hang' })
  await network.account()
  // Told elsewhere: a repo of a list that is none (repo-list.test.ts), a socket that is not read (socket.test.ts).
  const elsewhere = ['backfill_cursor_skips_total', 'backpressure_active']
  const left = async () => names.filter((name) => !moved.has(name) && !elsewhere.includes(name))
  await expect.poll(() => look().then(left), patience).toEqual([])
})
