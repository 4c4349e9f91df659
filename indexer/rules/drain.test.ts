/** What a batch leaves to the rules is done, whoever has left it. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { aPost, aReply, did, type TestIndexer, tables, testIndexer, uri } from '../testing.ts'
import { createDrain } from './drain.ts'

const root = aPost({ by: did('ann'), rev: 1 })
const replies = Array.from({ length: 150 }, (_, n) =>
  aReply({ by: did(`r${n}`), rev: 2, to: root }),
)

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())
beforeEach(() =>
  indexer.sql.unsafe(`truncate ${tables.map((name) => `"${name}"`).join(', ')}, reconcile`),
)

const misplaced = async () => {
  const [row] = await indexer.sql.unsafe('select count(*) from post where "invalidReplyRoot"')
  return Number(row?.['count'])
}
const keys = () => indexer.sql.unsafe('select kind from reconcile')
const loop = () => createDrain({ ...indexer.options, probe: async () => {} })

test('what is there at the start is done, by several at once', async () => {
  await indexer.apply(replies)
  await indexer.applyWith({})([root])
  expect(await keys()).toHaveLength(1)
  expect(await misplaced()).toBe(150)
  const stopping = new AbortController()
  const running = [loop().run(stopping.signal), loop().run(stopping.signal)]
  await expect.poll(misplaced, { interval: 5 }).toBe(0)
  await expect.poll(keys, { interval: 5 }).toEqual([])
  stopping.abort()
  await Promise.all(running)
})

test('what comes later is done when somebody says so, long before the next look', async () => {
  const stopping = new AbortController()
  const drain = loop()
  const running = drain.run(stopping.signal)
  await indexer.applyWith({})(replies)
  const { left } = await indexer.applyWith({})([root])
  drain.take(left)
  await expect.poll(misplaced, { interval: 5 }).toBe(0)
  stopping.abort()
  await running
})

test.each(['reconcile-begun', 'reconcile-locked', 'reconcile-read', 'reconciled'] as const)(
  'a batch whose reconciliation fails when it has %s is whole in the end',
  async (point) => {
    const reply = aReply({ by: did('ben'), rev: 2, to: root })
    await indexer.apply([reply])
    const failing = indexer.applyWith({
      probe: async (at) => {
        if (at === point) throw new Error('cut off')
      },
    })
    await expect(failing([root])).rejects.toThrow('cut off')
    expect(await keys()).toEqual([{ kind: 'post' }])
    // It is delivered again, and stale; what it left is done by whoever looks.
    expect((await indexer.apply([root])).outcomes).toEqual(['stale'])
    await indexer.settle()
    expect(await misplaced()).toBe(0)
    expect(await indexer.sql.unsafe('select did, "reasonSubject" from notification')).toEqual([
      { did: root.did, reasonSubject: uri(root) },
    ])
  },
)
