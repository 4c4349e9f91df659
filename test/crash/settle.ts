/** After the crashes: everything is drained, and everything is accounted for. */
import { expect, vi } from 'vitest'
import { encodeRequest } from '../../shared/events.ts'
import { type LedgerBalance, ledgerBalance } from '../../shared/streams/ledger.ts'
import { cursorDone, deadLetterStream, streams, suspectsKey } from '../../shared/streams/names.ts'
import { compareWithModel, describeDifferences } from '../../simulator/model/compare.ts'
import { createModel } from '../../simulator/model.ts'
import type { Network } from '../../simulator/network.ts'
import { wishesAsked } from '../pipeline.ts'
import { groups, type Room, type StreamName, streamNames } from './room.ts'

const patience = { timeout: 180_000, interval: 200 }
/** What a dead letter has beside the fields of its entry. */
const letterFields = new Set([
  'reason',
  'attempts',
  'error',
  'entry',
  'stream',
  'group',
  'consumer',
  'failed_at',
  'first_failed_at',
  'host',
])

interface Letter {
  id: string
  entry: string
  reason: string
  error: string
  frame: string | undefined
  /** Those of its entry. */
  fields: string[]
}

/** Waits until all that the network said is applied, what it has now, and what died with its readers. */
export async function settle(room: Room): Promise<void> {
  const { network, redis } = room.pipeline
  await room.endLife()
  for (const did of activeRepos(network).keys()) {
    await redis.xadd(streams.requests, '*', ...encodeRequest({ did }))
  }
  do await drained(room)
  while ((await requeueCrashed(room)) > 0)
  const { sql } = room.pipeline
  // What batches that were cut off have left to the rules, and the handles.
  const left = async () => [...(await sql`select kind, key from bsky.reconcile`)]
  await vi.waitFor(async () => expect(await left()).toEqual([]), patience)
}

async function drained({ pipeline }: Room): Promise<void> {
  const { network, redis } = pipeline
  const { relay, labeler } = network
  const cursors = async () => ({
    live: Number(await redis.get(`${streams.live}:cursor:${relay.host}`)),
    labels: Number(await redis.get(`${streams.labels}:cursor:${labeler.host}`)),
    list: await redis.get(`${streams.requests}:cursor:${relay.host}`),
  })
  const read = { live: relay.lastSeq, labels: labeler.lastSeq, list: cursorDone }
  await vi.waitFor(async () => expect(await cursors()).toEqual(read), patience)
  // In this order: accounts that are back are asked for, and what was asked for is backfilled.
  for (const stream of [streams.live, streams.labels, streams.requests, streams.backfill]) {
    if (stream === streams.requests) await wishesAsked(pipeline.sql)
    const left = async () => {
      const ledger = await ledgerOf(pipeline.redis, stream)
      return { pending: ledger?.pending, lag: ledger?.lag }
    }
    await vi.waitFor(async () => expect(await left()).toEqual({ pending: 0, lag: 0 }), patience)
  }
}

function ledgerOf(redis: Room['pipeline']['redis'], stream: StreamName) {
  return ledgerBalance(redis, stream, groups[stream])
}

/**
 * An entry whose reader died three times while it was opened alone is taken for what killed it. Here
 * that was us, so what can be read is put back; tells how many were.
 */
async function requeueCrashed(room: Room): Promise<number> {
  const { redis } = room.pipeline
  let count = 0
  for (const stream of streamNames) {
    for (const letter of await lettersOf(room, stream)) {
      if (letter.reason !== 'crash' || room.poison[stream].has(letter.entry)) continue
      await redis
        .multi()
        .xadd(stream, '*', ...letter.fields)
        .xdel(deadLetterStream(stream), letter.id)
        .exec()
      room.requeued[stream] += 1
      count += 1
    }
  }
  return count
}

async function lettersOf({ pipeline }: Room, stream: StreamName): Promise<Letter[]> {
  const found = await pipeline.redis.xrange(deadLetterStream(stream), '-', '+')
  return found.map(([id, flat]) => {
    const pairs = flat.flatMap((name, at) => (at % 2 === 0 ? [[name, flat[at + 1] ?? '']] : []))
    const all = Object.fromEntries(pairs) as Record<string, string>
    return {
      id,
      entry: all['entry'] ?? '',
      reason: all['reason'] ?? '',
      error: all['error'] ?? '',
      frame: all['frame'],
      fields: pairs.filter(([name]) => !letterFields.has(String(name))).flat(),
    }
  })
}

/** Nothing is pending, no suspicion and no attempt is left over, and each ledger adds up. */
export async function expectBalance({
  pipeline,
}: Room): Promise<Record<StreamName, LedgerBalance>> {
  const { redis } = pipeline
  const ledgers: Partial<Record<StreamName, LedgerBalance>> = {}
  for (const stream of streamNames) {
    const ledger = await ledgerOf(redis, stream)
    expect(ledger, stream).toMatchObject({ balanced: true, pending: 0, lag: 0 })
    if (ledger !== null) ledgers[stream] = ledger
    expect(await redis.hgetall(suspectsKey(stream)), suspectsKey(stream)).toEqual({})
  }
  return ledgers as Record<StreamName, LedgerBalance>
}

/** Each dead letter is one that was made on purpose, each of those is there, and the ledger knows them. */
export async function expectDeadLetters(room: Room): Promise<void> {
  for (const stream of streamNames) {
    const letters = await lettersOf(room, stream)
    const frames = letters.filter(({ reason }) => reason === 'frame')
    const entries = letters.filter(({ reason }) => reason !== 'frame')
    // A frame is set aside again by a reader that died before it was past it.
    const broken = stream === streams.live ? room.broken : new Set()
    expect(new Set(frames.map(({ frame }) => frame)), stream).toEqual(broken)
    const made = ({ entry, reason }: Letter) =>
      room.poison[stream].has(entry) && (reason === 'invalid' || reason === 'crash')
    expect(
      entries.filter((letter) => !made(letter)),
      stream,
    ).toEqual([])
    expect(entries.map(({ entry }) => entry).sort(), stream).toEqual(
      [...room.poison[stream]].sort(),
    )

    const { dead } = (await ledgerOf(room.pipeline.redis, stream)) ?? { dead: {} }
    const crashed = entries.filter(({ reason }) => reason === 'crash').length
    expect({ crash: 0, invalid: 0, ...dead }, stream).toEqual({
      crash: crashed + room.requeued[stream],
      invalid: entries.length - crashed,
    })
  }
}

/** Every row of every table is that of the model, which knows nothing of crashes. */
export async function expectModel({ pipeline, heard }: Room): Promise<void> {
  const { network, sql } = pipeline
  const model = createModel(network, { heard, fetched: activeRepos(network) })
  expect(describeDifferences(await compareWithModel(sql, model))).toBe('')
}

/** By DID, with the rev that each has. */
function activeRepos(network: Network): Map<string, string> {
  const active = [...network.states()].filter(([, { active }]) => active)
  return new Map(active.map(([did, { rev }]) => [did, rev ?? '']))
}
