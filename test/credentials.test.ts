/** Credentials stay where they are: in the settings of a process, and in no text that it gives away. */
import { randomBytes } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { startPipeline } from './pipeline.ts'
import { testDatabase } from './servers/postgres.ts'
import { ownRedis } from './servers/redis.ts'

const patience = { timeout: 60_000, interval: 100 }

/** What any process of this machine was started with, whoever started it. */
async function argumentsOfAll(): Promise<string> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const read = pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''))
  return (await Promise.all(read)).join('\n')
}

test('no credential is in a log, an error, a metric or the arguments of any process', {
  timeout: 120_000,
}, async () => {
  await using redis = await ownRedis()
  await using database = await testDatabase()
  const secret = randomBytes(12).toString('hex')
  const admin = new Redis(redis.url)
  await admin.acl('SETUSER', 'worker', 'on', `>${secret}`, '~*', '&*', '+@all')
  const databaseSecret = new URL(database.url).password
  expect(databaseSecret.length).toBeGreaterThan(7)
  const url = redis.url.replace('redis://', `redis://worker:${secret}@`)
  await using pipeline = await startPipeline({ servers: { redis: { url }, postgres: database } })
  const workers = [
    await pipeline.start('ingester'),
    await pipeline.start('indexer'),
    await pipeline.start('backfiller'),
  ]
  for (const worker of workers) await worker.ready()
  const given = [await argumentsOfAll()]
  for (const { metricsUrl } of workers) {
    for (const path of ['/metrics', '/ready', '/health']) {
      given.push(await (await fetch(new URL(path, metricsUrl))).text())
    }
  }
  // From here on every one of them is refused.
  await admin.acl('DELUSER', 'worker')
  for (const { output } of workers) await expect.poll(output, patience).toContain('WRONGPASS')
  for (const worker of workers) await worker.stop()
  admin.disconnect()
  given.push(...workers.map(({ output }) => output()))
  expect(given[0]).toContain('main.ts')
  for (const text of given) {
    expect(text.includes(secret)).toBe(false)
    expect(text.includes(databaseSecret)).toBe(false)
  }
})
