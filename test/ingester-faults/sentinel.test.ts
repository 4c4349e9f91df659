/** A failover by Sentinel under a living ingester: what the new master lacks is read again. */
import { expect, test } from 'vitest'
import { startSentinels } from '../servers/sentinel.ts'
import { type FaultRoom, openFaultRoom, patience } from './room.ts'

test('a failover to a replica that lacks the last entries loses nothing', {
  timeout: 120_000,
}, async () => {
  await using sentinels = await startSentinels(['--appendfsync', 'always'])
  const { first, second } = sentinels
  await using room = await openFaultRoom({ redisUrl: sentinels.url, network: { seed: 'failover' } })
  const ingester = room.start()
  let lost = 0
  await room.liveDuring(async () => {
    await room.progress()
    // The replica hears no more: what is durable from now on dies with the master.
    second.pause()
    await room.redis.call('CLIENT', 'KILL', 'TYPE', 'replica')
    const behind = await room.cursor()
    await room.progress()
    lost = (await room.cursor()) - behind
    await first.kill()
    second.resume()
    await sentinels.agreed(second)
    await room.progress()
    // The old master comes back, and is told that it is a replica now.
    await first.start()
    await replicated(room)
  })
  expect(lost).toBeGreaterThan(0)
  expect(await room.judge()).toEqual([])
  expect(await ingester.metric('ingester_stream_rewound_total')).toBe(1)
})

test('a master that hangs until another is chosen is left when it goes on', {
  timeout: 120_000,
}, async () => {
  await using sentinels = await startSentinels()
  const { first, second } = sentinels
  await using room = await openFaultRoom({ redisUrl: sentinels.url, network: { seed: 'hang' } })
  room.start()
  await room.liveDuring(async () => {
    await room.progress()
    first.pause()
    await sentinels.agreed(second)
    first.resume()
    await replicated(room)
    await room.progress()
  })
  expect(await room.judge()).toEqual([])
})

/** Resolves when the master of now has its replica again. */
async function replicated({ redis }: FaultRoom): Promise<void> {
  const state = () => redis.info('replication').catch(String)
  await expect.poll(state, patience).toMatch(/role:master[\s\S]*state=online/)
}
