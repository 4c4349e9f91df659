import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeCbor, type IpldMap } from '../shared/repo/cbor.ts'
import { cidOf, parseCid } from '../shared/repo/cid.ts'
import { sharedFrames } from '../test/data.ts'
import { decodeFrame, FrameError, maxBlocksBytes, maxFrameBytes, maxOps } from './frame.ts'

const recorded = sharedFrames('firehose/jetstream-corpus/frames.bin')
const cid = parseCid(cidOf(encodeCbor({})))
const did = 'did:plc:44ybard66vv44zksje25o7dz'
const time = '2025-04-01T04:01:31.384Z'

const frame = (header: IpldMap, body: IpldMap) =>
  Buffer.concat([encodeCbor(header), encodeCbor(body)])
const aCommit = (more: IpldMap = {}): IpldMap => ({
  seq: 7,
  time,
  repo: did,
  rev: '3llpyftdf4h2r',
  since: null,
  commit: cid,
  blocks: new Uint8Array(1),
  ops: [{ action: 'create', path: 'app.bsky.feed.like/3llpyftcvih2r', cid }],
  ...more,
})
const commitFrame = (more: IpldMap = {}) => frame({ op: 1, t: '#commit' }, aCommit(more))

describe('frames', () => {
  test('every recorded frame is a commit with its position', () => {
    const messages = recorded.map(decodeFrame)
    expect(messages.every(({ type }) => type === 'commit')).toBe(true)
    expect(messages[0]).toMatchObject({ seq: 31527015322, rev: '3mptbypluud2a' })
  })

  test('what is cut, flipped or random is an error of the frame, never any other', () => {
    const broken = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.tuple(fc.nat(recorded.length - 1), fc.nat(), fc.nat(255)).map(([index, at, value]) => {
        const bytes = Uint8Array.from(recorded[index] ?? [])
        bytes[at % bytes.length] = value
        return bytes.subarray(0, value < 128 ? bytes.length : at % bytes.length)
      }),
    )
    fc.assert(
      fc.property(broken, (bytes) => {
        try {
          expect(decodeFrame(bytes).type).toBeTypeOf('string')
        } catch (error) {
          expect(error).toBeInstanceOf(FrameError)
        }
      }),
    )
  })

  test('a frame above the limit is an error of the frame', () => {
    expect(() => decodeFrame(new Uint8Array(maxFrameBytes + 1))).toThrow(FrameError)
  })

  test('an unknown kind or op is told by name, with its position where it has one', () => {
    const unknown = frame({ op: 1, t: '#tombstone' }, { seq: 5 })
    expect(decodeFrame(unknown)).toEqual({ type: 'unknown', what: 't', seq: 5 })
    expect(decodeFrame(frame({ op: 2 }, {}))).toEqual({ type: 'unknown', what: 'op', seq: null })
    expect(decodeFrame(frame({ op: 1, t: 'constructor' }, {}))).toMatchObject({ type: 'unknown' })
  })

  test('unknown and deprecated fields change nothing', () => {
    const more = { tooBig: true, rebase: true, blobs: [cid, 'x'], novelty: { a: 1 } }
    const read = (bytes: Uint8Array) => JSON.stringify({ ...decodeFrame(bytes), frame: null })
    expect(read(commitFrame(more))).toBe(read(commitFrame()))
  })

  test('an error frame is read', () => {
    const future = frame({ op: -1 }, { error: 'FutureCursor', message: 'Cursor in the future.' })
    expect(decodeFrame(future)).toEqual({
      type: 'error',
      error: 'FutureCursor',
      message: 'Cursor in the future.',
    })
  })

  test('statuses are lower case, an absent one is null', () => {
    const account = (more: IpldMap) =>
      decodeFrame(frame({ op: 1, t: '#account' }, { seq: 1, time, did, ...more }))
    expect(account({ active: false, status: 'Takendown' })).toMatchObject({ status: 'takendown' })
    expect(account({ active: true })).toMatchObject({ active: true, status: null })
  })

  test.each([
    ['seq', { seq: -1 }],
    ['seq', { seq: '7' }],
    ['time', { time: 'yesterday' }],
    ['repo', { repo: 'bob' }],
    ['rev', { rev: '0' }],
    ['commit', { commit: 'bafy' }],
    ['ops', { ops: [{ action: 'create', path: 'a/b', cid: null }] }],
    ['ops', { ops: [{ action: 'move', path: 'a/b', cid }] }],
    ['too-many-ops', { ops: Array.from({ length: maxOps + 1 }, () => ({})) }],
    ['blocks-too-large', { blocks: new Uint8Array(maxBlocksBytes + 1) }],
  ] satisfies [string, IpldMap][])('a commit with a wrong %s is malformed', (reason, more) => {
    expect(decodeFrame(commitFrame(more))).toMatchObject({ type: 'malformed', reason })
  })
})
