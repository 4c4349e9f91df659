/** The overlays in deploy/: one small machine, and Redis with Sentinel, whose failover the workers follow. */
import { expect, test } from 'vitest'
import { openDeployRoom } from './room.ts'

/** A Redis that comes back is told by Sentinel after ten seconds, and then reads all of the other. */
const patience = { timeout: 180_000 }

test('on a small machine one worker of each kind does all of it', async () => {
  await using room = await openDeployRoom('small', {
    files: ['deploy/compose.small.yml'],
    // As the overlay has it.
    env: { REDIS_MAXMEMORY: '', REDIS_MEM_LIMIT: '' },
  })
  const { compose, inspect } = room.stack
  const running = (await compose('ps', '--services', '--filter', 'status=running')).trim()
  expect(running.split('\n').sort()).toEqual(
    'backfiller1 indexer1 ingester pgbouncer1 pgbouncer2 postgres prometheus redis'.split(' '),
  )
  let memory = 0
  for (const service of running.split('\n')) memory += (await inspect(service)).HostConfig.Memory
  expect(memory).toBeLessThanOrEqual(8 * 2 ** 30)
  await room.life.progress()
  await room.life.settle()
})

test('the workers follow Redis through two failovers, there and back', async () => {
  await using room = await openDeployRoom('sentinel', {
    files: ['deploy/compose.sentinel.yml', 'test/deploy/sentinel.yml'],
    secrets: (password) => ({
      redis_url: `redis://:${password}@streams?sentinels=sentinel1,sentinel2,sentinel3`,
      redis_conf: `requirepass ${password}\nmasterauth ${password}`,
      sentinel_conf: `sentinel auth-pass streams ${password}`,
    }),
    sentinels: true,
  })
  const { stack, life } = room
  const { docker, container, redis } = stack
  /** Says which of the two the Sentinels hold for the master. */
  const master = async () => {
    const id = await container('sentinel1')
    const args = ['redis-cli', '-p', '26379', 'sentinel', 'get-master-addr-by-name', 'streams']
    return (await docker('exec', id, ...args)).split('\n')[0]
  }
  const replicated = () =>
    expect.poll(() => redis.info('replication'), patience).toMatch(/state=online/)
  await life.progress()
  expect(await master()).toBe('redis')
  await replicated()

  await docker('kill', await container('redis'))
  await expect.poll(master, patience).toBe('redis2')
  await life.progress()

  await docker('start', await container('redis'))
  await replicated()
  await docker('kill', await container('redis2'))
  await expect.poll(master, patience).toBe('redis')
  await life.progress()

  await docker('start', await container('redis2'))
  await replicated()
  await life.settle()
})
