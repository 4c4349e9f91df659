import { describe, expect, test } from 'vitest'
import { parseCar, writeCar } from '../shared/repo/car.ts'
import { encodeCbor } from '../shared/repo/cbor.ts'
import { cidOf, parseCid } from '../shared/repo/cid.ts'
import { sharedFrames } from '../test/data.ts'
import { eventsOf, openMessage, proveOps, RefusedError } from './commit.ts'
import { type CommitMessage, decodeFrame } from './frame.ts'

const now = Date.parse('2026-07-04T14:39:00Z')
const commits = (path: string): CommitMessage[] =>
  sharedFrames(`firehose/${path}`)
    .map(decodeFrame)
    .filter((message) => message.type === 'commit')
const recorded = commits('jetstream-corpus/frames.bin')
const everything = () => true

/** The first recorded commit with an op of this kind. */
function aCommit(action: 'create' | 'update' | 'delete'): CommitMessage {
  const found = recorded.find(({ ops }) => ops.length === 1 && ops[0]?.action === action)
  if (found === undefined) throw new Error(`no ${action} among the recorded frames`)
  return found
}

function aCreate(cid: string) {
  const path = 'app.bsky.feed.like/3llpyftcvih2r'
  return { action: 'create' as const, path, cid: parseCid(cid), prev: null }
}

/** The same message with some blocks changed. */
function withBlocks(
  message: CommitMessage,
  change: (blocks: { cid: string; bytes: Uint8Array }[]) => { cid: string; bytes: Uint8Array }[],
): CommitMessage {
  const { roots, blocks } = parseCar(message.blocks)
  const list = [...blocks].map(([cid, bytes]) => ({ cid, bytes }))
  return { ...message, blocks: writeCar(roots, change(list)) }
}

/** The reason for which a message is refused; null when it is not. */
function refusal(message: CommitMessage, at = now): string | null {
  try {
    proveOps(message, openMessage(message, at))
    return null
  } catch (error) {
    if (error instanceof RefusedError) return error.reason
    throw error
  }
}

describe('proofs of commits', () => {
  test('every recorded commit is proven', () => {
    const proofs = recorded.map((message) => proveOps(message, openMessage(message, now)))
    expect(new Set(proofs)).toEqual(new Set(['proven']))
  })

  test('commits from before sync 1.1 are accepted, and marked unproven', () => {
    const legacy = [
      ...commits('indigo-commits/frames.bin'),
      ...commits('indigo-relay-scenarios/deactivation.frames.bin'),
    ]
    const proofs = legacy.map((message) => proveOps(message, openMessage(message, now)))
    expect(proofs).toEqual(Array.from({ length: 8 }, () => 'unproven'))
  })

  test('a block that is not what its CID says is refused', () => {
    const message = aCommit('create')
    const bytes = Uint8Array.from(message.blocks)
    const last = bytes.length - 1
    bytes[last] = (bytes[last] ?? 0) ^ 1
    expect(refusal({ ...message, blocks: bytes })).toBe('block-hash')
  })

  test('blocks that need not be checked are taken as they are', () => {
    const message = aCommit('create')
    const root = message.commit.toString()
    const spoiled = withBlocks(message, (blocks) =>
      blocks.map(({ cid, bytes }) => ({ cid, bytes: cid === root ? bytes : encodeCbor({}) })),
    )
    expect(refusal(spoiled)).toBe('block-hash')
    const { signed, blocks } = openMessage(spoiled, now, false)
    expect(signed.rev).toBe(message.rev)
    const [op] = message.ops
    expect([...blocks.keys()].sort()).toEqual([root, `${op?.cid}`].sort())
    expect(Buffer.compare(blocks.get(`${op?.cid}`) ?? spoiled.blocks, encodeCbor({}))).toBe(0)
  })

  test('blocks cut short are refused', () => {
    const message = aCommit('create')
    expect(refusal({ ...message, blocks: message.blocks.subarray(0, -1) })).toBe('car')
  })

  test('a commit of another account, rev or CID than the message names is refused', () => {
    const message = aCommit('create')
    expect(refusal({ ...message, did: 'did:plc:44ybard66vv44zksje25o7dz' })).toBe('did')
    expect(refusal({ ...message, rev: '3llpyftdf4h2r' })).toBe('rev')
    expect(refusal({ ...message, commit: parseCid(cidOf(encodeCbor({}))) })).toBe('cid')
  })

  test('blocks without the commit are refused', () => {
    const message = aCommit('create')
    const root = message.commit.toString()
    const without = withBlocks(message, (blocks) => blocks.filter(({ cid }) => cid !== root))
    expect(refusal(without)).toBe('root')
  })

  test('a rev more than five minutes ahead of both clocks is refused, one that the relay saw is not', () => {
    const message = aCommit('create')
    const hourBefore = now - 3_600_000
    expect(refusal(message, hourBefore)).toBe(null)
    const seenThen = { ...message, time: new Date(hourBefore).toISOString() }
    expect(refusal(seenThen, hourBefore)).toBe('rev-ahead')
    expect(refusal(seenThen, now)).toBe(null)
  })

  test('an op with a prev that the tree does not bear out is refused', () => {
    const message = aCommit('delete')
    const ops = message.ops.map((op) => ({ ...op, prev: parseCid(cidOf(encodeCbor({}))) }))
    expect(refusal({ ...message, ops })).toBe('prev-data')
    const without = message.ops.map((op) => ({ ...op, prev: null }))
    expect(refusal({ ...message, ops: without })).toBe('op')
  })

  test('ops that the tree does not hold are refused', () => {
    const message = aCommit('create')
    const cid = parseCid(cidOf(encodeCbor({ forged: true })))
    expect(refusal({ ...message, ops: message.ops.map((op) => ({ ...op, cid })) })).toBe('op')
    const legacy = { ...message, prevData: null }
    expect(refusal({ ...legacy, ops: message.ops.map((op) => ({ ...op, cid })) })).toBe('op')
  })

  test('without prevData too an op is refused that the tree does not show', () => {
    const message = { ...aCommit('create'), prevData: null }
    const root = openMessage(message, now).signed.data.toString()
    const forged = encodeCbor({ forged: true })
    const cid = parseCid(cidOf(forged))
    const without = withBlocks(message, (blocks) => [
      ...blocks.filter(({ cid }) => cid !== root),
      { cid: cidOf(forged), bytes: forged },
    ])
    const path = message.ops[0]?.path ?? ''
    const create = { action: 'create' as const, path, cid, prev: null }
    const remove = { action: 'delete' as const, path, cid: null, prev: null }
    expect(refusal({ ...without, ops: [create] })).toBe('tree-blocks')
    expect(refusal({ ...without, ops: [remove] })).toBe('tree-blocks')
    expect(refusal({ ...message, ops: [remove] })).toBe('op')
    expect(refusal({ ...message, ops: [create] })).toBe('op')
    expect(refusal({ ...message, ops: [...message.ops, ...message.ops] })).toBe('op')
  })

  test('an op that was left out, or a wrong prevData, is refused', () => {
    const message = aCommit('create')
    expect(refusal({ ...message, ops: [] })).toBe('prev-data')
    expect(refusal({ ...message, prevData: message.commit })).toBe('prev-data')
  })

  test('a tree without the nodes of its proof is refused', () => {
    const message = aCommit('create')
    const { signed } = openMessage(message, now)
    const root = signed.data.toString()
    const without = withBlocks(message, (blocks) => blocks.filter(({ cid }) => cid !== root))
    expect(refusal(without)).toBe('tree-blocks')
  })

  test('a commit without ops is legal', () => {
    const message = aCommit('create')
    const { signed } = openMessage(message, now)
    expect(refusal({ ...message, ops: [], prevData: signed.data })).toBe(null)
  })
})

describe('events of commits', () => {
  const events = (message: CommitMessage) =>
    eventsOf(message, openMessage(message, now).blocks, everything)

  test('a bad collection or rkey drops that op only', () => {
    const message = aCommit('create')
    const paths = ['nonsense/3llpyftcvih2r', 'app.bsky.feed.like/..', 'app.bsky.feed.like', 'a/b/c']
    const bad = paths.map((path) => ({ action: 'delete' as const, path, cid: null, prev: null }))
    const { events: made, dropped } = events({ ...message, ops: [...bad, ...message.ops] })
    expect(dropped).toEqual(['path', 'path', 'path', 'path'])
    expect(made).toHaveLength(1)
  })

  test('a record that is none drops that op only', () => {
    const message = aCommit('create')
    const list = encodeCbor([1])
    const withList = withBlocks(message, (blocks) => [...blocks, { cid: cidOf(list), bytes: list }])
    const { events: made, dropped } = events({
      ...withList,
      ops: [aCreate(cidOf(list)), ...message.ops],
    })
    expect(dropped).toEqual(['record'])
    expect(made).toHaveLength(1)
  })

  test('a commit in scope whose record was kept back is refused whole', () => {
    const message = aCommit('create')
    const ops = [...message.ops, aCreate(cidOf(encodeCbor({ absent: true })))]
    expect(() => events({ ...message, ops })).toThrow('a record that did not come')
    const { blocks } = openMessage(message, now)
    expect(eventsOf({ ...message, ops }, blocks, () => false).filtered).toBe(ops.length)
  })

  test('ops out of scope are counted and left out', () => {
    const message = aCommit('create')
    const { blocks } = openMessage(message, now)
    expect(eventsOf(message, blocks, () => false)).toEqual({
      events: [],
      filtered: message.ops.length,
      dropped: [],
    })
  })

  test('an rkey of 512 characters is one, of 513 is none', () => {
    const message = aCommit('delete')
    const ops = [512, 513].map((length) => ({
      action: 'delete' as const,
      path: `app.bsky.feed.like/${'a'.repeat(length)}`,
      cid: null,
      prev: null,
    }))
    const { events: made, dropped } = events({ ...message, ops })
    expect([made.length, dropped.length]).toEqual([1, 1])
  })
})
