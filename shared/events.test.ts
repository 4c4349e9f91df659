import { describe, expect, test } from 'vitest'
import entries from '../test/fixtures/entries.json' with { type: 'json' }
import { InvalidEventError } from './errors.ts'
import {
  decodeEvent,
  decodeLabels,
  decodeRequest,
  type Event,
  encodeEvent,
  encodeLabel,
  encodeRequest,
  isBackfill,
  timestamp,
  uriOf,
} from './events.ts'
import { encodeCbor, toLexJson } from './repo/cbor.ts'
import { cidOf, parseCid } from './repo/cid.ts'

const did = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const time = '2025-10-30T06:56:52.123Z'
const rev = '3m4fpx3kyqk2a'
const cid = 'bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq'
const commit = cid
const aLike: Event = {
  type: 'create',
  seq: 5,
  time,
  did,
  commit,
  rev,
  collection: 'app.bsky.feed.like',
  rkey: '3m4fpx3kx3s2a',
  cid,
  record: { zz: 1, a: { $link: cid } },
}

describe('reading', () => {
  test.each(entries)('$form', ({ fields, reads, backfill = false }) => {
    const event = decodeEvent(fields)
    expect(event).toEqual(reads)
    expect(isBackfill(event)).toBe(backfill)
  })

  test('the order of a record’s keys survives, and so does a key named __proto__', () => {
    const record = '{"zz":1,"a":{"y":1,"b":2},"__proto__":{"x":1}}'
    const wire = JSON.stringify({ ...aLike, record: 0 }).replace('"record":0', `"record":${record}`)
    const event = decodeEvent(['event', wire])
    expect(event.type === 'create' && JSON.stringify(event.record)).toBe(record)
    expect(encodeEvent(event)[1]).toContain(`"record":${record}`)
  })

  test.each([
    ['no event field', ['labels', '{}'], /no field "event" in the entry, only: labels/],
    ['no JSON', ['event', '{"type":'], /not JSON/],
    ['an array', ['event', '[]'], /not an object/],
    [
      'an unknown type',
      ['event', JSON.stringify({ ...aLike, type: 'sync' })],
      /unknown event type "sync"/,
    ],
    ['no did', ['event', JSON.stringify({ ...aLike, did: undefined })], /did is missing/],
    [
      'no DID in did',
      ['event', JSON.stringify({ ...aLike, did: 'alice' })],
      /did is not valid: "alice"/,
    ],
    [
      'a rev that is no TID',
      ['event', JSON.stringify({ ...aLike, rev: '17' })],
      /rev is not valid/,
    ],
    [
      'a bad collection',
      ['event', JSON.stringify({ ...aLike, collection: 'likes' })],
      /collection/,
    ],
    ['a bad rkey', ['event', JSON.stringify({ ...aLike, rkey: 'a/b' })], /rkey is not valid/],
    [
      'a record that is text',
      ['event', JSON.stringify({ ...aLike, record: 'x' })],
      /record is not an object/,
    ],
    ['a fraction in seq', ['event', JSON.stringify({ ...aLike, seq: 1.5 })], /seq/],
    ['no time', ['event', JSON.stringify({ ...aLike, time: 'soon' })], /not a time: "soon"/],
  ])('an entry with %s is refused in words', (_name, fields, message) => {
    expect(() => decodeEvent(fields)).toThrow(InvalidEventError)
    expect(() => decodeEvent(fields)).toThrow(message)
  })
})

describe('links and bytes that an older worker wrote as numbers', () => {
  const key = parseCid(cid)
  const record = { $type: 'a.b.c', subject: { cid: { $link: cid } }, sizes: [1, 2, 300] }
  const sent = (wire: unknown, ofCid: string) =>
    decodeEvent(['event', JSON.stringify({ ...aLike, record: wire, cid: ofCid })])

  test('a link is a link again, with or without its zero byte', () => {
    const recordCid = cidOf(
      encodeCbor({ $type: 'a.b.c', subject: { cid: key }, sizes: [1, 2, 300] }),
    )
    for (const bytes of [[...key.bytes], [0, ...key.bytes]]) {
      const event = sent({ ...record, subject: { cid: bytes } }, recordCid)
      expect(event).toMatchObject({ record })
    }
  })

  test('bytes are bytes again where the CID proves it, and numbers stay numbers where it does not', () => {
    const signed = { $type: 'a.b.c', key: Uint8Array.of(1, 2, 3) }
    const wire = { $type: 'a.b.c', key: [1, 2, 3] }
    expect(sent(wire, cidOf(encodeCbor(signed)))).toMatchObject({ record: toLexJson(signed) })
    expect(sent(wire, cidOf(encodeCbor(wire)))).toMatchObject({ record: wire })
    expect(sent(wire, cid)).toMatchObject({ record: wire })
  })
})

describe('writing', () => {
  test('a create has every key that the Rust reader requires, in the contract’s order', () => {
    expect(encodeEvent(aLike)).toEqual([
      'event',
      `{"type":"create","seq":5,"time":"${time}","did":"${did}","commit":"${cid}","rev":"${rev}",` +
        `"collection":"app.bsky.feed.like","rkey":"3m4fpx3kx3s2a","cid":"${cid}",` +
        `"record":{"zz":1,"a":{"$link":"${cid}"}}}`,
    ])
  })

  test('a delete has neither cid nor record', () => {
    const path = { collection: 'app.bsky.feed.like', rkey: 'a' }
    expect(encodeEvent({ type: 'delete', seq: 5, time, did, commit, rev, ...path })[1]).toBe(
      `{"type":"delete","seq":5,"time":"${time}","did":"${did}","commit":"${cid}","rev":"${rev}","collection":"app.bsky.feed.like","rkey":"a"}`,
    )
  })

  test('a status is written in lower case, and active always as a boolean', () => {
    const account = {
      type: 'account',
      seq: 1,
      time,
      did,
      active: false,
      status: 'Takendown',
    } as const
    expect(encodeEvent(account)[1]).toMatch(/"active":false,"status":"takendown"}$/)
    expect(encodeEvent({ ...account, active: true, status: null })[1]).toMatch(
      /"active":true,"status":null}$/,
    )
  })

  test('an identity without handle omits the key', () => {
    expect(encodeEvent({ type: 'identity', seq: 1, time, did })[1]).not.toContain('handle')
  })

  test('any time is written with milliseconds and Z', () => {
    expect(
      encodeEvent({ type: 'identity', seq: 1, time: '2025-10-30T08:56:52+02:00', did })[1],
    ).toContain('"time":"2025-10-30T06:56:52.000Z"')
  })

  test('what is written is read back the same', () => {
    const complete = {
      records: 2,
      scope: ['app.bsky.*', 'com.example.thing'],
      collections: { 'com.example.thing': 2 },
    }
    const events: Event[] = [
      aLike,
      { ...aLike, type: 'update' },
      { type: 'repo', seq: -1, time, did, commit, rev, complete },
      { type: 'repo', seq: -1, time, did, commit, rev },
      { type: 'account', seq: 3, time, did, active: false, status: 'deactivated' },
      { type: 'identity', seq: 4, time, did, handle: 'a.example.com' },
    ]
    for (const event of events) expect(decodeEvent(encodeEvent(event))).toEqual(event)
  })
})

describe('labels', () => {
  const label = {
    ver: 1,
    src: did,
    uri: `at://${did}/app.bsky.feed.post/a`,
    cid,
    val: 'spam',
    cts: time,
  }

  test('one entry carries both older forms, each as its reader wants it', () => {
    const [first, event, second, labels] = encodeLabel({ ...label, neg: true, exp: time }, 9)
    expect([first, second]).toEqual(['event', 'labels'])
    expect(JSON.parse(event ?? '')).toEqual({
      type: 'label',
      label: { ...label, neg: true, exp: time },
    })
    const { src, uri, val } = label
    const rust = { src, uri, cid, val, neg: true, cts: '2025-10-30 06:56:52.123 UTC' }
    expect(JSON.parse(labels ?? '')).toEqual({ seq: 9, labels: [rust] })
  })

  test('ours is read back whole, with its seq', () => {
    const decoded = decodeLabels(encodeLabel({ ...label, exp: time, sig: { $bytes: 'AQ' } }, 9))
    expect(decoded).toEqual({
      type: 'label',
      seq: 9,
      labels: [{ ...label, exp: time, sig: { $bytes: 'AQ' } }],
    })
  })

  test('an entry of the Rust ingester gives all its labels', () => {
    const rust = {
      src: did,
      uri: did,
      cid: null,
      val: 'a',
      neg: null,
      cts: '2025-10-30 06:56:52.123 UTC',
    }
    const wire = JSON.stringify({ seq: 27045591, labels: [rust, { ...rust, val: 'b', neg: true }] })
    const { seq, labels } = decodeLabels(['labels', wire])
    expect(seq).toBe(27045591)
    expect(labels.map(({ val, neg, cid }) => [val, neg, cid])).toEqual([
      ['a', undefined, undefined],
      ['b', true, undefined],
    ])
  })

  test('an entry of the TypeScript ingester has no seq', () => {
    const wire = JSON.stringify({ type: 'label', label })
    expect(decodeLabels(['event', wire])).toEqual({ type: 'label', seq: null, labels: [label] })
  })

  test.each([
    ['neither field', ['x', '1']],
    ['no label in event', ['event', '{"type":"label"}']],
    ['another event', ['event', '{"type":"create"}']],
    ['no labels', ['labels', '{"seq":1}']],
    ['no cts', ['event', JSON.stringify({ type: 'label', label: { ...label, cts: '' } })]],
  ])('an entry with %s is refused', (_name, fields) => {
    expect(() => decodeLabels(fields)).toThrow(InvalidEventError)
  })
})

describe('backfill requests', () => {
  test('a request by hand may hold the DID alone', () => {
    expect(decodeRequest(['repo', JSON.stringify({ did })])).toEqual({
      did,
      status: null,
      active: true,
    })
  })

  test('an older worker’s request is read, and ours is written in its shape', () => {
    const wire = `{"did":"${did}","host":"https://relay.example","rev":"${rev}","status":null,"active":true}`
    const request = decodeRequest(['repo', wire])
    expect(request).toMatchObject({ did, host: 'https://relay.example', rev })
    expect(encodeRequest(request)).toEqual(['repo', wire])
  })

  test('what only we add is read back', () => {
    const request = { did, status: null, active: true, reason: 'resync', notBefore: time } as const
    expect(decodeRequest(encodeRequest(request))).toEqual(request)
  })

  test('a request without a DID is refused', () => {
    expect(() => decodeRequest(['repo', '{}'])).toThrow(/did is missing/)
  })
})

test.each([
  ['2025-10-30T06:56:52Z', '2025-10-30T06:56:52.000Z'],
  ['2025-10-30T06:56:52.1234567Z', '2025-10-30T06:56:52.123Z'],
  ['2025-10-30T06:56:52.5-07:30', '2025-10-30T14:26:52.500Z'],
  ['2025-10-30 06:56:52.123 UTC', '2025-10-30T06:56:52.123Z'],
])('the time %s is %s', (given, expected) => {
  expect(timestamp(given)).toBe(expected)
})

test('property: a time in our form stays as it is, and a day that is not is none', () => {
  for (let day = 0; day < 4 * 366; day++) {
    const time = new Date(Date.UTC(2023, 11, 25 + day, day % 24, day % 60, day % 59)).toISOString()
    expect(timestamp(time)).toBe(time)
  }
  expect(timestamp('2026-02-28T23:59:59.999Z')).toBe('2026-02-28T23:59:59.999Z')
  for (const wrong of ['2026-13-01', '2026-00-10', '2026-01-32', '2026-01-00']) {
    expect(() => timestamp(`${wrong}T00:00:00.000Z`)).toThrow(/no such time/)
  }
  expect(() => timestamp('2026-01-01T25:00:00.000Z')).toThrow(/no such time/)
})

test('a uri is made of did, collection and rkey', () => {
  if (aLike.type !== 'create') throw new Error('the builder makes a create')
  expect(uriOf(aLike)).toBe(`at://${did}/app.bsky.feed.like/3m4fpx3kx3s2a`)
})
