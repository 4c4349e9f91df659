/** Two backfillers and a thousand hosts, a third of them slow, silent, failing or lying: nobody waits for them. */
import { expect, test, vi } from 'vitest'
import { encodeRequest } from '../shared/events.ts'
import { type Manner, startManyHosts } from '../simulator/many-hosts.ts'
import { startRoom } from '../test/backfiller-room.ts'

const hosts = 1_000
const accounts = 2_000
const bad: Manner[] = ['slow', 'silent', 'failing', 'lying']
const mannerOf = (host: number): Manner =>
  host % 3 === 0 ? (bad[(host / 3) % bad.length] ?? 'slow') : 'good'

test('repos of good hosts are done, each once, while a third of a thousand hosts is slow, silent, failing or lying', async () => {
  await using room = await startRoom()
  await using many = await startManyHosts({ hosts, accounts, mannerOf })
  const both = [
    await room.start({ PLC_URL: many.url }),
    await room.start({ PLC_URL: many.url, BACKFILLER_CONSUMER: 'backfiller2' }),
  ]
  const all = Array.from({ length: accounts }, (_, account) => account)
  const of = (manner: Manner) => all.filter((one) => mannerOf(many.hostOf(one)) === manner)
  const pipeline = room.redis.pipeline()
  for (const account of all) {
    pipeline.xadd('repo_backfill', '*', ...encodeRequest({ did: many.didOf(account) }))
  }
  await pipeline.exec()
  const each = (name: string) => Promise.all(both.map((one) => one.metric(`backfiller_${name}`)))
  const metric = async (name: string) => (await each(name)).reduce((sum, count) => sum + count)
  const done = () => metric('repos_processed_total')
  const patience = { timeout: 170_000, interval: 100 }
  await vi.waitFor(async () => expect(await done()).toBe(of('good').length), patience)
  const complete = (await room.events()).filter(({ type }) => type === 'repo').map(({ did }) => did)
  expect(complete.sort()).toEqual(of('good').map(many.didOf).sort())
  expect(Math.min(...(await each('repos_processed_total')))).toBeGreaterThan(0)
  // Those that never answer, or by drops, are in hand or in the queue, and nobody waited for them.
  const left = of('slow').length + of('silent').length
  expect(await room.redis.xlen('repo_backfill')).toBeGreaterThanOrEqual(left)
  const reasons = new Set((await room.deadLetters()).map(({ reason }) => reason))
  expect(reasons).toContain('wrong-did')
  expect(await metric('requests_requeued_total')).toBeGreaterThan(0)
}, 180_000)
