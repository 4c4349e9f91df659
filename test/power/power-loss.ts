/** The power fails under Redis and Postgres: what was not synced is gone, and the rows come out the same. */
import { chmod, mkdir, open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { streams } from '../../shared/streams/names.ts'
import { compareIds, readState } from '../../shared/streams/state.ts'
import { type LivingRoom, openLivingRoom } from '../living-room.ts'
import { type LossyDisk, lossyDisk } from '../servers/disk.ts'
import { type OwnPostgres, ownPostgres } from '../servers/postgres.ts'
import { type OwnRedis, ownRedis } from '../servers/redis.ts'

vi.setConfig({ testTimeout: 240_000, hookTimeout: 120_000 })

test('a disk without power keeps what was synced, and nothing else', async () => {
  await using disk = await lossyDisk({ megabytes: 32 })
  const write = async (name: string, sync: boolean) => {
    const file = await open(join(disk.path, name), 'w')
    await file.write('all of it')
    if (sync) await file.sync()
    await file.close()
  }
  await write('synced', true)
  await write('not synced', false)
  await disk.cutPower()
  expect(await readFile(join(disk.path, 'synced'), 'utf8')).toBe('all of it')
  await expect(readFile(join(disk.path, 'not synced'))).rejects.toThrow('ENOENT')
})

describe('under a living network', () => {
  let resources: AsyncDisposableStack
  beforeEach(() => {
    resources = new AsyncDisposableStack()
  })
  afterEach(() => resources.disposeAsync())

  interface Machine {
    redisDisk: LossyDisk
    redis: OwnRedis
    postgresDisk: LossyDisk
    database: OwnPostgres
    room: LivingRoom
  }

  async function startMachine(synchronousCommit: 'on' | 'off', appendfsync: string) {
    const redisDisk = resources.use(await lossyDisk({ megabytes: 64 }))
    const postgresDisk = resources.use(await lossyDisk({ megabytes: 512 }))
    const redisDir = await folderOn(redisDisk)
    const postgresDir = await folderOn(postgresDisk)
    const args = ['--appendfsync', appendfsync]
    const redis = resources.use(await ownRedis({ dir: redisDir, args }))
    const database = resources.use(
      await ownPostgres({
        dir: postgresDir,
        settings: { synchronous_commit: synchronousCommit, wal_writer_delay: '10s' },
      }),
    )
    // The machine has been up for a while.
    await redisDisk.sync()
    await postgresDisk.sync()
    const servers = { redis, postgres: database }
    const room = resources.use(await openLivingRoom({ seed: 'power', rate: 30, servers }))
    return { redisDisk, redis, postgresDisk, database, room }
  }

  /** The newest entry of the live stream and the number of rows, as they are in memory now. */
  async function inMemory({ room }: Machine) {
    const { lastId } = await readState(room.pipeline.redis, streams.live)
    const [row] = await room.pipeline.sql<{ rows: number }[]>`
      select count(*)::int as rows from record`
    return { lastId, rows: row?.rows ?? 0 }
  }

  async function cutRedis({ redis, redisDisk }: Machine) {
    await redis.kill()
    await redisDisk.cutPower()
    await redis.start()
  }

  async function cutPostgres({ database, postgresDisk }: Machine) {
    await database.kill()
    await postgresDisk.cutPower()
    await database.start()
  }

  test('Redis loses its last entries, cursor and acknowledgements: they are made again', async () => {
    // Never synced by itself: the loss is certain, and as long as the test wants it.
    const machine = await startMachine('on', 'no')
    const { room } = machine
    await room.progress()
    await room.pipeline.redis.config('SET', 'appendfsync', 'always')
    await room.progress()
    await room.pipeline.redis.config('SET', 'appendfsync', 'no')
    await room.progress()
    await room.progress()
    const before = await inMemory(machine)
    await cutRedis(machine)
    const after = await inMemory(machine)
    expect(compareIds(after.lastId, before.lastId)).toBeLessThan(0)
    await room.progress()
    expect(room.workers[2]?.output()).toContain('redis has gone back')
    await room.settle()
  })

  test('Postgres loses nothing that it has committed', async () => {
    const machine = await startMachine('on', 'everysec')
    const { room } = machine
    for (let cut = 0; cut < 3; cut += 1) {
      await room.progress()
      const before = await inMemory(machine)
      await cutPostgres(machine)
      expect((await inMemory(machine)).rows).toBeGreaterThanOrEqual(before.rows)
    }
    await room.progress()
    await room.settle()
  })

  test('both lose their power at once, again and again', async () => {
    const machine = await startMachine('on', 'everysec')
    for (let cut = 0; cut < 3; cut += 1) {
      await machine.room.progress()
      await Promise.all([cutRedis(machine), cutPostgres(machine)])
    }
    await machine.room.progress()
    await machine.room.settle()
  })

  test('with synchronous_commit off Postgres does lose what Redis knows to be acknowledged', async () => {
    const machine = await startMachine('off', 'everysec')
    const { room } = machine
    await room.progress()
    await room.pipeline.sql`checkpoint`
    await room.progress()
    await room.progress()
    const before = await inMemory(machine)
    await cutPostgres(machine)
    expect((await inMemory(machine)).rows).toBeLessThan(before.rows)
  })

  async function folderOn(disk: LossyDisk): Promise<string> {
    const folder = join(disk.path, 'data')
    await mkdir(folder)
    await chmod(folder, 0o755)
    return folder
  }
})
